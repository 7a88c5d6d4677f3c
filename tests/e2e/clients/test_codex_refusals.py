"""What a person sees in a real codex when the gateway or the provider says no."""

import asyncio
from dataclasses import dataclass

import pytest
from support.clients import codex
from support.gateways import started
from support.stages import crossed, upstream
from support.tee import tee
from support.wires import run

from server.tenants.keys import Billing

pytestmark = pytest.mark.clients

TRIES = 6  # whatever `x-should-retry` says
UNPAID, UNKNOWN = "demo-smart", "no-such-model"
SERVED = (UNPAID, "fault:ratelimit:1", "fault:toolong", "fault:cut")


@dataclass(frozen=True)
class Heard:
    """All that codex said on a model, how often it asked, and the rows of that."""

    said: str
    requests: int
    rows: list[dict]


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Run codex on each model at once, for it takes some seconds over what it tries again."""
    base = tmp_path_factory.mktemp("refused")

    async def ask(gateway, home, model, secret):
        async with tee(gateway.url) as front:
            done = await codex(home, f"{front.url}/codex/v1", secret, model=model).run()
        assert done.code == 1
        assert "gwk_" not in done.said
        return done.said, len(front.requests)

    async def scenario():
        async with (
            upstream() as provider,
            started(base, crossed(provider, "openai", SERVED), usd=0) as gateway,
        ):
            _, subscribed = await gateway.mint(billing=Billing.SUBSCRIPTION)
            asked = {
                model: ask(
                    gateway,
                    base / f"home{number}",
                    model,
                    gateway.secret if model == UNPAID else subscribed,
                )
                for number, model in enumerate((*SERVED, UNKNOWN))
            }
            told = zip(asked, await asyncio.gather(*asked.values()), strict=True)
            rows = await gateway.rows()
        return {
            model: Heard(*each, [row for row in rows if row["requested_model"] == model])
            for model, each in told
        }

    return run(scenario)


def test_an_empty_balance_is_told_in_our_words(heard):
    found = heard[UNPAID]

    assert "402 Payment Required: Insufficient balance: this request needs $0." in found.said
    assert "and $0.00 is available. Top up" in found.said
    assert (found.requests, found.rows) == (TRIES, [])


def test_a_rate_limit_is_waited_for_and_then_told_with_the_requests_id(heard):
    """The provider's words are passed on, but codex hides those of every 429."""
    found = heard["fault:ratelimit:1"]

    told = "exceeded retry limit, last status: 429 Too Many Requests, request id: "
    assert told + found.rows[-1]["request_id"] in found.said
    assert found.requests == len(found.rows) == TRIES
    assert {(row["status"], row["error"]) for row in found.rows} == {(429, "rate_limited")}


def test_an_unknown_model_ends_at_once_in_our_words(heard):
    found = heard[UNKNOWN]

    assert f'ERROR: There is no model "{UNKNOWN}".' in found.said
    assert (found.requests, found.rows) == (1, [])


def test_a_prompt_that_is_too_long_is_recognised_through_us(heard):
    found = heard["fault:toolong"]

    assert "Codex ran out of room in the model's context window." in found.said
    assert found.requests == 1
    assert [(row["status"], row["error"]) for row in found.rows] == [(400, "prompt_too_long")]


def test_a_provider_that_breaks_off_is_tried_again_and_told_in_our_words(heard):
    found = heard["fault:cut"]

    assert "stream disconnected before completion: The provider cut its answer" in found.said
    assert found.requests == len(found.rows) == TRIES
    assert {(row["status"], row["outcome"]) for row in found.rows} == {(200, "upstream_error")}


def test_a_quota_that_is_used_up_ends_at_once_and_says_when_to_come_back(tmp_path):
    """Of any other 429 codex would wait for the end in silence, a day if it has to."""

    async def scenario():
        async with upstream() as provider:
            text = crossed(provider, "openai").replace("2000}", "2000, quota_tokens: 1}")
            async with started(tmp_path, text) as gateway, tee(gateway.url) as front:
                _, subscribed = await gateway.mint(billing=Billing.SUBSCRIPTION)
                home = tmp_path / "home"
                done = await codex(home, f"{front.url}/codex/v1", subscribed).run()
                return done, len(front.requests), await gateway.rows()

    done, requests, rows = run(scenario)

    assert "hit your usage limit. Try again at " in done.said
    assert (requests, rows) == (1, [])
