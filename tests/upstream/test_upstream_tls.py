"""TLS to a provider: who is believed, which name is asked for, what a failure leaves."""

import asyncio
import os
import ssl
import subprocess
import sys

import pytest
import trustme
from support.exchanges import OK, ask, refuse
from support.raw_upstream import DEAF, FIN, QUICK, Recorder, request, run, sized, until, upstream

from server.errors import UpstreamError
from server.upstream.pool import Pool


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
            ends = []
            for _ in range(20):
                sink = Recorder()
                try:
                    await pool.send(it.origin, sink, *request(), QUICK)
                    ends.append(await asyncio.wait_for(asyncio.shield(sink.over), 5))
                except UpstreamError as refused:
                    ends.append(refused)
            await until(lambda: pool.open_count == 0)
            await asyncio.wait_for(pool.close(), 1)
            return ends, pool.busy_count

    ends, busy = run(scenario())

    assert {isinstance(end, UpstreamError) for end in ends} == {True}
    assert (len(ends), busy) == (20, 0)


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
