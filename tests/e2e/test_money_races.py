"""Hundreds at once against a balance or a quota for a few: exactly those few are served."""

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
    give_micros,
    priced,
    second_tenant,
    settled,
    subscription,
    table,
    verify,
)
from support.wires import run

from server.tenants import keys

MODELS = priced("s", "demo-smart", '{input: "0", output: "20"}')
STRICT = config(billing="{hold: strict, min_output_tokens: 10}", models=MODELS)
HOLD = 10 * 20  # micros: ten tokens, all of which the answer uses


def _body(**more):
    return asked("s", **{"stream": False, "max_tokens": 10, **more})


async def _at_once(client, count, path="/v1/messages"):
    replies = await asyncio.gather(*(client.post(path, json=_body()) for _ in range(count)))
    return [reply.status_code for reply in replies]


def test_what_operators_grant_and_revoke_meanwhile_admits_exactly_what_is_paid_for(tmp_path):
    """The command line writes to the same file: neither side may lose the other's change."""

    async def ask_until_served(client, rounds):
        """Ask in each of the rounds until served; give every status that came."""
        statuses = []
        for begun in rounds:
            await begun.wait()
            statuses.append((await client.post("/v1/messages", json=_body())).status_code)
            if statuses[-1] in (200, 401):
                break
        return statuses

    async def scenario():
        async with started(tmp_path, STRICT, usd=0) as gateway:
            revoked_id, revoked = await gateway.mint()
            await give_micros(gateway, 7 * HOLD)
            rounds = [asyncio.Event() for _ in range(4)]
            async with gateway.client() as client, gateway.client(revoked) as other:
                asking = [
                    asyncio.create_task(ask_until_served(client if each % 4 else other, rounds))
                    for each in range(200)
                ]
                rounds[0].set()
                commands = [
                    ("credits", "grant", "0.001", "--reason", "more"),
                    ("keys", "revoke", revoked_id),
                    ("credits", "grant", "0.001", "--reason", "and more"),
                ]
                for begun, command in zip(rounds[1:], commands, strict=True):
                    code, said = await gatewayctl(tmp_path, *command)
                    assert code == 0, said
                    begun.set()
                statuses = await asyncio.gather(*asking)
                late = (await other.post("/v1/messages", json=_body())).status_code
            await settled(gateway)
            return statuses, late, await balance(gateway)

    statuses, late, left = run(scenario)

    served = [each for each in statuses if 200 in each]
    assert len(served) == 7 + 2 * (1000 // HOLD)
    assert (left.balance_micros, left.held_micros) == (0, 0)
    assert late == 401
    # From the third round on the key is dead, and nobody who used it is told of money.
    assert {each[2] for each in statuses[::4] if len(each) > 2} <= {401}
    assert {status for each in statuses for status in each} == {200, 401, 402}
    check_books(tmp_path)
    assert min(_balances(tmp_path)) == 0
    run(lambda: verify(tmp_path))


def _balances(folder):
    return [each["balance_after_micros"] for each in table(folder, "SELECT * FROM entry")]


def test_commands_while_requests_come_lose_nothing(tmp_path):
    """All at the same moment: the order is unknown, and the sums are not."""

    async def scenario():
        async with started(tmp_path, STRICT, usd=0) as gateway:
            revoked_id, revoked = await gateway.mint()
            await give_micros(gateway, 7 * HOLD)
            async with gateway.client() as client, gateway.client(revoked) as other:
                grant = ("credits", "grant", "0.001", "--reason", "more")
                take = ("credits", "adjust", "--reason", "less", "--", "-0.0004")
                commands = [grant, ("keys", "revoke", revoked_id), take, grant]
                running = asyncio.gather(*(gatewayctl(tmp_path, *each) for each in commands))
                statuses = []
                while not running.done():
                    both = await asyncio.gather(_at_once(client, 20), _at_once(other, 20))
                    statuses += both[0] + both[1]
                codes = [code for code, _ in await running]
                statuses += await _at_once(client, 200)
                dead = await _at_once(other, 20)
            await settled(gateway)
            return statuses, dead, codes, await balance(gateway)

    statuses, dead, codes, left = run(scenario)

    # What requests have taken already, the operator cannot take: that is told, by status 4.
    has_taken = {(0, 0, 0, 0): True, (0, 0, 4, 0): False}[tuple(codes)]
    assert statuses.count(200) == 7 + 2 * (1000 // HOLD) - has_taken * (400 // HOLD)
    assert set(statuses) <= {200, 401, 402}
    assert set(dead) == {401}
    assert (left.balance_micros, left.held_micros) == (0, 0)
    check_books(tmp_path)
    assert min(_balances(tmp_path)) == 0


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tenants_first_eight_requests_at_once_spend_no_more_than_there_is(
    tmp_path, protocol, stream
):
    async def scenario():
        async with started(tmp_path, STRICT, usd=0) as gateway:
            await give_micros(gateway, 3 * HOLD + HOLD // 2)
            async with gateway.client() as client:
                body = _body() | {"stream": stream}
                replies = await asyncio.gather(
                    *(client.post(PATHS[protocol], json=body) for _ in range(8))
                )
            await settled(gateway)
            return sorted(reply.status_code for reply in replies), await balance(gateway)

    statuses, left = run(scenario)

    # Half a hold is left, which is below the floor.
    assert statuses == [200] * 3 + [402] * 5
    assert (left.balance_micros, left.held_micros) == (HOLD // 2, 0)
    check_books(tmp_path)


@pytest.mark.parametrize(("count", "allowed"), [(8, 3), (200, 7)])
@pytest.mark.parametrize("limit", ["quota_tokens", "quota_requests"])
def test_a_quota_for_a_few_serves_exactly_those(tmp_path, limit, count, allowed):
    """The first ones open the window, all at once."""
    amount = allowed if limit == "quota_requests" else allowed * 10
    text = config(
        billing="{hold: strict, min_output_tokens: 10}",
        models=MODELS,
        tiers=f"{{team: {{name: Team, price_cents: 0, {limit}: {amount}}}}}",
        quota='{input: "0", output: "1", cache_read: "0", cache_write: "0"}',
    )

    async def scenario():
        async with started(tmp_path, text, usd=0) as gateway:
            _, secret = await gateway.mint(billing=keys.Billing.SUBSCRIPTION)
            async with gateway.client(secret) as client:
                statuses = await _at_once(client, count, "/cline/v1/messages")
            await settled(gateway)
            return statuses, await subscription(gateway)

    statuses, left = run(scenario)

    assert (statuses.count(200), statuses.count(429)) == (allowed, count - allowed)
    assert (left["used_tokens"], left["held_tokens"]) == (allowed * 10, 0)
    assert (left["used_requests"], left["quota_window"]) == (allowed, 1)
    check_books(tmp_path)


def test_two_tenants_do_not_spend_each_others_money(tmp_path):
    """One has money for 5, the other for 9, and a hundred requests of each come at once."""

    async def scenario():
        async with started(tmp_path, STRICT, usd=0) as gateway:
            second, secret = await second_tenant(gateway)
            await give_micros(gateway, 5 * HOLD)
            await give_micros(gateway, 9 * HOLD, second)
            async with gateway.client() as client, gateway.client(secret) as other:
                both = await asyncio.gather(_at_once(client, 100), _at_once(other, 100))
            await settled(gateway)
            return both, second

    (first, other), second = run(scenario)

    assert (first.count(200), first.count(402)) == (5, 95)
    assert (other.count(200), other.count(402)) == (9, 91)
    rows = check_books(tmp_path)
    assert sum(row["tenant_id"] == second for row in rows) == 9
    assert min(_balances(tmp_path)) == 0


def test_strict_never_goes_below_zero_whatever_is_asked(tmp_path):
    """Longer and shorter answers, both protocols and forms, until the last micro is spent."""
    asks = [
        (path, stream, size)
        for path in PATHS.values()
        for stream in (False, True)
        for size in (1, 10, 35, 300)
    ]

    async def scenario():
        async with started(tmp_path, STRICT, usd=0) as gateway:
            await give_micros(gateway, 60_000)
            statuses = []
            async with gateway.client() as client:
                while 200 in statuses[-len(asks) :] or not statuses:
                    replies = await asyncio.gather(
                        *(
                            client.post(path, json=_body(stream=stream, max_tokens=size))
                            for path, stream, size in asks
                        )
                    )
                    statuses += [reply.status_code for reply in replies]
            await settled(gateway)
            return statuses, await balance(gateway)

    statuses, left = run(scenario)

    assert set(statuses) == {200, 402}
    assert 0 <= left.balance_micros < 20  # a token
    rows = check_books(tmp_path)
    assert min(_balances(tmp_path)) == left.balance_micros
    assert all(row["cost_micros"] <= row["held_micros"] for row in rows)
