"""A monthly cap over real sockets: exact in a crowd, told in words, and changed at once."""

import asyncio

import pytest
from support.gateways import started
from support.priced import (
    PATHS,
    asked,
    balance,
    check_books,
    config,
    gatewayctl,
    priced,
    prove,
    settled,
)
from support.wires import run

from server import clock
from server.config.schema import UsageLimits
from server.store.models import Spend
from server.tenants import keys

MODELS = priced("s", "demo-smart", '{input: "0", output: "20"}')
STRICT = config(billing="{hold: strict, min_output_tokens: 10}", models=MODELS)
HOLD = 10 * 20  # micros: ten tokens, all of which the answer uses


def capped(holds):
    return UsageLimits(monthly_usd=f"0.{holds * HOLD:06d}")


async def ask(client, path="/v1/messages", **more):
    body = asked("s", **{"stream": False, "max_tokens": 10, **more})
    return await client.post(path, json=body)


async def change(gateway, key_id, **changes):
    now = clock.now()
    await gateway.services.store.write(keys.limit, key_id, changes, actor="cli", now=now)


async def spent(gateway):
    rows = await gateway.services.store.read(lambda: list(Spend.select()))
    return [(row.charged_micros, row.held_micros) for row in rows]


@pytest.mark.parametrize("stream", [False, True])
def test_a_cap_for_seven_admits_exactly_seven_of_two_hundred_at_once(tmp_path, stream):
    async def scenario():
        async with started(tmp_path, STRICT) as gateway:
            before = await balance(gateway)
            _, secret = await gateway.mint(limited=capped(7))
            async with gateway.client(secret) as client:
                asking = (ask(client, stream=stream) for _ in range(200))
                replies = await asyncio.gather(*asking)
            await settled(gateway)
            took = before.balance_micros - (await balance(gateway)).balance_micros
            return replies, took, await spent(gateway)

    replies, took, kept = run(scenario)

    statuses = [reply.status_code for reply in replies]
    assert (statuses.count(200), statuses.count(402)) == (7, 193)
    assert (took, kept) == (7 * HOLD, [(7 * HOLD, 0)])
    check_books(tmp_path)
    prove(tmp_path)


@pytest.mark.parametrize("protocol", PATHS)
def test_a_refusal_by_the_cap_says_so_and_never_speaks_of_the_balance(tmp_path, protocol):
    async def scenario():
        async with started(tmp_path, STRICT) as gateway:
            _, secret = await gateway.mint(limited=capped(1))
            async with gateway.client(secret) as client:
                return [await ask(client, PATHS[protocol]) for _ in range(2)]

    served, refused = run(scenario)

    error = refused.json()["error"]
    assert (served.status_code, refused.status_code) == (200, 402)
    assert refused.headers["x-should-retry"] == "false"
    assert error.get("code", "spend_cap_reached") == "spend_cap_reached"
    assert (
        "The monthly cap of $0.0002 has no room for this request: $0.0002 is spent, and it "
        in (error["message"])
    )
    assert "00:00 UTC" in error["message"]
    assert "balance" not in error["message"].lower()


def test_keys_that_a_capped_key_makes_share_its_cap(tmp_path):
    async def scenario():
        async with started(tmp_path, STRICT) as gateway:
            _, secret = await gateway.mint(limited=capped(5))
            async with gateway.client(secret) as client:
                made = [
                    await client.post("/tenant/keys", json={"name": "child", "scope": "manage"})
                    for _ in range(3)
                ]
            secrets = [secret, *(each.json()["secret"] for each in made)]
            clients = [gateway.client(each) for each in secrets]
            replies = await asyncio.gather(*(ask(each) for each in clients * 10))
            for each in clients:
                await each.aclose()
            await settled(gateway)
            return [reply.status_code for reply in replies], await spent(gateway)

    statuses, kept = run(scenario)

    assert statuses.count(200) == 5
    assert kept == [(5 * HOLD, 0)]


