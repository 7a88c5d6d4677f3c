"""Exchanges of a real pool with a scripted upstream, without a relay."""

import asyncio

import pytest
from support.raw_upstream import QUICK, Recorder, request, run, sized, until, upstream

from server.errors import UpstreamError, UpstreamTimeout
from server.upstream.pool import Pool

OK = sized(b"{}")


def exchange(*scripts, times=1, timeouts=QUICK, body=b"{}", settle=False):
    """Send `times` requests one after the other; give the recorders, the server and the pool."""

    async def scenario():
        pool = Pool()
        async with upstream(*scripts) as server:
            sinks = []
            for _ in range(times):
                sinks.append(sink := Recorder())
                await pool.send(server.origin, sink, *request(body), timeouts)
                await asyncio.wait_for(asyncio.shield(sink.over), 10)
                if settle:
                    await until(lambda: not pool.busy_count)
            await until(lambda: not pool.busy_count)
            seen = (server.accepted, pool.open_count)
            await pool.close()
            assert pool.open_count == 0
        return sinks, *seen

    return run(scenario())


def answer(*script, **options):
    """Give the recorder of one exchange that plays `script`."""
    return exchange(list(script), **options)[0][0]


def error_of(sink):
    return type(sink.ends[0]), str(sink.ends[0])


async def ask(pool, server, **options):
    """Run one exchange to its end; give the recorder."""
    sink = Recorder()
    await pool.send(server.origin, sink, *request(), QUICK, **options)
    await asyncio.wait_for(asyncio.shield(sink.over), 5)
    return sink


async def refuse(pool, origin, timeouts=QUICK):
    """Give the error of an exchange that finds no connection."""
    with pytest.raises((UpstreamError, UpstreamTimeout)) as refused:
        await pool.send(origin, Recorder(), *request(), timeouts)
    assert pool.open_count == 0
    return type(refused.value), str(refused.value)
