"""Every kind of answer: sound streams, and rows that equal the provider's own log."""

import json

import pytest
from support.gateways import DEMO_CONFIG, started
from support.raw_upstream import EVENTS, chunked, sized, upstream
from support.upstreams import both_protocols
from support.validators import check_chat_stream, check_messages_stream
from support.wires import COMPLETION, MESSAGE, run

CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
CLASSES = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
)
LONG = "A rule that every request repeats. " * 400
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path", "content"],
}


def _user(text, **more):
    return [{"role": "user", "content": [{"type": "text", "text": text, **more}]}]


def _cached(ttl):
    return {"cache_control": {"type": "ephemeral", "ttl": ttl}}


WRITE = "Create a file hello.txt containing hi"
MESSAGES = {
    "plain": {"messages": _user("hello")},
    "unicode": {"messages": _user("héllo 你好 👋 \u2028 \x0b")},
    "cache write": {
        "system": [{"type": "text", "text": LONG, **_cached("1h")}],
        "messages": _user("hello", **_cached("5m")),
    },
    "cache read": {
        "system": [{"type": "text", "text": LONG, **_cached("1h")}],
        "messages": _user("hello", **_cached("5m")),
    },
    "thinking": {
        "messages": _user("hello"),
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "hidden thinking": {
        "messages": _user("hello"),
        "thinking": {"type": "adaptive", "display": "omitted"},
    },
    "tool": {"messages": _user(WRITE), "tools": [{"name": "Write", "input_schema": SCHEMA}]},
    "max_tokens": {"messages": _user("hello"), "max_tokens": 3},
    "no tokens": {"messages": _user("hello"), "max_tokens": 0},
    "stop sequence": {"messages": _user("hello"), "stop_sequences": ["provider"]},
    "schema": {
        "messages": _user("hello"),
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}
STOPS = {"tool": "tool_use", "max_tokens": "max_tokens", "no tokens": "max_tokens"}
CHAT = {
    "plain": {"messages": _user("hello")},
    "unicode": {"messages": _user("héllo 你好 👋 \u2028 \x0b")},
    "first read": {"messages": [{"role": "system", "content": LONG}, *_user("hello")]},
    "cache read": {"messages": [{"role": "system", "content": LONG}, *_user("hello")]},
    "tool": {
        "messages": _user(WRITE),
        "tools": [{"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}],
    },
    "max_tokens": {"messages": _user("hello"), "max_completion_tokens": 3},
    "stop sequence": {"messages": _user("hello"), "stop": ["provider"]},
    "schema": {"messages": _user("hello"), "response_format": {"type": "json_object"}},
}


@pytest.mark.parametrize("root", ["/v1", "/claudecode/v1"])
@pytest.mark.parametrize("protocol", PATHS)
def test_each_kind_of_answer_is_sound_and_counted_as_the_provider_did(tmp_path, protocol, root):
    kinds = MESSAGES if protocol == "anthropic" else CHAT
    path = PATHS[protocol].replace("/v1", root)
    asked = [(kind, stream) for kind in kinds for stream in (True, False)]

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, gateway.client() as client:
            replies = []
            for kind, stream in asked:
                ask = {"model": "smart", "max_tokens": 500, **kinds[kind], "stream": stream}
                if protocol == "openai" and stream and kind != "plain":
                    ask["stream_options"] = {"include_usage": True}
                if protocol == "openai":
                    ask.pop("max_tokens")
                replies.append(await client.post(path, json=ask))
            journal = [entry.as_json() for entry in gateway.running.demo.journal.entries]
            return replies, journal, await gateway.rows()

    replies, journal, rows = run(scenario)

    assert {reply.status_code for reply in replies} == {200}
    served = {entry["request_id"]: entry for entry in journal}
    for (kind, stream), reply, row in zip(asked, replies, rows, strict=True):
        assert row["request_id"] == reply.headers["request-id"]
        entry = served[row["request_id"]]
        assert [row[name] for name in CLASSES] == [entry["usage"][name] for name in CLASSES], kind
        assert row["upstream_request_id"] == entry["upstream_request_id"]
        assert (row["outcome"], row["estimated"], row["status"]) == ("completed", False, 200)
        if not stream:
            said = json.loads(reply.content)
            stop = said.get("stop_reason") or said["choices"][0]["finish_reason"]
        else:
            said = CHECK[protocol](reply.content)
            stop = said.stop_reason
            hides = protocol == "openai" and kind == "plain"
            assert (said.usage is None) == hides
        assert row["stop_reason"] == stop
        assert stop == STOPS.get(kind, stop) or protocol == "openai"
    by_kind = {kind: row for (kind, _), row in zip(asked, rows, strict=True)}
    assert by_kind["cache read"]["cache_read_input_tokens"] > 0
    assert by_kind["tool"]["stop_reason"] in ("tool_use", "tool_calls")
    assert by_kind["stop sequence"]["stop_reason"] in ("stop_sequence", "stop")


def _start(usage):
    message = {"id": "msg_1", "model": "m", "role": "assistant", "content": [], "usage": usage}
    return _event({"type": "message_start", "message": message})


def _event(event):
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())


def _end(usage):
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    return _event({**delta, "usage": usage} if usage else delta) + _event({"type": "message_stop"})


HI = _event(
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "hi"},
    }
)


def _chunks(usage):
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": None}
    over = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks = [{**shared, "choices": [said]}, {**shared, "choices": [over]}]
    if usage is not None:
        chunks.append({**shared, "choices": [], "usage": usage})
    lines = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks]
    return b"".join([*lines, b"data: [DONE]\n\n"])


