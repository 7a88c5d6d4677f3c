"""The last byte waits for the commit, for about a second; then the client gets it anyway."""

import asyncio
import json
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.gateways import started
from support.raw_upstream import EVENTS, begun, chunked, sized, upstream
from support.upstreams import both_protocols
from support.wires import COMPLETION, MESSAGE, run, until

DATA = Path(__file__).parent.parent / "data"
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
STREAMS = {"anthropic": "messages_text.sse", "openai": "chat_text.sse"}
LAST = {"anthropic": b"event: message_stop\n", "openai": b"data: [DONE]\n"}
WHOLE = {"anthropic": MESSAGE, "openai": COMPLETION}


@contextmanager
def _stalled(folder):
    """Keep every writer out of the database."""
    other = sqlite3.connect(folder / "gateway.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def _ask(protocol, stream):
    ask = {
        "model": "smart",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": stream,
    }
    if protocol == "openai" and stream:
        ask["stream_options"] = {"include_usage": True}
    return ask


async def _settled(gateway):
    rows = await gateway.rows()
    return rows if rows and all(row["state"] == "settled" for row in rows) else None


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stalled_writer_holds_the_last_event_back_for_a_second(tmp_path, protocol):
    stream = (DATA / STREAMS[protocol]).read_bytes()
    first = begun(stream)

    async def scenario():
        go = asyncio.Event()
        script = [EVENTS, chunked(first, end=b""), go, chunked(stream[len(first) :])]
        async with (
            upstream(script) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            received, at = b"", 0.0
            ask = _ask(protocol, stream=True)
            async with client.stream("POST", PATHS[protocol], json=ask) as reply:
                with _stalled(tmp_path):
                    begun = time.monotonic()
                    async for piece in reply.aiter_raw():
                        if not received:
                            go.set()
                            begun = time.monotonic()
                        received += piece
                        if LAST[protocol] in received and not at:
                            at = time.monotonic() - begun
                    [row] = await gateway.rows()
            [after] = await until(lambda: _settled(gateway), 10)
            return received, at, row, after

    received, at, row, after = run(scenario)

    assert received == stream
    assert 0.9 < at < 2.5
    assert row["state"] == "open"
    assert (after["outcome"], after["estimated"]) == ("completed", False)
    assert after["output_tokens"] == {"anthropic": 42, "openai": 33}[protocol]


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stalled_writer_holds_a_whole_answer_back_for_a_second(tmp_path, protocol):
    async def scenario():
        go, seen = asyncio.Event(), asyncio.Event()

        async def note(_):
            seen.set()

        script = [note, go, sized(json.dumps(WHOLE[protocol]).encode())]
        async with (
            upstream(script) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            ask = client.post(PATHS[protocol], json=_ask(protocol, stream=False))
            asked = asyncio.create_task(ask)
            await seen.wait()
            with _stalled(tmp_path):
                begun = time.monotonic()
                go.set()
                reply = await asked
                took_s = time.monotonic() - begun
            [after] = await until(lambda: _settled(gateway), 10)
            return reply, took_s, after

    reply, took_s, after = run(scenario)

    assert (reply.status_code, reply.json()) == (200, WHOLE[protocol])
    assert 0.9 < took_s < 2.5
    assert (after["outcome"], after["input_tokens"], after["output_tokens"]) == ("completed", 7, 3)


@pytest.mark.parametrize("protocol", PATHS)
def test_the_row_is_settled_by_the_time_the_last_event_is_there(tmp_path, protocol):
    stream = (DATA / STREAMS[protocol]).read_bytes()

    async def ask(gateway, client, stream):
        states, received = [], b""
        body = _ask(protocol, stream=stream)
        async with client.stream("POST", PATHS[protocol], json=body) as reply:
            async for piece in reply.aiter_raw():
                received += piece
                if LAST[protocol] in received or not stream:
                    made = reply.headers["request-id"]
                    states += _states(gateway.folder, made)
        return states

    async def scenario():
        async with (
            upstream(
                *[[EVENTS, chunked(stream)]] * 20, sized(json.dumps(WHOLE[protocol]).encode())
            ) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            streams = [await ask(gateway, client, stream=True) for _ in range(20)]
            return streams, [await ask(gateway, client, stream=False) for _ in range(20)]

    streams, whole = run(scenario)

    assert streams == whole == [["settled"]] * 20


def _states(folder, request_id):
    with sqlite3.connect(folder / "gateway.db") as other:
        found = other.execute("SELECT state FROM request WHERE request_id = ?", (request_id,))
        return [state for (state,) in found]


def test_a_request_is_refused_while_nothing_can_be_written(tmp_path):
    """Never served without a row: 503, and the provider has not heard of it."""

    async def scenario():
        async with (
            upstream(sized(json.dumps(MESSAGE).encode())) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            with _stalled(tmp_path):
                asked = client.post("/v1/messages", json=_ask("anthropic", stream=True))
                health, reply = await asyncio.gather(_health(client), asked)
            again = await client.post("/v1/messages", json=_ask("anthropic", stream=False))
            return reply, again, health, len(there.requests), await gateway.rows()

    reply, again, slowest_s, forwarded, rows = run(scenario)

    assert (reply.status_code, again.status_code) == (503, 200)
    assert reply.json()["error"]["type"] == "overloaded_error"
    assert int(reply.headers["retry-after"]) > 0
    assert slowest_s < 1.0
    assert forwarded == 1
    assert [row["outcome"] for row in rows] == ["completed"]


async def _health(client):
    """Give the slowest of some answers: the event loop may not wait for the database."""
    slowest_s = 0.0
    for _ in range(10):
        begun = time.monotonic()
        assert (await client.get("/healthz")).status_code == 200
        slowest_s = max(slowest_s, time.monotonic() - begun)
    return slowest_s
