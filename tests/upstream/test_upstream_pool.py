"""The pool: which connection an exchange gets, and cancellation at any moment."""

import asyncio
from contextlib import suppress

import pytest
from support.exchanges import OK, ask, refuse
from support.raw_upstream import (
    CHUNKED,
    DEAF,
    FIN,
    HANG,
    QUICK,
    Recorder,
    chunked,
    request,
    run,
    until,
    upstream,
)

from server.config.schema import Timeouts
from server.errors import UpstreamError, UpstreamTimeout
from server.upstream.connection import Origin, StaleConnectionError
from server.upstream.pool import Pool


def test_the_last_used_connection_goes_out_first_and_each_carries_one_exchange():
    async def scenario():
        pool, go = Pool(), asyncio.Event()
        async with upstream([go, OK]) as server:
            asked = [asyncio.create_task(ask(pool, server)) for _ in range(3)]
            await until(lambda: len(server.requests) == 3)
            counts = [(pool.open_count, pool.busy_count)]
            go.set()
            await asyncio.gather(*asked)
            counts.append((pool.open_count, pool.busy_count))
            for _ in range(5):
                await ask(pool, server)
            counts.append((server.accepted, pool.open_count))
            await pool.close()
            await until(lambda: server.open == 0)
        return counts, pool.open_count

    assert run(scenario()) == ([(3, 3), (3, 0), (3, 3)], 0)


def test_origins_do_not_share_connections():
    async def scenario():
        pool = Pool()
        async with upstream([OK]) as one, upstream([OK]) as other:
            for server in (one, other, one):
                await ask(pool, server)
            await pool.close()
        return one.accepted, other.accepted

    assert run(scenario()) == (1, 1)


def test_connections_to_an_origin_that_is_not_kept_close_behind_their_last_exchange():
    """An exchange that began before, or even after, still has its answer."""

    async def scenario():
        pool, go = Pool(), asyncio.Event()
        go.set()
        async with upstream([go, OK]) as gone, upstream([OK]) as kept:
            await asyncio.gather(ask(pool, gone), ask(pool, gone), ask(pool, kept))
            counts = [pool.open_count]
            go.clear()
            running = [asyncio.create_task(ask(pool, gone))]
            await until(lambda: len(gone.requests) == 3)
            pool.keep_only({kept.origin})
            await until(lambda: pool.open_count == 2)
            running.append(asyncio.create_task(ask(pool, gone)))
            await until(lambda: len(gone.requests) == 4)
            go.set()
            answers = await asyncio.gather(*running)
            await until(lambda: pool.open_count == 1)
            await ask(pool, kept)
            counts.append(pool.open_count)
            await pool.close()
        return counts, [each.ends for each in answers], kept.accepted

    assert run(scenario()) == ([3, 1], [[None], [None]], 1)


def test_an_idle_connection_that_the_server_closes_is_dropped():
    async def scenario():
        pool = Pool()
        async with upstream([OK, FIN], [OK]) as server:
            await ask(pool, server)
            await until(lambda: pool.open_count == 0)
            sink = await ask(pool, server)
            await pool.close()
        return sink.ends, server.accepted

    assert run(scenario()) == ([None], 2)


def test_a_connection_that_was_idle_too_long_is_closed_and_not_used():
    async def scenario():
        pool = Pool(max_idle_s=0.05)
        async with upstream([OK]) as server:
            await ask(pool, server)
            await asyncio.sleep(0.06)
            await ask(pool, server)
            await until(lambda: server.open == 1)
            await ask(pool, server)
            await pool.close()
        return server.accepted

    assert run(scenario()) == 2


def test_what_a_burst_opened_is_closed_while_fewer_are_in_use():
    """The last used goes out first, so nobody would ever come to those at the bottom."""

    async def scenario():
        pool, go = Pool(max_idle_s=0.05), asyncio.Event()
        async with upstream([go, OK]) as server:
            burst = [asyncio.create_task(ask(pool, server)) for _ in range(5)]
            await until(lambda: len(server.requests) == 5)
            go.set()
            await asyncio.gather(*burst)
            deadline = asyncio.get_running_loop().time() + 5
            while pool.open_count > 1 and asyncio.get_running_loop().time() < deadline:
                await ask(pool, server)
            counts = (pool.open_count, server.accepted)
            await pool.close()
        return counts

    assert run(scenario()) == (1, 5)


def test_a_connection_that_is_closing_is_not_used():
    """Between the provider's hang-up and the loop's next turn it is still in the pool."""

    async def scenario():
        pool = Pool()
        async with upstream([OK]) as server:
            first = Recorder()
            connection = await pool.send(server.origin, first, *request(), QUICK)
            await first.over
            connection.abort()
            sink = await ask(pool, server)
            await pool.close()
        return sink.ends, server.accepted

    assert run(scenario()) == ([None], 2)


