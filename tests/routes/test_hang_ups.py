"""Clients that go away: the upstream call ends at once, and one row says so."""

import asyncio
import json
import random
import socket
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import pytest
from support.gateways import DEMO_CONFIG, config_for, started
from support.raw_upstream import BIT
from support.wires import ASK, http_answer, recording, request, run, until, wire

from server.routes.services import Deadlines
from server.upstream.demo import DemoOptions

MB = 1024 * 1024
STREAM = {**ASK, "stream": True}
START = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
    b'{"input_tokens":7,"output_tokens":1}}}\n\n'
) + BIT
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
    b'{"type":"text_delta","text":"' + b"x" * 60_000 + b'"}}\n\n'
)


def _body(size, ask=ASK):
    body = json.dumps({**ask, "filler": ""}).encode()
    return body.replace(b'""', b'"' + b"x" * (size - len(body)) + b'"')


async def _rows(gateway):
    """Wait for the settlement of the one row there is."""

    async def settled():
        rows = await gateway.rows()
        return rows if rows and all(row["state"] == "settled" for row in rows) else None

    return await until(settled)


SIZES = (400, 65_536, 70_000, 131_072, 200_000, MB, 5 * MB)


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_while_the_upstream_is_silent_cancels_it_within_a_second(tmp_path, stream):
    """Sanic stops reading at 64 KiB, and would not see the client go."""

    async def scenario():
        async with (
            recording(None) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            for number, size in enumerate(SIZES, 1):
                body = _body(size, {**ASK, "stream": stream})
                async with wire(gateway.url) as connection:
                    await connection.send(
                        request("POST", "/v1/messages", body, x_api_key=gateway.secret)
                    )
                    await until(lambda number=number: _is(len(upstream.bodies) == number))
                    connection.writer.close()
                    await until(lambda: _is(not upstream.open), 1)
            rows = await _rows(gateway)
            return rows, len(gateway.gateway.pumps)

    rows, pumps = run(scenario)

    assert [row["outcome"] for row in rows] == ["cancelled"] * len(SIZES)
    assert all(row["input_tokens"] > 0 for row in rows)
    assert pumps == 0
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()


async def _is(value):
    return value


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_a_hang_up_in_mid_stream_cancels_the_upstream(tmp_path, how):
    async def scenario():
        async with (
            _streaming() as (url, gone),
            started(tmp_path, config_for(url)) as gateway,
        ):
            async with wire(gateway.url) as connection:
                await connection.send(
                    request("POST", "/v1/messages", _body(70_000, STREAM), x_api_key=gateway.secret)
                )
                await connection.reader.readuntil(b"message_start")
                if how == "half-close":
                    connection.writer.write_eof()
                elif how == "reset":
                    connection.writer.transport.abort()
                else:
                    connection.writer.close()
                await asyncio.wait_for(gone.wait(), 1)
            rows = await _rows(gateway)
            return rows, (tmp_path / "gateway.log").read_text()

    rows, log = run(scenario)

    assert [(row["outcome"], row["input_tokens"]) for row in rows] == [("cancelled", 7)]
    assert " ERROR " not in log


@asynccontextmanager
async def _streaming(*, endless=False):
    """An upstream that begins a stream, perhaps never to end, until its client goes."""
    gone = asyncio.Event()

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(START)
        with suppress(ConnectionError):
            while endless:
                writer.write(DELTA)
                await writer.drain()
            while await reader.read(65536):
                pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", gone
    finally:
        server.close()


def test_a_hang_up_in_mid_body_leaves_no_row_and_no_socket(tmp_path):
    async def scenario():
        async with (
            recording(http_answer(200, {})) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            for _ in range(20):
                async with wire(gateway.url) as connection:
                    whole = request(
                        "POST", "/v1/messages", _body(200_000), x_api_key=gateway.secret
                    )
                    await connection.send(whole[:100_000])
            await until(lambda: _is(not gateway.running.connections), 2)
            return await gateway.rows(), upstream.bodies, (tmp_path / "gateway.log").read_text()

    rows, forwarded, log = run(scenario)

    assert (rows, forwarded) == ([], [])
    assert " ERROR " not in log


def test_a_reader_that_stops_reading_is_cut_off(tmp_path):
    """Neither the provider's connection nor memory is held for it."""

    async def scenario():
        async with (
            _streaming(endless=True) as (url, gone),
            started(tmp_path, config_for(url), deadlines=Deadlines(write_s=0.3)) as gateway,
        ):
            with _deaf(gateway.url) as client:
                body = json.dumps(STREAM).encode()
                client.sendall(request("POST", "/v1/messages", body, x_api_key=gateway.secret))
                await asyncio.wait_for(gone.wait(), 10)
                return await _rows(gateway)

    assert [row["outcome"] for row in run(scenario)] == ["cancelled"]


def _deaf(url):
    """A client whose system takes little that nobody reads."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    parts = urlsplit(url)
    client.connect((parts.hostname, parts.port))
    return client


@pytest.mark.parametrize("seed", range(3))
def test_hang_ups_at_random_places_leave_nothing_open_and_one_row_each(tmp_path, seed):
    chance = random.Random(seed)

    async def visit(gateway, number):
        path = chance.choice(["/v1/messages", "/claudecode/messages", "/cursor/chat/completions"])
        size = chance.choice([300, 20_000, 66_000, 140_000])
        body = _body(size, {**ASK, "stream": chance.random() < 0.7})
        data = request("POST", path, body, x_api_key=gateway.secret)
        sent = data[: chance.randrange(len(data))] if chance.random() < 0.3 else data
        async with wire(gateway.url) as connection:
            await connection.send(sent)
            if sent is data:
                await connection.reader.read(chance.choice([1, 100, 1000, 5000]))
            if chance.random() < 0.5:
                connection.writer.close()

    async def scenario():
        options = DemoOptions(pace_words_per_s=200)
        async with started(tmp_path, DEMO_CONFIG, demo_options=options) as gateway:
            for _ in range(10):
                await asyncio.gather(*(visit(gateway, number) for number in range(10)))
            await until(lambda: _is(not gateway.running.connections), 3)
            await until(lambda: _is(not gateway.gateway.pumps), 3)
            journal = gateway.running.demo.journal
            await until(lambda: _is(not journal.open), 3)
            return await _rows(gateway), [entry.request_id for entry in journal.entries]

    rows, served = run(scenario)

    ids = [row["request_id"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert set(served) <= set(ids)
    assert len(served) == len(set(served)) > 20
    assert {row["outcome"] for row in rows} <= {"completed", "cancelled"}
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()
