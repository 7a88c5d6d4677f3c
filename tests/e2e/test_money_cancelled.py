"""Clients that leave and keys that die in mid answer: what was used is charged, once."""

import asyncio
import random

import pytest
from support.gateways import started
from support.priced import (
    CLASSES,
    PATHS,
    asked,
    balance,
    check_books,
    config,
    gatewayctl,
    priced,
    prove,
    settled,
    subscription,
)
from support.raw_upstream import EVENTS, begun, chunked, upstream
from support.relays import STREAMS
from support.wires import run, until

from server.tenants import keys
from server.upstream.demo import DemoOptions

MODELS = priced("demo", "demo")
QUOTA = keys.Billing.SUBSCRIPTION
TIERS = "{team: {name: Team, price_cents: 0, quota_tokens: 1000000}}"
TWO_TIERS = TIERS[:-1] + ", small: {name: Small, price_cents: 0, quota_tokens: 1}}"
ROOTS = {keys.Billing.PAY_PER_TOKEN: "", QUOTA: "/cline"}
BALANCE = 5_000_000
CLIENTS = 16


async def _revoke_here(gateway, key_id):
    async with gateway.client() as client:
        assert (await client.delete(f"/tenant/keys/{key_id}")).status_code == 200


async def _revoke_there(gateway, key_id):
    code, said = await gatewayctl(gateway.folder, "keys", "revoke", key_id)
    assert code == 0, said


REVOCATIONS = [  # by the server itself, and by a command in another process
    *((_revoke_here, protocol, billing) for protocol in PATHS for billing in ROOTS),
    (_revoke_there, "anthropic", keys.Billing.PAY_PER_TOKEN),
    (_revoke_there, "openai", QUOTA),
]


@pytest.mark.parametrize(("revoke", "protocol", "billing"), REVOCATIONS)
def test_a_stream_outlives_its_key_and_is_charged(tmp_path, revoke, protocol, billing):
    stream = STREAMS[protocol]
    first, path = begun(stream), ROOTS[billing] + PATHS[protocol]

    async def scenario():
        go = asyncio.Event()
        script = [EVENTS, chunked(first, end=b""), go, chunked(stream[len(first) :])]
        async with (
            upstream(script) as there,
            started(tmp_path, _one_model(there.url, protocol), usd=5) as gateway,
        ):
            key_id, secret = await gateway.mint(billing=billing)
            async with gateway.client(secret) as client:
                body, got = asked("m", stream_options={"include_usage": True}), b""
                async with client.stream("POST", path, json=body) as reply:
                    async for piece in reply.aiter_raw():
                        if not got:
                            await revoke(gateway, key_id)
                            late = await client.post(path, json=body)
                            go.set()
                        got += piece
                after = await client.post(path, json=body)
            await settled(gateway)
            return got, late, after, len(there.requests)

    got, late, after, calls = run(scenario)

    assert (got, calls) == (stream, 1)
    assert (late.status_code, after.status_code) == (401, 401)
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["estimated"]) == ("completed", 0)
    assert row["output_tokens"] == {"anthropic": 42, "openai": 33}[protocol]
    assert (row["cost_micros"] > 0, row["quota_tokens"] > 0) == (billing != QUOTA, billing == QUOTA)


def test_a_stream_outlives_its_subscription_and_spends_its_quota(tmp_path):
    """The tier changes and then ends in mid answer; what was used stays used."""
    stream = STREAMS["anthropic"]
    first = begun(stream)

    async def scenario():
        go = asyncio.Event()
        script = [EVENTS, chunked(first, end=b""), go, chunked(stream[len(first) :])]
        async with upstream(script) as there:
            text = _one_model(there.url, "anthropic").replace(TIERS, TWO_TIERS)
            async with started(tmp_path, text, usd=5) as gateway:
                _, secret = await gateway.mint(billing=QUOTA)
                async with gateway.client(secret) as client:
                    asking = client.post("/cline/v1/messages", json=asked("m"))
                    asking = asyncio.create_task(asking)
                    await until(lambda: _seen(there))
                    for words in (("set", "small"), ("cancel",)):
                        code, said = await gatewayctl(tmp_path, "subscription", *words)
                        assert code == 0, said
                    go.set()
                    reply = await asking
                    after = await client.post("/cline/v1/messages", json=asked("m"))
                await settled(gateway)
                return reply, after, await subscription(gateway)

    reply, after, left = run(scenario)

    assert (reply.content, after.status_code) == (stream, 402)
    (row,) = check_books(tmp_path)
    assert row["quota_tokens"] > 0
    assert (left["tier"], left["used_tokens"]) == ("small", row["quota_tokens"])
    prove(tmp_path)


async def _seen(there):
    return len(there.requests)


def _one_model(url, protocol):
    return f"""
upstreams:
  there: {{protocol: {protocol}, base_url: "{url}", api_key: "sk-fake-upstream-key"}}
models:
  m: {{targets: [{{upstream: there, model: m}}], price: {{input: "4", output: "20"}}}}
tiers: {TIERS}
"""


def _tokens(row):
    return {each: row[each] for each in CLASSES}


