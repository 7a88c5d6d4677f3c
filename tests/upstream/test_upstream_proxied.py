"""A configured outbound proxy is really used, and nothing else changes."""

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from support.forward_proxy import forward_proxy
from support.raw_upstream import (
    EVENTS,
    FIN,
    HANG,
    RST,
    chunked,
    run,
    sized,
    until,
    upstream,
)
from support.relays import client_for, read, relayed, start

from server.config.schema import Timeouts, Upstream
from server.errors import UpstreamError, UpstreamTimeout
from server.secret import Secret
from server.upstream.client import endpoint_of

MESSAGES = (Path(__file__).parent.parent / "data" / "messages_text.sse").read_bytes()
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"a"}}\n\n'
)
FAST = Timeouts(connect_s=1, first_byte_s=0.2, idle_s=0.2, write_s=0.2)


def contexts():
    """Give a server's and a client's TLS context under an authority of our own."""
    ca = trustme.CA()
    server, client = (
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    ca.issue_cert("localhost").configure_cert(server)
    ca.configure_trust(client)
    return server, client


def scene(play, *scripts, tls=False, proxied=True, timeouts=Timeouts(), **options):  # noqa: B008
    """Run `play(client, server, proxy)`; nothing may stay open behind it."""
    server_context, client_context = contexts() if tls else (None, None)
    host = "localhost" if tls else "127.0.0.1"

    async def main():
        async with (
            upstream(*scripts, tls=server_context, host=host) as server,
            forward_proxy(**options) as proxy,
        ):
            client = client_for(
                server,
                proxy=proxy.url if proxied else None,
                timeouts=timeouts,
                ssl_context=client_context,
            )
            try:
                result = await play(client, server, proxy)
            finally:
                await client.close()
            await until(lambda: server.open == 0 and proxy.open == 0, 2)
        return result

    return run(main())


async def one(client, server, proxy):
    return await relayed(client), server, proxy


@pytest.mark.parametrize("tls", [False, True])
def test_requests_go_through_the_proxy_and_arrive_byte_for_byte(tls):
    body = bytes(range(256)) * 4_000

    async def play(client, server, proxy):
        return await relayed(client, body=body), server, proxy

    scripts = [EVENTS + chunked(MESSAGES)]
    got, server, proxy = scene(play, *scripts, tls=tls)
    _, direct, no_proxy = scene(play, *scripts, tls=tls, proxied=False)

    assert (bytes(got.stream), got.error) == (MESSAGES, None)
    port = server.port
    assert proxy.lines == [
        f"CONNECT localhost:{port} HTTP/1.1".encode()
        if tls
        else f"POST http://127.0.0.1:{port}/v1/messages HTTP/1.1".encode()
    ]
    assert no_proxy.lines == []
    assert server.requests[0][1] == body
    there = server.requests[0][0].lower().replace(b"%d" % port, b"PORT").split(b"\r\n")
    straight = direct.requests[0][0].lower().replace(b"%d" % direct.port, b"PORT").split(b"\r\n")
    assert sorted(there) == sorted(straight)


@pytest.mark.parametrize("tls", [False, True])
def test_streams_flow_through_the_proxy_as_they_come(tls):
    go = []

    async def play(client, server, _):
        relay, task = start(client)
        await until(lambda: relay.has_delivered)
        first = await relay.handoff.get()
        go[0].set()
        await task
        return first, await relay.handoff.get()

    class Gate(asyncio.Event):
        def __init__(self):
            super().__init__()
            go.append(self)

    script = [EVENTS, chunked(DELTA, end=b""), Gate(), chunked(MESSAGES)]
    assert scene(play, script, tls=tls) == (DELTA, MESSAGES)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("moment", ["before the head", "amid the body"])
def test_cancelling_closes_everything_at_once(tls, twice, moment):
    async def play(client, server, proxy):
        relay, task = start(client)
        await until(lambda: server.requests if moment == "before the head" else relay.has_delivered)
        task.cancel()
        if twice:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: server.open == 0 and proxy.open == 0, 2)
        return (await relayed(client)).error

    amid = [] if moment == "before the head" else [EVENTS, chunked(DELTA, end=b"")]
    assert scene(play, [*amid, HANG], [EVENTS + chunked(MESSAGES)], tls=tls) is None


