"""What keeps requests from a provider that fails, or has enough of them."""

import asyncio
import json
import time

import pytest
from support.gateways import started
from support.priced import check_books, prove
from support.raw_upstream import EVENTS, HANG, chunked, upstream
from support.relays import BEGIN
from support.routed import (
    PATHS,
    WHOLE,
    asked,
    idle,
    model,
    place,
    routed,
)
from support.wires import http_answer, run, until

from server.routing.breaker import State

BOTH = pytest.mark.parametrize("protocol", PATHS)
FAIL = http_answer(500, {"error": {"message": "its own words"}})
FULL = {"anthropic": 529, "openai": 503}


async def _has_state(gateway, state):
    now = asyncio.get_running_loop().time()
    return state in [each.state(now) for _, each in gateway.gateway.router.breakers()]


@BOTH
def test_an_upstream_that_keeps_failing_is_left_alone_until_a_probe_succeeds(tmp_path, protocol):
    go = asyncio.Event()
    probe = [go, WHOLE[protocol]]

    async def scenario():
        async with upstream(*[FAIL] * 5, probe, WHOLE[protocol]) as there:
            bounds = {"max_attempts": 1, "breaker_failures": 5, "breaker_open_s": 0.4}
            config = routed([place("one", there.url, protocol)], [model("smart", "one")], **bounds)
            async with started(tmp_path, config) as gateway, gateway.client() as client:

                async def ask():
                    return await client.post(PATHS[protocol], json=asked())

                failed = [await ask() for _ in range(5)]
                begun = time.monotonic()
                refused = [await ask() for _ in range(3)]
                took_s = (time.monotonic() - begun) / 3
                untouched = len(there.requests)
                await until(lambda: _has_state(gateway, State.HALF_OPEN))
                probing = asyncio.create_task(ask())

                async def is_probing():
                    return len(there.requests) == 6

                await until(is_probing)
                refused += [await ask() for _ in range(2)]
                go.set()
                served = [await probing, await ask(), await ask()]
                await idle(gateway)
                return failed, refused, took_s, untouched, served, len(there.requests)

    failed, refused, took_s, untouched, served, calls = run(scenario)

    assert {reply.status_code for reply in failed} == {502}
    assert {reply.status_code for reply in refused} == {FULL[protocol]}
    assert {reply.headers["retry-after"] for reply in refused} == {"1"}
    assert all("have been failing" in reply.json()["error"]["message"] for reply in refused)
    assert took_s < 0.1
    assert {reply.status_code for reply in served} == {200}
    assert (untouched, calls) == (5, 8)
    rows = check_books(tmp_path)
    assert [row["outcome"] for row in rows] == ["upstream_error"] * 5 + ["completed"] * 3
    prove(tmp_path)


def _one_at_a_time(there, max_wait_s):
    more = {"max_concurrent": 1, "max_wait_s": max_wait_s}
    return routed([place("one", there.url, **more)], [model("smart", "one")])


def _waiting(gateway, count):
    async def is_so():
        return gateway.gateway.router.queue("one").waiting == count

    return is_so


def test_members_take_turns_before_an_upstream_that_takes_one_at_a_time(tmp_path):
    async def scenario():
        go = asyncio.Event()
        async with (
            upstream([go, WHOLE["anthropic"]]) as there,
            started(tmp_path, _one_at_a_time(there, 30)) as gateway,
        ):
            _, secret = await gateway.mint(member="second")
            async with gateway.client() as many, gateway.client(secret) as few:
                asking = []

                async def ask(client, text):
                    asking.append(
                        asyncio.create_task(client.post("/v1/messages", json=asked(text)))
                    )

                for number in range(4):
                    await ask(many, f"many {number}")
                    await until(_waiting(gateway, number))
                for number in range(2):
                    await ask(few, f"few {number}")
                    await until(_waiting(gateway, 4 + number))
                go.set()
                replies = await asyncio.gather(*asking)
                await idle(gateway)
            said = [json.loads(body)["messages"][0]["content"] for _, body in there.requests]
            return said, {reply.status_code for reply in replies}

    said, codes = run(scenario)

    assert codes == {200}
    assert said == ["many 0", "many 1", "few 0", "many 2", "few 1", "many 3"]
    check_books(tmp_path)


@BOTH
def test_who_waits_too_long_for_a_turn_is_refused_and_pays_nothing(tmp_path, protocol):
    async def scenario():
        go = asyncio.Event()
        async with (
            upstream([go, WHOLE["anthropic"]]) as there,
            started(tmp_path, _one_at_a_time(there, 0.1)) as gateway,
            gateway.client() as client,
        ):
            first = asyncio.create_task(client.post(PATHS[protocol], json=asked()))

            async def is_inside():
                return there.requests

            await until(is_inside)
            late = await client.post(PATHS[protocol], json=asked())
            go.set()
            await idle(gateway)
            return (await first).status_code, late, len(there.requests)

    first, late, calls = run(scenario)

    assert (first, late.status_code, calls) == (200, FULL[protocol], 1)
    assert late.headers["retry-after"] == "1"
    rows = check_books(tmp_path)
    assert [row["cost_micros"] > 0 for row in rows] == [True, False]
    assert (rows[1]["outcome"], rows[1]["error"]) == ("upstream_error", "overloaded")
    prove(tmp_path)


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_turn_is_free_again_when_its_client_hangs_up(tmp_path, is_inside):
    """Whether it was its turn already, or it waited for one."""

    async def scenario():
        stream = [EVENTS, chunked(BEGIN["anthropic"], end=b""), HANG]
        async with (
            upstream(stream, WHOLE["anthropic"]) as there,
            started(tmp_path, _one_at_a_time(there, 30)) as gateway,
            gateway.client() as client,
            gateway.client() as other,
        ):
            queue = gateway.gateway.router.queue("one")
            ask = asked(stream=True)
            async with client.stream("POST", "/v1/messages", json=ask) as reply:
                pieces = reply.aiter_raw()
                await anext(pieces)
                waiting = asyncio.create_task(other.post("/v1/messages", json=asked()))
                await until(_waiting(gateway, 1))
                if not is_inside:
                    waiting.cancel()
                    await asyncio.wait([waiting])
                    await until(_waiting(gateway, 0))
                    assert queue.inside == 1
            if is_inside:
                assert (await waiting).status_code == 200
            await idle(gateway)
            return queue.inside, queue.waiting, len(there.requests)

    inside, waiting, calls = run(scenario)

    assert (inside, waiting, calls) == (0, 0, 2 if is_inside else 1)
    rows = check_books(tmp_path)
    assert [row["outcome"] for row in rows] == [
        "cancelled",
        "completed" if is_inside else "cancelled",
    ]
    assert is_inside or rows[1]["cost_micros"] == 0
    prove(tmp_path)
