"""Every way a provider can fail: the hold ends, and what it will bill is charged, once."""

import asyncio

import pytest
from support.gateways import started
from support.priced import (
    CLASSES,
    PATHS,
    asked,
    balance,
    check_books,
    config,
    priced,
    prove,
    settled,
    subscription,
)
from support.wires import run

from server.tenants import keys
from server.upstream.demo.faults import FAULTS

ARGUMENTS = {"slow": ":0.05", "stall": ":0.05", "gzipbomb": ":8", "big": ":0.1", "tiny": ":0.1"}
NEVER_END = {"endless", "endless-line"}
NAMES = sorted({name.removeprefix("fault:") for name in FAULTS} - NEVER_END)
MODELS = "".join(priced(f"m-{name}", f"fault:{name}{ARGUMENTS.get(name, '')}") for name in NAMES)
TIERS = "{team: {name: Team, price_cents: 0, quota_tokens: 100000000}}"
ROOTS = {keys.Billing.PAY_PER_TOKEN: "", keys.Billing.SUBSCRIPTION: "/cline"}
UNBILLED = {"error-first"}  # a refusal, although it comes with a 200


@pytest.mark.parametrize("billing", ROOTS)
def test_a_fault_is_charged_if_the_provider_took_the_request(tmp_path, billing):
    async def scenario():
        text, told = config(models=MODELS, tiers=TIERS), {}
        async with started(tmp_path, text, usd=50) as gateway:
            _, secret = await gateway.mint(billing=billing)

            async def ask(name, protocol, stream):
                path = ROOTS[billing] + PATHS[protocol]
                reply = await client.post(path, json=asked(f"m-{name}", stream=stream))
                told[reply.headers["request-id"]] = (name, protocol, stream)

            async with gateway.client(secret) as client:
                for name in NAMES:
                    forms = [(protocol, stream) for protocol in PATHS for stream in (False, True)]
                    await asyncio.gather(*(ask(name, *form) for form in forms))
            await settled(gateway)
            calls = [*gateway.running.demo.journal.entries]
            return told, calls, await balance(gateway), await subscription(gateway)

    told, calls, left, quota = run(scenario)

    rows = {row["request_id"]: row for row in check_books(tmp_path)}
    assert set(rows) == set(told)
    usages = {call.request_id: call.usage for call in calls if call.status == 200}
    for name, row in rows.items():
        fault, *_ = told[name]
        is_billed = name in usages and fault not in UNBILLED
        assert (row["cost_micros"] + row["quota_tokens"] > 0) == is_billed, told[name]
        usage = usages.get(name)  # as far as it was reported, and the demo kept account of it
        if row["outcome"] == "completed" and not row["estimated"] and usage is not None:
            assert {each: row[each] for each in CLASSES} == {
                each: getattr(usage, each) for each in CLASSES
            }
    assert left.balance_micros == 50_000_000 - sum(row["cost_micros"] for row in rows.values())
    assert quota["used_tokens"] == sum(row["quota_tokens"] for row in rows.values())
    prove(tmp_path)
