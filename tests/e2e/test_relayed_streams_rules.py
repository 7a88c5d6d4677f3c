"""Streams that other gateways got wrong, relayed to a client of the upstream's own protocol.

However the network cuts a stream, the client is given the same bytes, and the row says the same.
"""

import json
import re
from pathlib import Path

import pytest
from support.chunkings import with_crlf
from support.gateways import started
from support.raw_upstream import EVENTS, chunked, upstream
from support.stream_rules import check_chat_stream, check_messages_stream
from support.upstreams import both_protocols, cuts
from support.wires import run

DATA = Path(__file__).parent.parent / "data"
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}
STREAMS = {
    "anthropic": (DATA / "messages_tools.sse").read_bytes(),
    "openai": (DATA / "chat_tools.sse").read_bytes(),
}
OUTPUT_TOKENS = {"anthropic": 77, "openai": 20}
SAYINGS = {
    "anthropic": {
        "an error": b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        b'"message":"late"}}\n\n',
        "usage": b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":'
        b'"end_turn","stop_sequence":null},"usage":{"output_tokens":999}}\n\n',
    },
    "openai": {
        "an error": b'data: {"error":{"message":"late","type":"server_error"}}\n\n',
        "usage": b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":1,'
        b'"completion_tokens":999,"total_tokens":1000}}\n\n',
    },
}
OWN_ID = re.compile(rb"req_[0-9a-f]{44}")
KEPT = ("outcome", "status", "error", "stop_reason", "input_tokens", "output_tokens", "estimated")


def relayed(folder, protocol, ways, *, asks_usage=True, ping_after_s=15.0):
    """Relay each of the scripts; give what the client got and the row, by the script's name."""
    ask = {"model": "smart", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
    ask["stream"] = True
    if protocol == "openai" and asks_usage:
        ask["stream_options"] = {"include_usage": True}

    async def scenario():
        async with (
            upstream(*ways.values()) as there,
            started(folder, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            gateway.gateway.ping_after_s = ping_after_s
            replies = [await client.post(PATHS[protocol], json=ask) for _ in ways]
            return replies, await gateway.rows()

    replies, rows = run(scenario)
    assert {reply.status_code for reply in replies} == {200}
    told = [
        (OWN_ID.sub(b"req_", reply.content), {name: row[name] for name in KEPT})
        for reply, row in zip(replies, rows, strict=True)
    ]
    return dict(zip(ways, told, strict=True))


def the_only(told):
    """Check that every way ended the same; give what the client got and the row."""
    first = next(iter(told.values()))
    assert told == dict.fromkeys(told, first)
    return first


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("saying", ["an error", "usage"])
def test_what_comes_behind_the_end_changes_neither_the_answer_nor_its_bill(
    tmp_path, protocol, saying
):
    stream = STREAMS[protocol]

    got, row = the_only(relayed(tmp_path, protocol, cuts(stream + SAYINGS[protocol][saying])))

    assert got == stream
    assert (row["outcome"], row["error"]) == ("completed", None)
    assert row["output_tokens"] == OUTPUT_TOKENS[protocol]


@pytest.mark.parametrize(
    ("protocol", "asks_usage"), [("anthropic", True), ("openai", True), ("openai", False)]
)
def test_crlf_streams_say_the_same_however_they_were_cut(tmp_path, protocol, asks_usage):
    """A line feed that comes behind a whole end may be left out: it is an empty line."""
    plain = CHECK[protocol](STREAMS[protocol])
    if not asks_usage:
        del plain["usage"]
    ways = cuts(with_crlf(STREAMS[protocol]))

    told = relayed(tmp_path, protocol, ways, asks_usage=asks_usage)

    assert {way: CHECK[protocol](got) for way, (got, _) in told.items()} == dict.fromkeys(
        ways, plain
    )
    _, row = the_only({way: (b"", row) for way, (_, row) in told.items()})
    assert (row["outcome"], row["estimated"]) == ("completed", False)
    assert row["output_tokens"] == OUTPUT_TOKENS[protocol]


def test_usage_beside_the_finish_is_counted_and_its_chunk_never_dropped(tmp_path):
    """Some servers send no chunk of its own for usage; the finish must reach the client."""
    usage = b'"usage":{"prompt_tokens":50,"completion_tokens":20,"total_tokens":70}'
    events = [event + b"\n\n" for event in STREAMS["openai"].split(b"\n\n")[:-1]]
    stream = b"".join(
        event.replace(b'"usage":null', usage) if b'"finish_reason":"tool_calls"' in event else event
        for event in events
        if b'"choices":[]' not in event
    )

    got, row = the_only(relayed(tmp_path, "openai", cuts(stream), asks_usage=False))

    assert got == stream
    assert (row["output_tokens"], row["estimated"]) == (20, False)


def test_an_error_that_pretends_to_finish_is_an_error_and_nothing_follows_it(tmp_path):
    begin = b"".join(event + b"\n\n" for event in STREAMS["openai"].split(b"\n\n")[:3])
    error = {
        "id": "chatcmpl-demo1",
        "object": "chat.completion.chunk",
        "created": 1763800000,
        "model": "gpt-demo",
        "error": {"code": 502, "message": "Provider disconnected", "type": "server_error"},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
    }
    last = b"data: %b\n\n" % json.dumps(error).encode()

    got, row = the_only(relayed(tmp_path, "openai", cuts(begin + last + b"data: [DONE]\n\n")))

    assert got == begin + last
    assert row["outcome"] != "completed"
    assert row["error"] == "server_error"


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stream_that_ends_between_events_is_no_whole_answer(tmp_path, protocol):
    events = STREAMS[protocol].split(b"\n\n")
    stream = b"".join(event + b"\n\n" for event in events[:5])

    got, row = the_only(relayed(tmp_path, protocol, cuts(stream)))

    said = CHECK[protocol](got)
    assert got.startswith(stream)
    assert said["error"]["message"]
    assert row["outcome"] != "completed"


@pytest.mark.parametrize("protocol", PATHS)
def test_a_ping_may_fall_inside_a_line_end_and_breaks_no_event(tmp_path, protocol):
    stream = with_crlf(STREAMS[protocol])
    ends = [at for at in range(len(stream)) if stream.startswith(b"\r\n\r\n", at)]
    cut = ends[3]
    ways = {
        place: [
            EVENTS,
            chunked(stream[: cut + place], end=b""),
            0.25,
            chunked(stream[cut + place :]),
        ]
        for place in (1, 2, 3)
    }

    told = relayed(tmp_path, protocol, ways, ping_after_s=0.1)

    plain = CHECK[protocol](stream)
    for place, (got, row) in told.items():
        assert len(got) > len(stream), place
        assert CHECK[protocol](got) == plain, place
        assert row["outcome"] == "completed"
