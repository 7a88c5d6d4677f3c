"""A provider that counts nonsense: never a credit, never a 500, and the row says so."""

import json

import pytest
from support.gateways import config_for, started
from support.priced import (
    PATHS,
    asked,
    balance,
    check_books,
    config,
    priced,
    prove,
    settled,
    subscription,
    table,
)
from support.raw_upstream import sized, upstream
from support.wires import MESSAGE, run

from server.tenants import keys

KINDS = ("negative", "huge", "string", "float", "null", "bool", "mixed")
MODELS = "".join(
    priced(f"w-{kind}", f"fault:weird-usage{'' if kind == 'mixed' else f':{kind}'}")
    for kind in KINDS
)
TIERS = "{team: {name: Team, price_cents: 0, quota_tokens: 100000000}}"
FORMS = [(protocol, stream) for protocol in PATHS for stream in (False, True)]


@pytest.mark.parametrize("hold", ["incremental", pytest.param("strict", marks=pytest.mark.slow)])
def test_weird_usage_is_an_anomaly_and_only_ever_lowers_a_balance(tmp_path, hold):
    text = config(models=MODELS, tiers=TIERS, billing=f"{{hold: {hold}}}")

    async def scenario():
        replies, balances = {}, []
        async with started(tmp_path, text, usd=5) as gateway:
            _, secret = await gateway.mint(billing=keys.Billing.SUBSCRIPTION)
            async with gateway.client() as client, gateway.client(secret) as subscribed:
                for kind in KINDS:
                    for protocol, stream in FORMS:
                        body, path = asked(f"w-{kind}", stream=stream), PATHS[protocol]
                        reply = await client.post(path, json=body)
                        again = await subscribed.post("/cline" + path, json=body)
                        for each in (reply, again):
                            replies[each.headers["request-id"]] = (kind, each.status_code)
                        await settled(gateway)
                        balances.append((await balance(gateway)).balance_micros)
            return replies, balances, await subscription(gateway)

    replies, balances, quota = run(scenario)

    assert {status for _, status in replies.values()} == {200}
    assert balances == sorted(balances, reverse=True)
    assert len(set(balances)) == len(balances)  # never for nothing
    rows = check_books(tmp_path)
    assert len(rows) == len(replies)
    for row in rows:
        kind, _ = replies[row["request_id"]]
        assert row["outcome"] == "completed"
        assert row["estimated"] == 1 or kind == "mixed"
        assert (row["anomaly"] is not None) == (kind != "null")  # that is a missing count
        assert row["cost_micros"] + row["quota_tokens"] > 0
        assert 0 < row["input_tokens"] + row["output_tokens"] < 10_000
    assert quota["used_tokens"] == sum(row["quota_tokens"] for row in rows)
    charges = table(tmp_path, "SELECT amount_micros FROM entry WHERE kind = 'charge'")
    assert all(each["amount_micros"] < 0 for each in charges)
    assert len(charges) == len(rows) / 2
    prove(tmp_path)


@pytest.mark.parametrize("count", [10**9, 10**9 + 1])
def test_the_largest_count_that_is_believed_fits_the_ledger(tmp_path, count):
    """A thousand million tokens of each class, at $1,000 per million; one more is not believed."""
    usage = {
        "input_tokens": count,
        "cache_read_input_tokens": count,
        "cache_creation_input_tokens": count,
        "output_tokens": count,
    }
    answer = sized(json.dumps(MESSAGE | {"usage": usage}).encode())
    dollars = '"1000"'
    rates = (
        f"{{input: {dollars}, output: {dollars}, cache_read: {dollars}, cache_write_5m: {dollars}}}"
    )

    async def scenario():
        async with upstream(answer) as there:
            text = config_for(there.url).replace("free: true", f"price: {rates}")
            async with started(tmp_path, text, usd=5000) as gateway, gateway.client() as client:
                body = asked("smart", stream=False)
                statuses = [
                    (await client.post("/v1/messages", json=body)).status_code for _ in range(2)
                ]
                await settled(gateway)
                return statuses

    statuses = run(scenario)

    rows = check_books(tmp_path)
    if count == 10**9:
        assert statuses == [200, 402]
        assert [row["cost_micros"] for row in rows] == [4 * 10**9 * 1000]
    else:
        assert statuses == [200, 200]
        assert {row["anomaly"] is not None for row in rows} == {True}
        assert all(0 < row["cost_micros"] < 5_000_000_000 for row in rows)