async def _hang_up(gateway, secrets, chance, count):
    """Ask `count` times, both protocols and forms and keys, and leave at some moment."""

    async def ask_again_and_again():
        for _ in range(count // CLIENTS):
            await ask()

    async def ask():
        billing, protocol = chance.choice([*ROOTS]), chance.choice([*PATHS])
        body = asked("demo", stream=chance.random() < 0.8, max_tokens=chance.choice([10, 60]))
        path, patience_s = ROOTS[billing] + PATHS[protocol], chance.uniform(0, 0.3)
        asking = asyncio.create_task(clients[billing].post(path, json=body))
        await asyncio.wait([asking], timeout=patience_s)
        asking.cancel()
        await asyncio.wait([asking])

    clients = {each: gateway.client(secret) for each, secret in secrets.items()}
    await asyncio.gather(*(ask_again_and_again() for _ in range(CLIENTS)))
    for client in clients.values():
        await client.aclose()


def _scenario(folder, policy, seed, count):
    text = config(
        models=MODELS,
        tiers=TIERS,
        billing=f"{{on_disconnect: {policy}, hold_slice_tokens: 16, min_output_tokens: 1}}",
    )

    async def scenario():
        paced, chance = DemoOptions(pace_words_per_s=200), random.Random(seed)
        async with started(folder, text, usd=5, demo_options=paced) as gateway:
            _, secret = await gateway.mint(billing=QUOTA)
            secrets = {keys.Billing.PAY_PER_TOKEN: gateway.secret, QUOTA: secret}
            await _hang_up(gateway, secrets, chance, count)

            async def is_over():
                return not gateway.gateway.pumps and not gateway.running.demo.journal.open

            await until(is_over)
            await settled(gateway)
            left = await balance(gateway), await subscription(gateway)
            return [*gateway.running.demo.journal.entries], *left

    return run(scenario)


def _check_hang_ups(folder, policy, seed, count):
    calls, left, quota = _scenario(folder, policy, seed, count)

    rows = {row["request_id"]: row for row in check_books(folder)}
    served = {call.request_id: call for call in calls}
    assert len(served) == len(calls)
    assert set(served) <= set(rows)
    assert left.balance_micros == BALANCE - sum(row["cost_micros"] for row in rows.values())
    assert quota["used_tokens"] == sum(row["quota_tokens"] for row in rows.values())
    outcomes = {row["outcome"] for row in rows.values()}
    assert outcomes == {"cancelled", "completed"}
    for name, call in served.items():
        assert rows[name]["cost_micros"] + rows[name]["quota_tokens"] > 0
        if policy == "drain" or rows[name]["outcome"] == "completed":
            _check_whole(rows[name], call)
        else:
            _check_part(rows[name], call)
    return rows, served


def _check_whole(row, call):
    assert call.outcome == "completed"
    assert _tokens(row) == {each: getattr(call.usage, each) for each in CLASSES}
    assert not row["estimated"]


def _check_part(row, call):
    """What was delivered is charged, and no more than the provider sent."""
    assert row["output_tokens"] <= max(call.events, call.bytes // 4)
    if not row["estimated"]:  # it had all been said
        assert _tokens(row) == {each: getattr(call.usage, each) for each in CLASSES}
    elif row["protocol"] == "anthropic" and row["output_tokens"]:
        assert row["input_tokens"] == call.usage.input_tokens


@pytest.mark.parametrize("policy", ["cancel", "drain"])
def test_clients_that_hang_up_at_any_moment_pay_for_what_was_used(tmp_path, policy):
    """With `drain` that is what the provider's own log says, to the token."""
    rows, served = _check_hang_ups(tmp_path, policy, 1, 96)

    if policy == "drain":
        unserved = [rows[name] for name in set(rows) - set(served)]
        assert {row["cost_micros"] + row["quota_tokens"] for row in unserved} <= {0}
    prove(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["cancel", "drain"])
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_more_hang_ups_change_nothing(tmp_path, policy, seed):
    _check_hang_ups(tmp_path, policy, seed, 400)


@pytest.mark.parametrize("policy", ["cancel", pytest.param("drain", marks=pytest.mark.slow)])
@pytest.mark.parametrize("protocol", PATHS)
def test_a_gateway_that_stops_settles_what_it_cuts(tmp_path, protocol, policy):
    """They would never end by themselves, and the gateway waits for a moment only."""
    text = config(tiers=TIERS, billing=f"{{on_disconnect: {policy}, hold_slice_tokens: 64}}")
    text += "server: {drain_s: 0.1}\n"

    async def scenario():
        async with started(tmp_path, text, usd=5) as gateway:
            _, secret = await gateway.mint(billing=QUOTA)
            body, asking = asked("endless", max_tokens=100_000), []
            for key, root in ((gateway.secret, ""), (secret, "/cline")):
                client = gateway.client(key)
                asking += [
                    asyncio.create_task(client.post(root + PATHS[protocol], json=body))
                    for _ in range(4)
                ]
            journal = gateway.running.demo.journal
            await until(lambda: _are_streaming(journal, len(asking)))
        await asyncio.wait(asking)
        return journal.entries

    calls = run(scenario)

    rows = {row["request_id"]: row for row in check_books(tmp_path)}
    assert len(rows) == len(calls) == 8
    for call in calls:
        row = rows[call.request_id]
        assert row["cost_micros"] + row["quota_tokens"] > 0
        assert 0 < row["output_tokens"] <= call.bytes // 4
    prove(tmp_path)


async def _are_streaming(journal, count):
    return sum(entry.events > 30 for entry in journal.entries) == count