def test_a_change_of_the_cap_counts_with_the_very_next_request(tmp_path):
    async def scenario():
        async with started(tmp_path, STRICT) as gateway:
            key_id, secret = await gateway.mint()
            async with gateway.client(secret) as client:
                statuses = [(await ask(client)).status_code for _ in range(2)]
                for usd in ("0.000400", "0.000600", "0.000400", None, "0"):
                    await change(gateway, key_id, monthly_usd=usd)
                    statuses.append((await ask(client)).status_code)
            await settled(gateway)
            return statuses, await spent(gateway)

    statuses, kept = run(scenario)

    assert statuses == [200, 200, 402, 200, 402, 200, 402]
    assert kept == [(4 * HOLD, 0)]
    check_books(tmp_path)
    prove(tmp_path)


def test_the_command_line_changes_a_limit_that_counts_at_once(tmp_path):
    async def scenario():
        async with started(tmp_path, STRICT) as gateway:
            key_id, secret = await gateway.mint(limited=capped(9))
            async with gateway.client(secret) as client:
                statuses = [(await ask(client)).status_code]
                for usd in ("0.0002", "none"):
                    code, said = await gatewayctl(
                        tmp_path, "keys", "limit", key_id, "--monthly", usd
                    )
                    assert code == 0, said
                    statuses.append((await ask(client)).status_code)
            return statuses

    assert run(scenario) == [200, 402, 200]


def test_a_rotated_key_goes_on_with_what_was_spent(tmp_path):
    async def rotate(gateway, key_id):
        minted = await gateway.services.store.write(
            keys.rotate,
            None,
            key_id,
            grace=clock.now() - clock.now(),
            created_by="cli",
            now=clock.now(),
            secret=keys.secrets.generate(),
        )
        return minted.secret

    async def scenario():
        async with started(tmp_path, STRICT) as gateway:
            key_id, secret = await gateway.mint(limited=capped(2))
            async with gateway.client(secret) as client:
                statuses = [(await ask(client)).status_code]
            async with gateway.client(await rotate(gateway, key_id)) as client:
                statuses += [(await ask(client)).status_code for _ in range(2)]
            return statuses

    assert run(scenario) == [200, 200, 402]
    prove(tmp_path)


def test_a_stream_whose_cap_is_used_up_ends_as_if_the_model_had_reached_its_limit(tmp_path):
    text = config(billing="{hold_slice_tokens: 64, min_output_tokens: 10}")

    async def scenario():
        async with started(tmp_path, text) as gateway:
            _, secret = await gateway.mint(limited=UsageLimits(monthly_usd="0.01"))
            async with gateway.client(secret) as client:
                body = asked("endless", max_tokens=100_000)
                reply = await client.post("/v1/messages", json=body)
            return reply, await settled(gateway), await spent(gateway)

    reply, rows, ((charged, held),) = run(scenario)

    assert '"stop_reason":"max_tokens"' in reply.text
    assert (rows[-1]["outcome"], held) == ("cut", 0)
    assert charged == rows[-1]["cost_micros"]
    assert charged - rows[-1]["held_micros"] <= 20  # a token
    assert rows[-1]["held_micros"] <= 10_000
    prove(tmp_path)


def test_strict_holds_give_the_output_that_the_cap_leaves(tmp_path):
    text = config(billing="{hold: strict, min_output_tokens: 2}", models=MODELS)

    async def scenario():
        async with started(tmp_path, text) as gateway:
            _, secret = await gateway.mint(limited=UsageLimits(monthly_usd="0.000080"))
            async with gateway.client(secret) as client:
                return (await ask(client)).json(), await settled(gateway), await spent(gateway)

    answer, _, kept = run(scenario)

    assert answer["usage"]["output_tokens"] == 4
    assert kept == [(80, 0)]


def test_a_limit_that_is_remembered_refuses_nobody_once_it_is_lifted(tmp_path):
    async def scenario():
        limited = UsageLimits(requests_per_minute=1)
        async with started(tmp_path, STRICT) as gateway:
            key_id, secret = await gateway.mint(limited=limited)
            async with gateway.client(secret) as client:
                statuses = [(await ask(client)).status_code for _ in range(2)]
                await change(gateway, key_id, requests_per_minute=None)
                statuses.append((await ask(client)).status_code)
                await change(gateway, key_id, networks=["192.0.2.0/24"])
                statuses.append((await ask(client)).status_code)
                await change(gateway, key_id, networks=["127.0.0.0/8", "::1/128"])
                statuses.append((await ask(client)).status_code)
            return statuses

    assert run(scenario) == [200, 429, 200, 403, 200]
