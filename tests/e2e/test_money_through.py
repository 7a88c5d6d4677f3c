"""Requests that cost money: what is held, what is charged, and what happens when it runs out."""

import asyncio
import json

import pytest
from support.gateways import started
from support.priced import CHECK, PATHS, asked, balance, config, entries, give_micros, settled
from support.raw_upstream import until
from support.validators import check_messages_stream

from server import clock
from server.billing import ledger
from server.tenants import keys
from server.upstream.demo import DemoOptions


def test_every_route_protocol_and_form_charges_the_same_micros_for_the_same_usage(tmp_path):
    """The demo reports the same tokens each time, so the price must come out the same."""

    async def scenario():
        async with started(tmp_path, config(), usd=10) as gateway, gateway.client() as client:
            for root in ("", "/claudecode", "/cursor"):
                for protocol, path in PATHS.items():
                    for stream in (False, True):
                        reply = await client.post(root + path, json=asked(stream=stream))
                        assert reply.status_code == 200, (protocol, reply.text)
            rows = await settled(gateway)
            return rows, await entries(gateway), await balance(gateway)

    rows, found, left = asyncio.run(scenario())

    for row in rows:
        exact = (
            row["input_tokens"] * 4_000_000
            + row["cache_read_input_tokens"] * 400_000
            + row["cache_write_5m_tokens"] * 5_000_000
            + row["cache_write_1h_tokens"] * 8_000_000
            + row["output_tokens"] * 20_000_000
        )
        assert row["cost_micros"] == -(-exact // 1_000_000) > 0
        assert row["held_micros"] >= row["cost_micros"]
    charges = [each for each in found if each["kind"] == "charge"]
    assert [each["ref"] for each in charges] == [row["request_id"] for row in rows]
    assert [each["amount_micros"] for each in charges] == [-row["cost_micros"] for row in rows]
    assert left == ledger.Balance(10_000_000 - sum(row["cost_micros"] for row in rows), 0)


@pytest.mark.parametrize("protocol", PATHS)
def test_an_empty_balance_is_a_402_that_says_what_to_do(tmp_path, protocol):
    async def scenario():
        async with started(tmp_path, config(), usd=0) as gateway, gateway.client() as client:
            reply = await client.post(PATHS[protocol], json=asked())
            return reply, await gateway.rows()

    reply, rows = asyncio.run(scenario())

    assert reply.status_code == 402
    assert reply.headers["x-should-retry"] == "false"
    error = reply.json()["error"]
    assert error["type" if protocol == "anthropic" else "code"] in (
        "billing_error",
        "insufficient_balance",
    )
    assert error["message"].startswith("Insufficient balance: this request needs $0.00")
    assert "and $0.00 is available. Top up" in error["message"]
    assert "credit balance is too low" not in error["message"]
    assert rows == []


def test_a_free_model_needs_no_balance_and_leaves_no_entry(tmp_path):
    free = "  free: {targets: [{upstream: demo, model: demo}], free: true}"

    async def scenario():
        async with started(tmp_path, config(models=free), usd=0) as gateway:
            async with gateway.client() as client:
                reply = await client.post("/v1/messages", json=asked("free"))
            rows = await settled(gateway)
            return reply, rows, await entries(gateway)

    reply, (row,), found = asyncio.run(scenario())

    assert reply.status_code == 200
    assert (row["cost_micros"], row["held_micros"], row["output_tokens"] > 0) == (0, 0, True)
    assert found == []


def test_ten_agents_that_ask_for_128000_tokens_run_side_by_side_on_five_dollars(tmp_path):
    """Their worst case is $25.60 of output; the first slices of it are $1.64."""

    async def scenario():
        async with started(tmp_path, config(), usd=5) as gateway, gateway.client() as client:
            body = asked("endless", max_tokens=128_000)

            async def agent():
                async with client.stream("POST", "/claudecode/v1/messages", json=body) as reply:
                    assert reply.status_code == 200
                    async for _ in reply.aiter_bytes():
                        together.add(id(reply))
                        if len(together) == 10:
                            return

            together = set()
            await asyncio.gather(*(agent() for _ in range(10)))
            rows = await settled(gateway)
            return rows, await balance(gateway)

    rows, left = asyncio.run(scenario())

    assert len(rows) == 10
    assert left.held_micros == 0
    assert left.balance_micros == 5_000_000 - sum(row["cost_micros"] for row in rows)


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stream_whose_balance_runs_out_ends_as_if_at_its_token_limit(tmp_path, protocol):
    billing = "{hold_slice_tokens: 512}"

    async def scenario():
        async with started(tmp_path, config(billing=billing), usd=0) as gateway:
            await give_micros(gateway, 30_000)  # 1,500 tokens of output, less the input
            async with gateway.client() as client:
                body = asked("endless", max_tokens=64_000)
                if protocol == "openai":
                    body["stream_options"] = {"include_usage": True}
                reply = await client.post(PATHS[protocol], json=body)
                refused = await client.post(PATHS[protocol], json=body)
            rows = await settled(gateway)
            calls = gateway.running.demo.journal.open
            return reply, refused, rows, await balance(gateway), calls

    reply, refused, rows, left, open_calls = asyncio.run(scenario())

    said = CHECK[protocol](reply.content)
    assert said.stop_reason == ("max_tokens" if protocol == "anthropic" else "length")
    assert said.error is None
    row = rows[0]
    assert (row["outcome"], row["status"], row["stop_reason"]) == ("cut", 200, said.stop_reason)
    told = said.usage["output_tokens" if protocol == "anthropic" else "completion_tokens"]
    assert row["output_tokens"] == told > 500
    overshoot = max(0, row["cost_micros"] - row["held_micros"])
    assert overshoot < 64 * 20  # some tokens past the hold, not slices
    assert left == ledger.Balance(30_000 - row["cost_micros"], 0)
    assert refused.status_code == 402
    assert open_calls == 0


def test_a_burst_cannot_run_far_past_its_hold(tmp_path):
    """A megabyte comes at once; reading stops while the hold is grown, and at its end for good."""

    async def scenario():
        async with started(tmp_path, config(), usd=0) as gateway:
            await give_micros(gateway, 1_000_000)
            async with gateway.client() as client:
                reply = await client.post("/v1/messages", json=asked("big", max_tokens=300_000))
            (row,) = await settled(gateway)
            return reply, row, await balance(gateway)

    reply, row, left = asyncio.run(scenario())

    assert check_messages_stream(reply.content).stop_reason == "max_tokens"
    assert row["cost_micros"] > 900_000
    # At most one read of the socket: 256 KB of events, a token for 4 bytes of text.
    assert row["cost_micros"] - row["held_micros"] < 65_536 * 20
    assert left == ledger.Balance(1_000_000 - row["cost_micros"], 0)


def test_unseen_thinking_is_held_for_and_what_was_not_seen_is_not_charged(tmp_path):
    billing = "{assumed_tokens_per_s: 4000}"

    async def scenario():
        async with started(tmp_path, config(billing=billing), usd=5) as gateway:
            async with gateway.client() as client:
                body = asked("stall", max_tokens=64_000)
                asking = asyncio.create_task(client.post("/v1/messages", json=body))
                held = []
                while not asking.done():
                    held.append((await balance(gateway)).held_micros)
                    await asyncio.sleep(0.02)
                reply = await asking
            (row,) = await settled(gateway)
            return reply, held, row, await balance(gateway)

    reply, held, row, left = asyncio.run(scenario())

    assert reply.status_code == 200
    assert max(held) > 2 * 8192 * 20  # more than the first slice and the next
    assert row["cost_micros"] < 10_000
    assert left == ledger.Balance(5_000_000 - row["cost_micros"], 0)


def test_strict_holds_admit_exactly_as_many_as_are_paid_for(tmp_path):
    """200 at once against a balance for 7: the hold is the worst case, so 7 it is."""
    models = '  s: {targets: [{upstream: demo, model: "fault:slow:1"}], price: {input: "0", output: "20"}}'  # noqa: E501

    async def scenario():
        options = config(billing="{hold: strict, min_output_tokens: 100}", models=models)
        async with started(tmp_path, options, usd=0) as gateway:
            await give_micros(gateway, 7 * 100 * 20)
            async with gateway.client() as client:
                body = asked("s", stream=False, max_tokens=100)
                replies = await asyncio.gather(
                    *(client.post("/v1/messages", json=body) for _ in range(200))
                )
            await settled(gateway)
            return [reply.status_code for reply in replies], await balance(gateway)

    statuses, left = asyncio.run(scenario())

    assert (statuses.count(200), statuses.count(402)) == (7, 193)
    assert left.held_micros == 0
    assert 0 <= left.balance_micros < 7 * 100 * 20


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize(
    ("hold", "stream"), [("strict", True), ("strict", False), ("incremental", False)]
)
def test_a_limit_is_lowered_to_what_is_affordable(tmp_path, protocol, hold, stream):
    """At once, too: nobody else holds anything, so there is nothing to wait for."""
    options = config(billing=f"{{hold: {hold}, min_output_tokens: 20}}")

    async def scenario():
        async with started(tmp_path, options, usd=0) as gateway:
            await give_micros(gateway, 20_000)
            async with gateway.client() as client:
                body = asked(stream=stream, max_tokens=50_000)
                reply = await client.post(PATHS[protocol], json=body)
            (row,) = await settled(gateway)
            return reply, row, await balance(gateway)

    reply, row, left = asyncio.run(scenario())

    assert reply.status_code == 200
    assert 0 < row["cost_micros"] <= row["held_micros"] <= 20_000
    assert left == ledger.Balance(20_000 - row["cost_micros"], 0)


def test_a_refused_hold_waits_for_others_to_give_back(tmp_path):
    """Two whole answers cannot be held at once; the second waits for the first to settle."""
    models = '  s: {targets: [{upstream: demo, model: "fault:slow:0.5"}], price: {input: "0", output: "20"}}'  # noqa: E501

    async def scenario():
        async with started(tmp_path, config(models=models), usd=0) as gateway:
            await give_micros(gateway, 3 * 1000 * 20 // 2)
            async with gateway.client() as client:
                body = asked("s", stream=False, max_tokens=1000)
                first = asyncio.create_task(client.post("/v1/messages", json=body))
                await until(lambda: gateway.running.demo.journal.open == 1)
                second = await client.post("/v1/messages", json=body)
                first = await first
            rows = await settled(gateway)
            return first, second, rows

    first, second, rows = asyncio.run(scenario())

    assert (first.status_code, second.status_code) == (200, 200)
    assert [row["held_micros"] for row in rows] == [20_000, 20_000]


def test_a_quota_is_spent_in_weighted_tokens_and_then_refuses(tmp_path):
    tiers = "{team: {name: Team, price_cents: 0, quota_tokens: 2000}}"
    weights = '{input: "0", output: "1", cache_read: "0", cache_write: "0"}'

    async def scenario():
        options = config(tiers=tiers, quota=weights, billing="{hold_slice_tokens: 256}")
        async with started(tmp_path, options, usd=0) as gateway:
            _, secret = await gateway.mint(billing=keys.Billing.SUBSCRIPTION)
            async with gateway.client(secret) as client:
                body = asked("endless", max_tokens=64_000)
                cut = await client.post("/claudecode/v1/messages", json=body)
                refused = await client.post("/claudecode/v1/messages", json=body)
                codex = {"model": "endless", "input": "hello"}
                stopped = await client.post("/codex/v1/responses", json=codex)
                shown = (await client.get("/tenant/subscription")).json()
            rows = await settled(gateway)
            return cut, refused, stopped, shown, rows, await entries(gateway)

    cut, refused, stopped, shown, rows, found = asyncio.run(scenario())

    assert check_messages_stream(cut.content).stop_reason == "max_tokens"
    assert (stopped.status_code, stopped.json()["error"]["type"]) == (429, "usage_limit_reached")
    resets_at = clock.from_ms(stopped.json()["error"]["resets_at"] * 1000)
    assert clock.rfc3339(resets_at) == shown["quota"]["resets_at"]
    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    assert 86_390 <= int(refused.headers["retry-after"]) <= 86_400
    assert "It resets in 2" in refused.json()["error"]["message"]
    (row,) = rows
    assert row["quota_tokens"] == row["output_tokens"] > 1900
    assert (row["cost_micros"], found) == (0, [])
    assert shown["quota"]["used_tokens"] == row["quota_tokens"]
    assert shown["quota"]["held_tokens"] == 0
    assert shown["quota"]["used_requests"] == 1


def test_without_a_subscription_its_keys_are_refused_with_402(tmp_path):
    async def scenario():
        async with started(tmp_path, config(), usd=5) as gateway:
            _, secret = await gateway.mint(billing=keys.Billing.SUBSCRIPTION)
            async with gateway.client(secret) as client:
                return await client.post("/cline/v1/messages", json=asked())

    reply = asyncio.run(scenario())

    assert reply.status_code == 402
    assert reply.json()["error"]["message"].startswith("There is no subscription.")


@pytest.mark.parametrize("policy", ["cancel", "drain"])
def test_a_client_that_hangs_up_pays_for_what_it_got_or_for_the_whole(tmp_path, policy):
    models = "  demo: {targets: [{upstream: demo, model: demo}], price: {input: '4', output: '20'}}"
    paced = DemoOptions(pace_words_per_s=100)

    async def scenario():
        options = config(billing=f"{{on_disconnect: {policy}}}", models=models)
        async with started(tmp_path, options, usd=5, demo_options=paced) as gateway:
            body = asked("demo", max_tokens=100)
            async with (
                gateway.client() as client,
                client.stream("POST", "/v1/messages", json=body) as reply,
            ):
                async for data in reply.aiter_bytes():
                    if b"content_block_delta" in data:
                        break
            (row,) = await settled(gateway)
            (entry,) = gateway.running.demo.journal.entries
            return row, entry, await balance(gateway)

    row, entry, left = asyncio.run(scenario())

    assert row["outcome"] == "cancelled"
    assert row["cost_micros"] > 0
    assert left == ledger.Balance(5_000_000 - row["cost_micros"], 0)
    if policy == "drain":
        assert entry.outcome == "completed"
        assert (row["output_tokens"], row["estimated"]) == (entry.usage.output_tokens, False)
    else:
        assert entry.outcome == "client_gone"
        assert row["estimated"] is True


def test_a_request_for_an_extra_without_a_price_is_refused_by_its_name(tmp_path):
    tools = [{"type": "web_search_20250305", "name": "web_search"}]

    async def scenario():
        async with started(tmp_path, config()) as gateway, gateway.client() as client:
            search = await client.post("/v1/messages", json=asked(tools=tools))
            speed = await client.post("/v1/messages", json=asked(speed="fast"))
            flex = await client.post("/v1/chat/completions", json=asked(service_tier="flex"))
            return [search, speed, flex], await gateway.rows()

    replies, rows = asyncio.run(scenario())

    assert [reply.status_code for reply in replies] == [400, 400, 400]
    messages = [reply.json()["error"]["message"] for reply in replies]
    for name, message in zip(("web_search", "fast", "flex"), messages, strict=True):
        assert name in message
    assert json.loads(replies[2].content)["error"]["param"] == "service_tier"
    assert rows == []