def test_a_slow_client_slows_the_provider_through_the_proxy():
    count = 2_000
    delta = b": " + b"x" * 9_996 + b"\n\n"

    async def play(client, server, _):
        relay, task = start(client)
        sent = -1
        await until(lambda: server.sent > 300_000)
        while sent != server.sent:
            sent = server.sent
            await asyncio.sleep(0.05)
        held, stream = relay.handoff._size, bytearray()
        while piece := await relay.handoff.get():
            stream += piece
        await task
        return sent, held, bytes(stream)

    script = [EVENTS, *[chunked(delta, end=b"")] * count, chunked(MESSAGES)]
    sent, held, stream = scene(play, script)

    assert held < 512 * 1024
    assert sent < 15_000_000
    assert stream == delta * count + MESSAGES


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([FIN], UpstreamError),
        ([RST], UpstreamError),
        ([b"<html>", FIN], UpstreamError),
        ([EVENTS, chunked(DELTA, end=b""), FIN], UpstreamError),
        ([EVENTS, chunked(DELTA), FIN], UpstreamError),
        ([HANG], UpstreamTimeout),
        ([EVENTS, chunked(DELTA, end=b""), HANG], UpstreamTimeout),
        ([sized(b"", "location: http://127.0.0.1:1/", status="302 Found")], UpstreamError),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_failures_behind_the_proxy_are_502_or_504(script, error, tls):
    got, server, _ = scene(one, script, tls=tls, timeouts=FAST)

    assert type(got.error) is error
    assert len(server.requests) == 1


def test_the_idle_time_is_its_own_behind_the_first_bytes():
    patient = Timeouts(connect_s=1, first_byte_s=5, idle_s=0.2, write_s=1)
    eager = Timeouts(connect_s=1, first_byte_s=0.2, idle_s=5, write_s=1)
    script = [EVENTS, chunked(DELTA, end=b""), 0.5, chunked(MESSAGES)]

    cut, _, _ = scene(one, script, timeouts=patient)
    whole, _, _ = scene(one, script, timeouts=eager)

    assert (type(cut.error), bytes(cut.stream)) == (UpstreamTimeout, DELTA)
    assert (whole.error, bytes(whole.stream)) == (None, DELTA + MESSAGES)


@pytest.mark.parametrize("tls", [False, True])
def test_a_proxy_that_refuses_or_is_not_there_is_a_502(tls):
    async def gone(client, server, proxy):
        return await relayed(client_for(server, proxy="http://127.0.0.1:1")), server, proxy

    refused, server, _ = scene(one, [FIN], tls=tls, refuses=True)
    absent, other, _ = scene(gone, [FIN], tls=tls)

    assert (type(refused.error), type(absent.error)) == (UpstreamError, UpstreamError)
    assert server.requests == other.requests == []


def test_an_unknown_authority_is_refused_behind_the_proxy_too():
    async def play(client, server, proxy):
        distrustful = client_for(server, proxy=proxy.url)
        got = await relayed(distrustful)
        await distrustful.close()
        return got.error, server.requests

    error, requests = scene(play, [FIN], tls=True)

    assert (type(error), requests) == (UpstreamError, [])


def test_closing_ends_what_is_under_way():
    async def play(client, server, proxy):
        _, task = start(client)
        await until(lambda: server.requests)
        before = server.open
        await asyncio.wait_for(client.close(), 2)
        await until(lambda: server.open == 0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return before, server.open

    assert scene(play, [HANG]) == (1, 0)


def test_a_successor_keeps_the_proxies_it_needs_and_others_close_behind_what_runs():
    go = asyncio.Event()

    async def play(client, server, proxy):
        relay, pump = start(client)
        reading = asyncio.create_task(read(relay))
        await until(lambda: server.requests)
        there = Upstream(protocol="anthropic", base_url=server.url, proxy=Secret(proxy.url))
        direct = Upstream(protocol="anthropic", base_url=server.url)
        same = client.succeeded_by({"there": endpoint_of("there", there, None)}, [pump])
        answers = [await relayed(same)]
        last = same.succeeded_by({"there": endpoint_of("there", direct, None)}, [pump])
        answers.append(await relayed(last))
        was_open = proxy.open
        go.set()
        answers.append(await reading)
        await until(lambda: not proxy.open)
        await last.close()
        return was_open, len(proxy.lines), [(each.error, bytes(each.stream)) for each in answers]

    scripts = [[EVENTS, go, chunked(MESSAGES)], EVENTS + chunked(MESSAGES)]

    assert scene(play, *scripts) == (2, 2, [(None, MESSAGES)] * 3)
