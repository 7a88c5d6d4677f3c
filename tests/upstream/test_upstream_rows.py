"""What a client sees and what its row says, for every way in which a provider can end."""

import asyncio
import gzip
import json
from pathlib import Path

import httpx
import pytest
from support.gateways import config_for, started
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
from support.validators import check_chat_stream, check_messages_stream

DATA = Path(__file__).parent.parent / "data"
MESSAGES = (DATA / "messages_text.sse").read_bytes()
CHAT = (DATA / "chat_text.sse").read_bytes()
BEGIN = b"".join(piece + b"\n\n" for piece in MESSAGES.split(b"\n\n")[:4])
ERROR = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"no room for sk-fake-0123456789"}}\n\n'
)
ASK = {"model": "smart", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
TIMEOUTS = "timeouts: {connect_s: 1, first_byte_s: 0.3, idle_s: 0.3, write_s: 0.3}, api_key"
WHOLE = {
    "id": "msg_demo",
    "type": "message",
    "role": "assistant",
    "content": [],
    "model": "m",
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 7, "output_tokens": 0},
}


def ask(tmp_path, *script, protocol="anthropic", stream=True, ping_after_s=15.0, leave=None):
    """Ask a real gateway once; give the answer's status and bytes, and its row.

    `leave` tells when the client hangs up: None for never, else a number of bytes it has had.
    """

    async def scenario():
        async with upstream(list(script)) as server:
            config = config_for(server.url, protocol=protocol).replace("api_key", TIMEOUTS)
            async with started(tmp_path, config) as gateway, gateway.client() as client:
                gateway.gateway.ping_after_s = ping_after_s
                body = {**ASK, "stream": stream}
                status, got = await _ask(client, server, PATHS[protocol], body, leave)
                await until(lambda: not gateway.gateway.pumps)
                await until(lambda: not gateway.gateway.upstream.pool.busy_count)
                for _ in range(200):
                    (row,) = await gateway.rows()
                    if row["state"] == "settled":
                        break
                    await asyncio.sleep(0.01)
            await until(lambda: server.open == 0)
        return status, got, row

    return run(scenario())


async def _ask(client, server, path, body, leave):
    got = bytearray()

    async def call():
        async with client.stream("POST", path, json=body) as answer:
            async for data in answer.aiter_bytes():
                got.extend(data)
                if leave is not None and len(got) >= leave > 0:
                    return answer.status_code
            return answer.status_code

    task = asyncio.create_task(call())
    if leave == 0:
        await until(lambda: server.requests)
        task.cancel()
        await asyncio.wait([task])
        return None, b""
    return await task, bytes(got)


def tokens(row):
    return (row["input_tokens"], row["output_tokens"], bool(row["estimated"]))


def ending(row):
    return (row["state"], row["outcome"], row["status"], row["error"])


@pytest.mark.parametrize(
    "script",
    [
        [EVENTS, chunked(MESSAGES)],
        [EVENTS, chunked(MESSAGES, end=b""), RST],
        [EVENTS, chunked(BEGIN + b"<html>\nno\n</html>\n\n" + MESSAGES[len(BEGIN) :])],
        [
            EVENTS.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n"),
            chunked(gzip.compress(MESSAGES)),
        ],
    ],
    ids=["whole", "reset behind the end", "garbage amid", "gzip"],
)
def test_a_whole_stream(tmp_path, script):
    status, got, row = ask(tmp_path, *script)

    assert (status, got) == (200, MESSAGES)
    assert ending(row) == ("settled", "completed", 200, None)
    assert tokens(row) == (25, 42, False)
    assert row["first_byte_ms"] <= row["duration_ms"]


def test_a_whole_answer_with_an_explicit_zero(tmp_path):
    status, got, row = ask(tmp_path, sized(json.dumps(WHOLE).encode()), stream=False)

    assert (status, json.loads(got)) == (200, WHOLE)
    assert ending(row) == ("settled", "completed", 200, None)
    assert (tokens(row), row["stop_reason"]) == ((7, 0, False), "end_turn")


def test_a_chat_stream_without_usage_is_estimated(tmp_path):
    mute = CHAT.replace(b'"usage"', b'"nothing"')
    status, _, row = ask(tmp_path, EVENTS, chunked(mute), protocol="openai")

    assert status == 200
    assert ending(row) == ("settled", "completed", 200, None)
    assert row["input_tokens"] > 0
    assert row["output_tokens"] > 0
    assert row["estimated"]


@pytest.mark.parametrize("end", [[FIN], [0.05, RST], [b"0\r\n\r\n"], [HANG]])
def test_a_cut_stream_ends_in_the_protocols_own_error(tmp_path, end):
    status, got, row = ask(tmp_path, EVENTS, chunked(BEGIN, end=b""), *end)
    error = "upstream_timeout" if end == [HANG] else "upstream_error"

    assert (status, got.startswith(BEGIN)) == (200, True)
    assert check_messages_stream(got).error is not None
    assert ending(row) == ("settled", "upstream_error", 200, error)
    assert row["input_tokens"] == 25