def test_fresh_means_a_new_connection():
    async def scenario():
        pool = Pool()
        async with upstream([OK]) as server:
            await ask(pool, server)
            await ask(pool, server, fresh=True)
            counts = server.accepted, pool.open_count
            await pool.close()
        return counts

    assert run(scenario()) == (2, 2)


def test_a_used_connection_that_closes_without_a_byte_is_stale_and_after_one_byte_is_not():
    async def scenario(*last):
        pool = Pool()
        async with upstream([OK], [*last, FIN]) as server:
            await ask(pool, server)
            sink = await ask(pool, server)
            await until(lambda: pool.open_count == 0)
        return server.accepted, type(sink.ends[0])

    assert run(scenario()) == (1, StaleConnectionError)
    assert run(scenario(b"H")) == (1, UpstreamError)


# connecting


def test_nobody_there():
    async def scenario():
        async with upstream([OK]) as server:
            pass
        return await refuse(Pool(), server.origin), await refuse(
            Pool(), Origin("no-such-host.invalid", 80, False)
        )

    refused = (UpstreamError, "The provider could not be reached.")
    assert run(scenario()) == (refused, refused)


def test_a_connection_that_takes_too_long():
    """A TLS handshake that nobody answers; a full backlog looks the same."""

    async def scenario():
        pool = Pool()
        async with upstream([DEAF, HANG]) as server:
            origin = server.origin._replace(tls=True)
            error = await refuse(pool, origin, Timeouts(connect_s=0.1))
            await until(lambda: server.open == 0)
        return error

    assert run(scenario()) == (
        UpstreamTimeout,
        "The provider could not be reached in time.",
    )


# cancelling


async def cancelled(pool, server, moment, *, body=b"{}", tls=False, twice=False):
    """Cancel a task that awaits an exchange once `moment()` is true, as a pump does."""
    sink = Recorder()
    origin = server.origin._replace(tls=tls)

    async def pump():
        connection = await pool.send(origin, sink, *request(body), QUICK)
        try:
            await sink.over
        finally:
            connection.abort()

    task = asyncio.create_task(pump())
    await until(lambda: moment(sink))
    task.cancel()
    if twice:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await until(lambda: pool.open_count == 0 and server.open == 0, 2)
    assert (pool.busy_count, sink.ends) == (0, [])


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    ("script", "body", "tls"),
    [
        ([DEAF, HANG], b"{}", True),
        ([DEAF, asyncio.sleep, HANG], bytes(5_000_000), False),
        ([HANG], b"{}", False),
        ([b"HTTP/1.1 200 OK\r\nx-", HANG], b"{}", False),
        ([CHUNKED, chunked(b"a", end=b""), HANG], b"{}", False),
    ],
    ids=["in the handshake", "while writing", "before the head", "in the head", "in the body"],
)
def test_a_cancelled_exchange_closes_its_connection_at_once(script, body, tls, twice):
    async def scenario():
        pool, writing = Pool(), asyncio.Event()
        steps = [writing if step is asyncio.sleep else step for step in script]
        async with upstream(steps) as server:

            def moment(sink):
                reached = server.accepted if script[0] is DEAF else server.requests
                if reached and writing not in steps:
                    return sink.data or CHUNKED not in script
                return reached

            writing_is_seen = asyncio.get_running_loop().call_later(0.05, writing.set)
            await cancelled(pool, server, moment, body=body, tls=tls, twice=twice)
            writing_is_seen.cancel()
            return pool.open_count, pool.busy_count, server.open

    assert run(scenario()) == (0, 0, 0)


@pytest.mark.parametrize("ticks", range(8))
def test_a_request_cancelled_in_any_turn_of_the_loop_leaves_nothing(ticks):
    async def scenario():
        pool = Pool()
        async with upstream([HANG]) as server:
            sink, connections = Recorder(), []

            async def pump():
                connections.append(await pool.send(server.origin, sink, *request(), QUICK))
                try:
                    await sink.over
                finally:
                    connections[0].abort()

            task = asyncio.create_task(pump())
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await until(lambda: pool.open_count == 0 and server.open == 0, 2)
        return pool.busy_count

    assert run(scenario()) == 0


def test_closing_the_pool_ends_idle_and_busy_connections():
    async def scenario():
        pool = Pool()
        async with upstream([OK], [HANG]) as server:
            await ask(pool, server)
            await pool.send(server.origin, Recorder(), *request(), QUICK, fresh=True)
            await ask_later(pool, server)
            await asyncio.wait_for(pool.close(), 1)
            await until(lambda: server.open == 0)
            await pool.close()
        return pool.open_count

    async def ask_later(pool, server):
        await pool.send(server.origin, Recorder(), *request(), QUICK)
        await until(lambda: len(server.requests) == 3)

    assert run(scenario()) == 0
