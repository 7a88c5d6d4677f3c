"""Clients and proxies that speak HTTP/1.0 get answers without chunks, which it does not know."""

import json
from pathlib import Path

from support.gateways import config_for, started
from support.raw_upstream import EVENTS, begun, chunked, upstream
from support.wires import ASK, request, run, wire

CHAT = (Path(__file__).parent.parent / "data" / "chat_text.sse").read_bytes()
BEGIN = begun(CHAT)
STREAM = {**ASK, "stream": True, "stream_options": {"include_usage": True}}
SCRIPT = [EVENTS, chunked(BEGIN, end=b""), 0.1, chunked(CHAT[len(BEGIN) :])]


def _ask(tmp_path, path, body):
    """Send one HTTP/1.0 request; give the head and the body of the answer, read to its end."""

    async def scenario():
        async with (
            upstream(SCRIPT) as server,
            started(tmp_path, config_for(server.url, protocol="openai")) as gateway,
            wire(gateway.url) as connection,
        ):
            sent = request("POST", path, json.dumps(body).encode(), x_api_key=gateway.secret)
            await connection.send(sent.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
            head, _, rest = (await connection.reader.read(-1)).partition(b"\r\n\r\n")
            return head, rest, await gateway.rows()

    return run(scenario)


def test_a_stream_ends_with_its_connection(tmp_path):
    head, body, rows = _ask(tmp_path, "/v1/chat/completions", STREAM)

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close" in head
    assert b"transfer-encoding" not in head
    assert body == CHAT
    assert [row["outcome"] for row in rows] == ["completed"]


def test_a_refusal_has_its_length(tmp_path):
    head, body, _ = _ask(tmp_path, "/v1/chat/completions", {"model": 1})

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-length: %d" % len(body) in head


def test_nobody_is_told_to_go_on_who_would_take_that_for_the_answer(tmp_path):
    """HTTP/1.0 has no 100 Continue: its clients may send the header all the same."""
    body = json.dumps(ASK).encode()

    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            lines = {"x_api_key": gateway.secret, "expect": "100-continue"}
            asking = request("POST", "/v1/messages/count_tokens", body, **lines)
            head = asking.replace(b"HTTP/1.1", b"HTTP/1.0", 1).removesuffix(body)
            await connection.send(head)
            await connection.send(body)
            return await connection.reader.read(-1)

    answer = run(scenario)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"100 Continue" not in answer
