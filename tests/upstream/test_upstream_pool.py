"""The pool: which connection an exchange gets, cancellation at any moment, TLS."""

import asyncio
import os
import ssl
import subprocess
import sys
from contextlib import suppress

import pytest
import trustme
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
    sized,
    until,
    upstream,
)

from server.config.schema import Timeouts
from server.errors import UpstreamError, UpstreamTimeout
from server.upstream.connection import Origin, StaleConnectionError
from server.upstream.pool import Pool

OK = sized(b"{}")


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

    run(scenario())


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


# TLS


def authority():
    """Give a certificate authority, and contexts for a server that it vouches for."""
    ca = trustme.CA()

    def server_context(*names):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert(*names).configure_cert(context)
        return context

    client = ssl.create_default_context()
    ca.configure_trust(client)
    return ca, server_context, client


def test_tls_is_verified_and_names_the_host():
    _, server_context, client = authority()
    tls, names = server_context("localhost"), []
    tls.sni_callback = lambda _, name, __: names.append(name)

    async def scenario():
        pool = Pool(ssl_context=client)
        async with upstream(
            [b"HTTP/1.1 200 OK\r\n\r\n{}", FIN], [OK], tls=tls, host="localhost"
        ) as server:
            sinks = [await ask(pool, server) for _ in range(3)]
            await pool.close()
        return sinks, server.accepted

    sinks, accepted = run(scenario())

    assert [(bytes(sink.data), sink.ends) for sink in sinks] == [(b"{}", [None])] * 3
    assert (accepted, names) == (2, ["localhost"] * 2)


def test_a_big_body_goes_out_and_comes_back_over_tls():
    _, server_context, client = authority()
    big = bytes(range(256)) * 20_000

    async def scenario():
        pool, sink = Pool(ssl_context=client), Recorder()
        tls = server_context("127.0.0.1")
        async with upstream([sized(big)], tls=tls) as server:
            await pool.send(server.origin, sink, *request(big), QUICK)
            error = await asyncio.wait_for(sink.over, 10)
            await pool.close()
        return error, sink.data == big, server.requests[0][1] == big

    assert run(scenario()) == (None, True, True)


@pytest.mark.parametrize(
    ("name", "is_known"), [("other.example", True), ("127.0.0.1", True), ("localhost", False)]
)
def test_a_certificate_for_another_host_or_from_an_unknown_authority_is_refused(name, is_known):
    _, server_context, client = authority()

    async def scenario():
        pool = Pool(ssl_context=client if is_known else None)
        async with upstream([OK], tls=server_context(name), host="localhost") as server:
            error = await refuse(pool, server.origin)
        return error, server.requests

    assert run(scenario()) == (
        (UpstreamError, "The provider's TLS certificate or handshake failed."),
        [],
    )


def test_tls_to_a_server_that_speaks_none_is_refused():
    async def scenario():
        async with upstream([DEAF, b"HTTP/1.1 400 Bad\r\n\r\n", FIN]) as server:
            return await refuse(Pool(), server.origin._replace(tls=True))

    assert run(scenario())[0] is UpstreamError


def test_a_server_that_hangs_up_right_after_the_handshake_leaves_nothing():
    _, server_context, client = authority()

    async def scenario():
        pool = Pool(ssl_context=client)
        async with upstream([DEAF, FIN], tls=server_context("localhost"), host="localhost") as it:
            for _ in range(20):
                sink = Recorder()
                with suppress(UpstreamError):
                    await pool.send(it.origin, sink, *request(), QUICK)
                    await asyncio.wait_for(asyncio.shield(sink.over), 5)
            await until(lambda: pool.open_count == 0)
            await asyncio.wait_for(pool.close(), 1)

    run(scenario())


ASK = """
import asyncio, sys
from support.raw_upstream import QUICK, Recorder, request, run
from server.upstream.connection import Origin
from server.upstream.pool import Pool

async def main():
    pool, sink = Pool(), Recorder()
    await pool.send(Origin("localhost", int(sys.argv[1]), True), sink, *request(), QUICK)
    await sink.over
    await pool.close()
    return bytes(sink.data).decode()

print(run(main()))
"""


def ask_in_a_process(port, **environ):
    """Ask the server at `port` from a process of its own; give its output."""
    path = os.pathsep.join(each for each in sys.path if each)
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(port)],
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_ssl_cert_file_adds_an_authority_and_the_environments_proxies_are_ignored(tmp_path):
    ca, server_context, _ = authority()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    dead = "http://127.0.0.1:1"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy"), dead)

    async def scenario():
        tls = server_context("localhost")
        async with upstream([OK], tls=tls, host="localhost") as server:
            known = await asyncio.to_thread(
                ask_in_a_process, server.port, SSL_CERT_FILE=str(tmp_path / "ca.pem"), **proxies
            )
            unknown = await asyncio.to_thread(ask_in_a_process, server.port)
        return known, unknown

    known, unknown = run(scenario())

    assert known == "{}"
    assert unknown.endswith("The provider's TLS certificate or handshake failed.")
