"""Slow readers cost little memory and nobody else's time; many streams at once are fine."""

import asyncio
import json
import socket
import sys
from urllib.parse import urlsplit

import httpx
import pytest
from support.gateways import DEMO_CONFIG, started
from support.processes import Process, prepare
from support.raw_upstream import EVENTS, until, upstream
from support.upstreams import both_protocols
from support.validators import check_chat_stream, check_messages_stream
from support.wires import request, run, wire

from server.upstream.demo import DemoOptions

MB = 1024 * 1024
_NO_LIMITS = httpx.Limits(max_connections=None)
TOTAL = 60 * MB
ASK = {"model": "smart", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
BEGIN = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","usage":'
    b'{"input_tokens":7,"output_tokens":1}}}\n\n'
)
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"' + b"x" * 60_000 + b'"}}\n\n'
)
END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":9}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)


def _chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sixty_megabytes_for_a_client_that_does_not_read_stay_at_the_provider(tmp_path):
    count = TOTAL // len(DELTA)
    big = [EVENTS, _chunk(BEGIN), *[_chunk(DELTA)] * count, _chunk(END), b"0\r\n\r\n"]
    small = [EVENTS, _chunk(BEGIN), _chunk(END), b"0\r\n\r\n"]
    body = json.dumps({**ASK, "stream": True}).encode()

    async def scenario():
        async with upstream(small, big, small) as there:
            secret = prepare(tmp_path, both_protocols(there.url))
            config = str(tmp_path / "config.yaml")
            gateway = await Process.start("serve", "--config", config, "--port", "0")
            try:
                asked = request("POST", "/v1/messages", body, x_api_key=secret)
                async with wire(gateway.url) as connection:
                    await connection.ask(asked)
                before = gateway.resident_bytes
                reader, writer = await _deaf(gateway.url)
                writer.write(asked)
                await _until_still(there)
                grown, stuck_at = gateway.resident_bytes - before, there.sent
                async with wire(gateway.url) as connection:
                    others = [await connection.ask(asked) for _ in range(20)]
                received = await _read_to_end(reader)
                grown = max(grown, gateway.resident_bytes - before)
                writer.close()
            finally:
                await gateway.end()
            return grown, stuck_at, others, received

    grown, stuck_at, others, received = run(scenario)

    assert stuck_at < TOTAL // 2  # all of it in the buffers of the system's sockets
    assert grown < 32 * MB
    assert [reply.body for reply in others] == [BEGIN + END] * 20
    assert received == len(BEGIN) + count * len(DELTA) + len(END)


async def _deaf(url):
    """Connect with a small window and a reader that takes next to nothing by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    client.setblocking(False)
    parts = urlsplit(url)
    await asyncio.get_running_loop().sock_connect(client, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=client, limit=16_384)


async def _until_still(there):
    """Wait until the upstream has not got rid of a byte for half a second."""
    sent, still_since = -1, 0.0
    loop = asyncio.get_running_loop()
    while sent < MB or loop.time() - still_since < 0.5:
        if there.sent != sent:
            sent, still_since = there.sent, loop.time()
        await asyncio.sleep(0.02)


async def _read_to_end(reader):
    """Read a chunked body; give how many bytes it held."""
    await reader.readuntil(b"\r\n\r\n")
    total = 0
    while size := int(await reader.readuntil(b"\r\n"), 16):
        total += size
        left = size + 2
        while left:
            left -= len(await reader.read(min(left, 65_536)))
    return total


def test_two_hundred_streams_at_once_are_all_whole(tmp_path):
    async def ask(client, number):
        path = "/v1/messages" if number % 2 else "/cursor/v1/chat/completions"
        reply = await client.post(path, json={**ASK, "max_tokens": 40, "stream": True})
        check = check_messages_stream if number % 2 else check_chat_stream
        return check(reply.content).stop_reason

    async def scenario():
        options = DemoOptions(pace_words_per_s=15)
        async with (
            started(tmp_path, DEMO_CONFIG, demo_options=options) as gateway,
            gateway.client(limits=_NO_LIMITS) as client,
        ):
            asked = [asyncio.create_task(ask(client, number)) for number in range(200)]
            await until(lambda: gateway.running.demo.journal.open == 200, 10)
            reasons = await asyncio.gather(*asked)
            rows = await gateway.rows()
            return reasons, rows, gateway.gateway.upstream.pool.busy_count

    reasons, rows, busy = run(scenario)

    assert set(reasons) == {"max_tokens", "length"}
    assert [row["outcome"] for row in rows] == ["completed"] * 200
    assert {row["output_tokens"] for row in rows} == {40}
    assert busy == 0