ZEROS = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 0}
CHAT_ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
BODIES = {
    "anthropic": (MESSAGE, "usage"),
    "openai": (COMPLETION, "usage"),
}


def _whole(protocol, usage):
    body = dict(BODIES[protocol][0])
    del body["usage"]
    return sized(json.dumps(body if usage is None else {**body, "usage": usage}).encode())


ODD_BEGIN = {"input_tokens": -3, "output_tokens": True, "cache_read_input_tokens": "12"}
ODD_CHAT = {"prompt_tokens": -5, "completion_tokens": 3.5, "prompt_tokens_details": {"x": 1}}


@pytest.mark.parametrize(
    ("protocol", "stream", "answer", "tokens", "estimated"),
    [
        ("anthropic", True, _start(ZEROS) + _end({"output_tokens": 0}), (0, 0), False),
        ("openai", True, _chunks(CHAT_ZEROS), (0, 0), False),
        ("anthropic", False, ZEROS, (0, 0), False),
        ("openai", False, CHAT_ZEROS, (0, 0), False),
        ("anthropic", True, _start({}) + HI + _end(None), None, True),
        ("openai", True, _chunks(None), None, True),
        ("anthropic", False, None, None, True),
        ("openai", False, None, None, True),
        ("anthropic", True, _start(ODD_BEGIN) + HI + _end({"output_tokens": -1}), None, True),
        ("openai", True, _chunks(ODD_CHAT), None, True),
        ("anthropic", False, ODD_BEGIN, None, True),
        ("openai", False, ODD_CHAT, None, True),
        # What message_start says stands until message_delta says more.
        (
            "anthropic",
            True,
            _start({"input_tokens": 7, "output_tokens": 1}) + _end({"output_tokens": 42}),
            (7, 42),
            False,
        ),
    ],
)
def test_explicit_zeros_stand_and_what_is_missing_or_absurd_is_estimated(
    tmp_path, protocol, stream, answer, tokens, estimated
):
    script = [EVENTS, chunked(answer)] if stream else _whole(protocol, answer)
    ask = {"model": "smart", "max_tokens": 10, "messages": _user("hello"), "stream": stream}

    async def scenario():
        async with (
            upstream(script) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            reply = await client.post(PATHS[protocol], json=ask)
            return reply.status_code, await gateway.rows()

    status, [row] = run(scenario)

    assert (status, row["outcome"], row["estimated"]) == (200, "completed", estimated)
    counted = (row["input_tokens"], row["output_tokens"])
    if tokens is not None:
        assert counted == tokens
    else:
        assert 0 < row["input_tokens"] < 1000
        assert 0 < row["output_tokens"] < 1000
    assert all(row[name] >= 0 for name in CLASSES)


def test_an_output_that_only_the_first_event_counts_is_estimated(tmp_path):
    """message_start always says one token or so; without message_delta's count that is no sum."""
    begin = _start({"input_tokens": 7, "output_tokens": 1})

    async def scenario():
        async with (
            upstream([EVENTS, chunked(begin + HI * 50 + _end(None))]) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            ask = {"model": "smart", "max_tokens": 9, "messages": _user("hello"), "stream": True}
            await client.post("/v1/messages", json=ask)
            return await gateway.rows()

    [row] = run(scenario)

    assert (row["input_tokens"], row["estimated"]) == (7, True)
    assert row["output_tokens"] >= 50
