"""Requests forwarded to a scripted upstream through a real client and relay, without a gateway."""

import asyncio
from dataclasses import dataclass, field

from support.raw_upstream import QUICK

from server.config.schema import Target, Upstream
from server.errors import GatewayError
from server.protocols import Protocol
from server.upstream.client import Dispatch, UpstreamClient, endpoint_of
from server.upstream.pool import Pool
from server.upstream.relay import Relay


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
    upstream = Upstream(
        protocol=protocol,
        base_url=server.url,
        api_key="sk-fake-upstream-key",
        headers={"X-Extra": "1"},
        proxy=proxy,
        timeouts=timeouts,
    )
    return UpstreamClient({"there": endpoint_of(upstream, None)}, Pool(ssl_context))


def dispatch(protocol="anthropic", body=b'{"model": "m"}'):
    return Dispatch(
        target=Target(upstream="there", model="m"),
        protocol=Protocol(protocol),
        headers={"anthropic-version": "2023-06-01"},
        body=body,
        request_id="req_test",
    )


def start(client, *, protocol="anthropic", body=b'{"model": "m"}', streaming=True, **options):
    """Start a request as a pump does; give the relay and the task."""
    relay = Relay(Protocol(protocol), streaming=streaming, **options)

    async def pump():
        error = None
        try:
            error = await client.forward(dispatch(protocol, body), relay)
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
