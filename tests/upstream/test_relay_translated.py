"""Relays whose client speaks another protocol, or did not ask for the stream that is sent."""

import asyncio
import json

import pytest
from support.relays import CHAT, HEAD, MESSAGES, answer, events, relay_for
from support.stream_rules import check_messages_stream

from server.errors import UpstreamError, UpstreamOverloaded
from server.protocols import Protocol
from server.protocols.translation import Context, ways

CONTEXT = Context(model="m", ident="1", created=1, input_tokens=5, names={})
ERROR = b'data: {"error":{"message":"x","type":"overloaded"}}\n\n'
WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello"},
            "finish_reason": "stop",
        }
    ],
}


def to_messages(*, stream):
    return ways.answers(
        Protocol.ANTHROPIC, Protocol.OPENAI, stream=stream, streamed=True, context=CONTEXT
    )


def gathered():
    return ways.answers(
        Protocol.ANTHROPIC, Protocol.ANTHROPIC, stream=False, streamed=True, context=CONTEXT
    )


def test_a_stream_becomes_the_clients():
    got = answer(*events(CHAT, 50), protocol="openai", answers=to_messages(stream=True))

    assert got.error is None
    assert check_messages_stream(bytes(got.stream))["stop_reason"] == "end_turn"


def test_what_came_before_an_error_is_given_and_then_the_error():
    """In one packet, too; and nothing that looks like an end."""
    begun = CHAT[: CHAT.index(b"\n\n", 300) + 2]

    got = answer(*events(begun + ERROR), protocol="openai", answers=to_messages(stream=True))

    assert got.stream.startswith(b"event: message_start\n")
    assert b"message_stop" not in got.stream
    assert isinstance(got.error, UpstreamOverloaded)


@pytest.mark.parametrize("pieces", [None, 1, 100])
def test_a_stream_that_nobody_asked_for_becomes_one_body(pieces):
    got = answer(*events(MESSAGES, pieces), streaming=False, answers=gathered())

    body = json.loads(got.relay.body)
    assert (got.error, got.pieces) == (None, [])
    assert body == check_messages_stream(MESSAGES)


def test_a_provider_that_answers_whole_all_the_same_is_believed():
    body = json.dumps(WHOLE).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

    got = answer(
        head % len(body) + body,
        protocol="openai",
        streaming=False,
        answers=to_messages(stream=False),
    )

    assert json.loads(got.relay.body)["content"] == [{"type": "text", "text": "hello"}]


def test_a_stream_that_nobody_asked_for_and_never_ends_is_left():
    """Its client gets nothing before the end, so all of it would pile up here."""
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"}}
    delta["delta"]["text"] = "x" * 2**20
    event = b"event: content_block_delta\ndata: %b\n\n" % json.dumps(delta).encode()

    async def feed():
        attempt = relay_for("anthropic", streaming=False, answers=gathered()).attempt
        attempt.on_head(HEAD)
        for _ in range(70):
            attempt.on_data(event)
        return await asyncio.wait_for(attempt.over, 5)

    error = asyncio.run(feed())

    assert isinstance(error, UpstreamError)
    assert "larger than the gateway takes" in str(error)
