"""Thousands who are connected and do little: what each costs, and that nobody else notices.

The figures are in README "Speed"; `pytest -m slow -s tests/e2e/test_crowds.py` prints them.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from support.processes import Process, prepare
from support.raw_upstream import BIT, EVENTS
from support.upstreams import both_protocols
from support.wires import ASK, Wire, request, run, until, wire

KIB = 1024
AT_ONCE = 200
PROBES = 20
ROOM = "server: {max_connections: 6000}\n"
HELD_S = 3
STREAM = json.dumps({**ASK, "stream": True}).encode()
BEGIN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":'
    b'{"input_tokens":7,"output_tokens":1}}}\n\n'
) + BIT


def _delta(size):
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"text_delta","text":"' + b"x" * size + b'"}}\n\n'
    )


def _chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def _endless(delta, every_s):
    """Run an upstream whose streams never end."""

    async def serve(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            named = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(named[b"content-length"]))
            writer.write(EVENTS + _chunk(BEGIN))
            while not writer.is_closing():
                writer.write(_chunk(delta))
                await writer.drain()
                await asyncio.sleep(every_s)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _idle(connection, secret):
    await connection.ask(request("GET", "/healthz"))


async def _slow_head(connection, secret):
    await connection.send(b"GET /healthz HTTP/1.1\r\nhost: gateway\r\nx-long: ")


async def _slow_body(connection, secret):
    asked = request("POST", "/v1/messages", b"x" * 1000, x_api_key=secret)
    await connection.send(asked[:-999])


async def _slow_stream(connection, secret):
    await connection.send(request("POST", "/v1/messages", STREAM, x_api_key=secret))
    await connection.reader.readuntil(b"message_start")


async def _slow_reader(connection, secret):
    await connection.send(request("POST", "/v1/messages", STREAM, x_api_key=secret))


@asynccontextmanager
async def _deaf(url):
    """A connection of which the client's system takes little that nobody reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    parts = urlsplit(url)
    await asyncio.get_running_loop().sock_connect(client, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=4096)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@dataclass(frozen=True)
class Crowd:
    """How many come, what each does, and how much memory one may cost."""

    count: int
    begin: Callable
    kib_each: int
    drips: bool = False
    connect: Callable = wire
    event: bytes = _delta(20)
    every_s: float = 1.0


CROWDS = {
    "idle connections": Crowd(5_000, _idle, 16),
    "slow heads": Crowd(1_000, _slow_head, 24, drips=True),
    "slow bodies": Crowd(1_000, _slow_body, 32, drips=True),
    "slow streams": Crowd(1_000, _slow_stream, 48),
    "slow readers": Crowd(
        100, _slow_reader, 640, connect=_deaf, event=_delta(60_000), every_s=0.01
    ),
}


async def _gather(stack, crowd, url, secret):
    """Let everyone come, some at a time, and do what they came for."""
    here = []

    async def come():
        connection = await stack.enter_async_context(crowd.connect(url))
        await crowd.begin(connection, secret)
        here.append(connection)

    for begin in range(0, crowd.count, AT_ONCE):
        await asyncio.gather(*(come() for _ in range(min(AT_ONCE, crowd.count - begin))))
    return here


async def _stay(crowd, here):
    for _ in range(HELD_S):
        for connection in here if crowd.drips else ():
            connection.writer.write(b"x")
        await asyncio.sleep(1)


async def _probe(url, secret):
    """Give how long another's requests take, the slowest first."""
    times = []
    async with wire(url) as connection:
        for _ in range(PROBES):
            began = time.monotonic()
            reply = await connection.ask(request("GET", "/v1/models", x_api_key=secret))
            times.append(time.monotonic() - began)
            assert reply.status == 200
    return sorted(times, reverse=True)


async def _is_empty(url):
    async with wire(url) as connection:
        shown = (await connection.ask(request("GET", "/metrics"))).body.decode()
    return "\ngatewayctl_streams_open 0\n" in shown and (
        "\ngatewayctl_requests_in_flight 0\n" in shown
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", CROWDS)
def test_a_crowd_costs_little_memory_and_nobody_elses_time(tmp_path, name):
    crowd = CROWDS[name]

    async def scenario():
        async with _endless(crowd.event, crowd.every_s) as upstream:
            secret = prepare(tmp_path, both_protocols(upstream) + ROOM)
            config = str(tmp_path / "config.yaml")
            gateway = await Process.start("serve", "--config", config, "--port", "0")
            try:
                await _probe(gateway.url, secret)
                before = gateway.pss_bytes
                async with AsyncExitStack() as stack:
                    here = await _gather(stack, crowd, gateway.url, secret)
                    await _stay(crowd, here)
                    times = await _probe(gateway.url, secret)
                    after = gateway.pss_bytes
                await until(lambda: _is_empty(gateway.url), 20)
            finally:
                await gateway.end()
            return before, after, times

    before, after, times = run(scenario)

    each = (after - before) / crowd.count / KIB
    figures = before / KIB / KIB, after / KIB / KIB, each, times[PROBES // 2] * 1000
    print("{}: {:.1f} -> {:.1f} MiB, {:.1f} KiB each, {:.1f} ms".format(name, *figures))  # noqa: T201
    assert each < crowd.kib_each
    assert times[0] < 1
