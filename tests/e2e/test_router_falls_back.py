"""Fallbacks: another model serves, at its own price, where it may and is not too dear."""

import asyncio
import json

import pytest
from support.gateways import started
from support.priced import balance, check_books, give_micros, prove, table
from support.raw_upstream import EVENTS, chunked, upstream
from support.relays import STREAMS
from support.routed import (
    PATHS,
    WHOLE,
    asked,
    idle,
    key_of,
    model,
    place,
    routed,
    tried,
)
from support.wires import http_answer, run, until

from server.config.schema import UsageLimits
from server.tenants import keys

FAIL = http_answer(500, {"error": {"message": "its own words"}})
DEAR = 'price: {input: "40", output: "200"}'
STREAM = [EVENTS, chunked(STREAMS["anthropic"])]
CHEAP = 'price: {input: "0.4", output: "2"}'


def _falling_back(first, second, paid):
    return routed(
        [place("one", first.url), place("two", second.url)],
        [model("smart", "one", fallback="other"), model("other", "two", paid=paid)],
        max_attempts=2,
    )


@pytest.mark.parametrize("paid", [DEAR, CHEAP])
def test_a_fallback_is_held_for_told_and_charged_at_its_own_price(tmp_path, paid):
    async def scenario():
        go = asyncio.Event()
        async with (
            upstream(FAIL) as first,
            upstream([go, *STREAM]) as second,
            started(tmp_path, _falling_back(first, second, paid)) as gateway,
            gateway.client() as client,
        ):
            ask = asked(stream=True)
            asking = asyncio.create_task(client.post(PATHS["anthropic"], json=ask))

            async def has_moved():
                return second.requests

            await until(has_moved)
            (during,) = check_books(tmp_path, is_idle=False)
            go.set()
            reply = await asking
            await idle(gateway)
            return reply, during, json.loads(second.requests[0][1])

    reply, during, sent = run(scenario)

    assert (reply.status_code, reply.content) == (200, STREAMS["anthropic"])
    assert sent["model"] == "two-model"
    assert (during["state"], during["model"], during["upstream"]) == ("open", "other", "two")
    rate = {DEAR: 200, CHEAP: 2}[paid]
    assert 300 * rate <= during["held_micros"] <= 300 * rate * 2
    (row,) = check_books(tmp_path)
    names = ("requested_model", "model", "upstream", "upstream_model")
    assert [row[name] for name in names] == ["smart", "other", "two", "two-model"]
    prices = {each["id"]: each["model"] for each in table(tmp_path, "SELECT id, model FROM price")}
    assert prices[row["price_id"]] == "other"
    assert tried(row) == [("one", 1, "upstream_error"), ("two", 1, None)]
    assert row["cost_micros"] > 0
    prove(tmp_path)


@pytest.mark.parametrize("why", ["too dear", "not allowed"])
def test_a_fallback_out_of_reach_leaves_the_first_error_and_costs_nothing(tmp_path, why):
    async def scenario():
        paid = DEAR if why == "too dear" else 'price: {input: "1", output: "1"}'
        limited = UsageLimits(models=("smart",)) if why == "not allowed" else UsageLimits()
        async with (
            upstream(FAIL) as first,
            upstream([WHOLE["anthropic"]]) as second,
            started(tmp_path, _falling_back(first, second, paid), usd=0) as gateway,
        ):
            await give_micros(gateway, 20_000)  # 6,000 and some are held for the first place
            _, secret = await gateway.mint(limited=limited)
            async with gateway.client(secret) as client:
                reply = await client.post(PATHS["anthropic"], json=asked())
            await idle(gateway)
            return reply, len(first.requests), len(second.requests), await balance(gateway)

    reply, *calls, left = run(scenario)

    assert (reply.status_code, reply.json()["error"]["type"]) == (502, "api_error")
    assert calls == [2, 0]
    assert (left.balance_micros, left.held_micros) == (20_000, 0)
    (row,) = check_books(tmp_path)
    assert (row["model"], row["upstream"], row["cost_micros"]) == ("smart", "one", 0)
    assert [where for where, *_ in tried(row)] == ["one", "one"]
    assert key_of("one") not in reply.text + row["attempts"]
    prove(tmp_path)


def test_a_fallback_uses_the_quota_of_a_subscription(tmp_path):
    async def scenario():
        async with (
            upstream(FAIL) as first,
            upstream(STREAM) as second,
            started(tmp_path, _falling_back(first, second, DEAR), usd=0) as gateway,
        ):
            _, secret = await gateway.mint(billing=keys.Billing.SUBSCRIPTION)
            async with gateway.client(secret) as client:
                path = "/claudecode" + PATHS["anthropic"]
                reply = await client.post(path, json=asked(stream=True))
            await idle(gateway)
            return reply

    reply = run(scenario)

    assert (reply.status_code, reply.content) == (200, STREAMS["anthropic"])
    (row,) = check_books(tmp_path)
    assert (row["model"], row["cost_micros"]) == ("other", 0)
    assert row["quota_tokens"] > 0
    prove(tmp_path)