def test_a_cut_stream_is_charged_for_the_output_that_was_delivered(tmp_path):
    """Messages tells its output at the end; what it says at the beginning is one token."""
    delta = MESSAGES.split(b"\n\n")[3] + b"\n\n"

    _, _, row = ask(tmp_path, EVENTS, chunked(BEGIN + delta * 200, end=b""), FIN)

    assert row["output_tokens"] >= 200
    assert row["estimated"]


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ([sized(b"", status="529 Overloaded")], 529, "overloaded"),
        ([sized(b"", status="500 Error")], 502, "upstream_error"),
        ([sized(b"", status="401 No")], 502, "upstream_error"),
        ([sized(b"", "location: /", status="302 Found")], 502, "upstream_error"),
        ([FIN], 502, "upstream_error"),
        ([RST], 502, "upstream_error"),
        ([HANG], 504, "upstream_timeout"),
    ],
)
def test_a_refusal_costs_nothing(tmp_path, script, status, code):
    answered, got, row = ask(tmp_path, *script, stream=status != 504)

    assert answered == status
    assert json.loads(got)["type"] == "error"
    assert ending(row) == ("settled", "upstream_error", status, code)
    assert tokens(row) == (0, 0, False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
def test_an_error_that_comes_with_a_200_is_an_error(tmp_path, protocol, stream):
    """Some compatible servers do that; a client would take it for an empty answer."""
    body = b'{"error":{"type":"odd_error","message":"no room for sk-fake-0123456789"}}'

    answered, got, row = ask(tmp_path, sized(body), protocol=protocol, stream=stream)

    assert answered == 502
    assert b"sk-fake" not in got
    assert ending(row) == ("settled", "upstream_error", 502, "upstream_error")
    assert tokens(row) == (0, 0, False)


def test_an_error_event_is_passed_on_masked(tmp_path):
    status, got, row = ask(tmp_path, EVENTS, chunked(BEGIN + ERROR))

    assert status == 200
    assert got == BEGIN + ERROR.replace(b"sk-fake-0123456789", b"[redacted]")
    assert ending(row) == ("settled", "upstream_error", 200, "overloaded_error")


@pytest.mark.parametrize(
    ("protocol", "check"), [("anthropic", check_messages_stream), ("openai", check_chat_stream)]
)
def test_an_error_after_a_ping_is_the_protocols_own(tmp_path, protocol, check):
    late = [0.25, sized(b"", status="529 Overloaded")]
    status, got, row = ask(tmp_path, *late, protocol=protocol, ping_after_s=0.1)

    said = check(got)
    assert (status, said.pings > 0, said.error is not None) == (200, True, True)
    assert ending(row) == ("settled", "upstream_error", 200, "overloaded")
    assert tokens(row) == (0, 0, False)


def test_a_client_that_leaves_before_the_head(tmp_path):
    _, _, row = ask(tmp_path, HANG, leave=0)

    assert ending(row) == ("settled", "cancelled", None, None)
    assert row["input_tokens"] > 0
    assert (row["output_tokens"], bool(row["estimated"])) == (0, True)


def test_a_client_that_leaves_amid_the_stream(tmp_path):
    _, got, row = ask(tmp_path, EVENTS, chunked(BEGIN, end=b""), HANG, leave=1)

    assert got
    assert ending(row) == ("settled", "cancelled", 200, None)
    assert row["input_tokens"] == 25


def test_an_upstream_that_is_not_there(tmp_path):
    async def scenario():
        config = config_for("http://127.0.0.1:1")
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            answer = await client.post("/v1/messages", json=ASK)
            (row,) = await gateway.rows()
        return answer, row

    answer, row = run(scenario())

    assert isinstance(answer, httpx.Response)
    assert answer.status_code == 502
    assert "127.0.0.1" not in answer.text
    assert ending(row) == ("settled", "upstream_error", 502, "upstream_error")
    assert tokens(row) == (0, 0, False)


@pytest.mark.parametrize(
    ("said", "kept"),
    [("end_turn", "end_turn"), ("my prompt was: hello", "other"), ("x" * 65, "other")],
)
def test_a_provider_writes_words_into_a_row_and_no_sentences(tmp_path, said, kept):
    """It might repeat what was asked of it."""
    body = json.dumps(WHOLE | {"stop_reason": said}).encode()
    torn = ERROR.replace(b"overloaded_error", said.encode())
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    _, _, whole = ask(tmp_path / "whole", sized(body), stream=False)
    _, _, broken = ask(tmp_path / "broken", EVENTS, chunked(BEGIN + torn))

    assert (whole["stop_reason"], broken["error"]) == (kept, kept)
