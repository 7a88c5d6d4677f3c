"""server.max_connections: who is there stays, and one more is told to come back."""

import asyncio
import json
import resource
from contextlib import AsyncExitStack

import pytest
from support.gateways import DEMO_CONFIG, config_for, started
from support.processes import Process, prepare
from support.wires import (
    ASK,
    MESSAGE,
    check_refusal,
    http_answer,
    recording,
    request,
    run,
    until,
    wire,
)

TWO = DEMO_CONFIG + "server: {max_connections: 2}\n"
HEALTHZ = request("GET", "/healthz")


def test_one_connection_too_many_is_a_503_and_the_others_do_not_notice(tmp_path):
    async def scenario():
        async with started(tmp_path, TWO) as gateway, AsyncExitStack() as stack:
            here = [await stack.enter_async_context(wire(gateway.url)) for _ in range(2)]
            before = [await each.ask(HEALTHZ) for each in here]
            async with wire(gateway.url) as surplus:
                refused = await surplus.ask(HEALTHZ)
                end = await surplus.end()
            after = [await each.ask(HEALTHZ) for each in here]
        return refused, end, before + after

    refused, end, replies = run(scenario)

    check_refusal(refused, "openai", 503, "unavailable")
    assert (refused.header("connection"), refused.header("retry-after"), end) == (
        "close",
        "5",
        "fin",
    )
    assert [reply.status for reply in replies] == [200] * 4


def test_where_one_leaves_another_may_come(tmp_path):
    async def scenario():
        async with started(tmp_path, TWO) as gateway, wire(gateway.url) as first:
            await first.ask(HEALTHZ)
            async with wire(gateway.url) as second:
                await second.ask(HEALTHZ)

            async def is_let_in():
                async with wire(gateway.url) as third:
                    return (await third.ask(HEALTHZ)).status == 200

            return await until(is_let_in)

    assert run(scenario)


def test_a_flood_leaves_nothing_behind(tmp_path):
    """Although none of them sends anything, or closes its own side."""

    async def refused(gateway):
        async with wire(gateway.url) as surplus:
            return (await surplus.reply()).status, await surplus.end()

    async def scenario():
        async with started(tmp_path, TWO) as gateway, AsyncExitStack() as stack:
            for _ in range(2):
                await (await stack.enter_async_context(wire(gateway.url))).ask(HEALTHZ)
            seen = await asyncio.gather(*(refused(gateway) for _ in range(100)))
            await until(lambda: _is(len(gateway.running.connections) == 2))
        return set(seen)

    assert run(scenario) == {(503, "fin")}
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()


async def _is(value):
    return value


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")
def test_idle_connections_leave_files_for_those_who_ask(tmp_path):
    """Whatever `max_connections` says: the system may allow fewer files than they would take."""

    async def scenario():
        async with recording(http_answer(200, MESSAGE)) as upstream, AsyncExitStack() as stack:
            secret = prepare(tmp_path, config_for(upstream.url))
            config = str(tmp_path / "config.yaml")
            gateway = await Process.start("serve", "--config", config, "--port", "0")
            stack.push_async_callback(gateway.end)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (120, hard))
            here = [await stack.enter_async_context(wire(gateway.url)) for _ in range(70)]
            refused = [await each.reply() for each in here[60:]]
            asking = request("POST", "/v1/messages", json.dumps(ASK).encode(), x_api_key=secret)
            return refused, [(await each.ask(asking)).status for each in here[:60]]

    refused, served = run(scenario)

    assert [each.status for each in refused] == [503] * 10
    assert served == [200] * 60
