"""Requests forwarded to a scripted upstream through a real client and relay, without a gateway."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.raw_upstream import EVENTS, QUICK, chunked, run, until, upstream
from support.validators import check_chat_stream, check_messages_stream

from server.config.schema import Target, Upstream
from server.errors import GatewayError
from server.protocols import Protocol
from server.protocols.by_protocol import METER, PING
from server.protocols.translation.ways import AS_THEY_ARE
from server.secret import Secret
from server.upstream.client import Dispatch, UpstreamClient, endpoint_of
from server.upstream.connection import Head
from server.upstream.pool import Pool
from server.upstream.relay import Relay

DATA = Path(__file__).parent.parent / "data"
MESSAGES = (DATA / "messages_text.sse").read_bytes()
CHAT = (DATA / "chat_text.sse").read_bytes()
STREAMS = {"anthropic": MESSAGES, "openai": CHAT}
CHECKS = {"anthropic": check_messages_stream, "openai": check_chat_stream}
BEGIN = {
    "anthropic": b"".join(piece + b"\n\n" for piece in MESSAGES.split(b"\n\n")[:4]),
    "openai": b"".join(piece + b"\n\n" for piece in CHAT.split(b"\n\n")[:4]),
}
FRAME = {
    "anthropic": MESSAGES[: MESSAGES.index(b"event: content_block_delta")],
    "openai": CHAT[: CHAT.index(b"\n\n") + 2],
}
DELTA = BEGIN["anthropic"].removeprefix(FRAME["anthropic"])
HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
BOTH = pytest.mark.parametrize("protocol", ["anthropic", "openai"])


@dataclass
class Relayed:
    """What a client was given."""

    relay: Relay
    stream: bytearray = field(default_factory=bytearray)
    pieces: list[bytes] = field(default_factory=list)
    error: GatewayError | None = None

    @property
    def usage(self):
        return self.relay.meter.usage


def client_for(server, *, protocol="anthropic", proxy=None, timeouts=QUICK, ssl_context=None):
    """Give an UpstreamClient that knows `server` as `there`."""
    provider = Upstream(
        protocol=protocol,
        base_url=server.url,
        api_key=Secret("sk-fake-upstream-key"),
        headers={"X-Extra": Secret("1")},
        proxy=None if proxy is None else Secret(proxy),
        timeouts=timeouts,
    )
    return UpstreamClient({"there": endpoint_of("there", provider, None)}, Pool(ssl_context))


def dispatch(protocol="anthropic", body=b'{"model": "m"}'):
    return Dispatch(
        target=Target(upstream="there", model="m"),
        protocol=Protocol(protocol),
        headers={"anthropic-version": "2023-06-01"},
        body=body,
        request_id="req_test",
    )


def relay_for(protocol, *, streaming=True, answers=AS_THEY_ARE, hide_usage=False, **options):
    """Make a relay whose first attempt speaks `protocol`."""
    options = {"ping": PING[Protocol(protocol)], **options}
    relay = Relay(streaming=streaming, **options)
    relay.begin(Protocol(protocol), answers, hide_usage=hide_usage)
    return relay


def start(client, *, protocol="anthropic", body=b'{"model": "m"}', streaming=True, **options):
    """Start a request as a pump does; give the relay and the task."""
    relay = relay_for(protocol, streaming=streaming, **options)

    async def pump():
        error = None
        try:
            error = await client.forward(dispatch(protocol, body), relay.attempt)
        finally:
            relay.release(error)

    return relay, asyncio.create_task(pump())


async def read(relay):
    """Read a relay to its end as a handler does."""
    got = Relayed(relay)
    await asyncio.wait_for(asyncio.shield(relay.started), 10)
    try:
        relay.raise_early_error()
        if relay.body is not None:
            got.stream += relay.body
        else:
            while piece := await asyncio.wait_for(relay.handoff.get(), 10):
                got.pieces.append(piece)
                got.stream += piece
    except GatewayError as err:
        got.error = err
    return got


async def relayed(client, **options):
    """Forward one request and read its answer to the end."""
    relay, task = start(client, **options)
    got = await read(relay)
    await task
    return got


def feed(attempt, *pieces):
    """Give an attempt the head and the first pieces of a stream."""
    attempt.on_head(HEAD)
    for piece in pieces:
        attempt.on_data(piece)


async def ended(relay):
    """Give what the client of a relay gets whose latest attempt has ended."""
    relay.release(await asyncio.wait_for(relay.attempt.over, 5))
    return await read(relay)


def metered(stream, protocol):
    """Give the usage, the stop reason and the error that a whole stream tells."""
    meter = METER[Protocol(protocol)]()
    meter.feed(stream)
    return meter.usage, meter.stop_reason, meter.error


def answer(*script, protocol="anthropic", **options):
    """Relay one streamed answer that plays `script`; nothing may stay open behind it."""

    async def scenario():
        async with upstream(list(script)) as server:
            client = client_for(server, protocol=protocol)
            got = await relayed(client, protocol=protocol, **options)
            assert client.pool.busy_count == 0
            await client.close()
            await until(lambda: server.open == 0)
        return got

    return run(scenario())


def events(stream, size=None):
    """Play `stream` in chunks of `size` bytes, then end it."""
    size = size or len(stream)
    return [EVENTS, chunked(*(stream[at : at + size] for at in range(0, len(stream), size)))]
