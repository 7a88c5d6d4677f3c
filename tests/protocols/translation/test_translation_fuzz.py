"""No bytes of a provider or a client make a translation fail, and what comes out is sound."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_answers import call, chunk
from support.messages_answers import event
from support.responses_rules import check_responses_stream
from support.stream_rules import check_chat_stream, check_messages_stream

from server.errors import InvalidRequest
from server.protocols import Protocol, body, reading
from server.protocols.compat import SERVERS
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_messages import ChatAsMessages
from server.protocols.translation.answers.chat_as_responses import ChatAsResponses
from server.protocols.translation.answers.messages_as_chat import MessagesAsChat
from server.protocols.translation.answers.whole import ChatWhole, MessagesWhole
from server.protocols.translation.requests import (
    chat_to_messages,
    messages_to_chat,
    responses_to_chat,
)
from server.protocols.translation.requests.mended_messages import mended
from server.protocols.translation.ways import Chain

DATA = Path(__file__).parents[2] / "data"
CONTEXT = Context("m", "1", 0, 1, {})
ASKED = responses_to_chat.request(body.split(b'{"model":"m","input":"Hi"}'))
CHAT = [DATA / "chat_text.sse", DATA / "chat_tools.sse", *DATA.glob("translation/chat_*.sse")]
MESSAGES = [DATA / "messages_text.sse", DATA / "messages_tools.sse"]

# What may stand where a value should, and what a reader of JSON stumbles over.
ODD = [
    *[b"null", b"true", b"-1", b"0", b"1", b"1.5", b"NaN", b"1e400", b"-1e400", b"1" * 400],
    *[b"99999999999999999999", b'""', b'" "', b'"\\n"', b'"{"', b'"}"', b'"a:b/\xc3\xa9"'],
    *[b'"\\ud800"', b'"\\udc00x"', b'"\xff"', b'"\xe2\x80\xa8"', b"[" * 3000, b'{"a":' * 3000],
    *[b"[]", b"{}", b"[[]]", b"[{}]", b'[1,"x",null,{"type":"text","text":"p"}]'],
    *[b'"stop"', b'"length"', b'"tool_use"', b'"text"', b'"thinking"', b'"anthropic-claude-v1"'],
]
VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[\[\]{},:]')
LINES = [b": comment", b"event: ping", b"id: 3", b"data:", b"data: x", b"retry"]
ENDS = [b"\n\n", b"\r\n\r\n", b"\r\r"]


def replaced(data, what, places):
    """Put `what` in the place of one of the JSON tokens in `data`."""
    found = list(VALUE.finditer(data))
    if not found:
        return data
    token = found[places % len(found)]
    return data[: token.start()] + what + data[token.end() :]


@st.composite
def broken(draw, streams):
    """Give a recorded stream, in pieces of whole events, with a few things wrong."""
    recorded = draw(st.sampled_from([path.read_bytes() for path in streams]))
    events = [piece for piece in re.split(rb"(?:\r?\n){2}", recorded) if piece]
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(events) - 1))
        match draw(st.sampled_from(["lose", "repeat", "move", "value", "value", "cut", "line"])):
            case "lose" if len(events) > 1:
                del events[at]
            case "repeat":
                events.insert(draw(st.integers(0, len(events))), events[at])
            case "move":
                events.insert(draw(st.integers(0, len(events) - 1)), events.pop(at))
            case "value":
                what, where = draw(st.sampled_from(ODD)), draw(st.integers(0, 500))
                events[at] = replaced(events[at], what, where)
            case "cut":
                events[at] = events[at][: draw(st.integers(0, len(events[at])))]
            case "line":
                events[at] += b"\n" + draw(st.sampled_from(LINES))
    end, most = draw(st.sampled_from(ENDS)), draw(st.integers(1, 4))
    return [end.join(events[at : at + most]) + end for at in range(0, len(events), most)]


def check_chat(stream):
    """Check all but what the provider's own model wrote as arguments."""
    try:
        check_chat_stream(stream)
    except AssertionError as broke:
        if not str(broke).startswith("not JSON"):
            raise


MACHINES = {
    "Chat as Messages": (CHAT, lambda: ChatAsMessages(CONTEXT), check_messages_stream),
    "Chat as Responses": (CHAT, lambda: ChatAsResponses(CONTEXT, ASKED), check_responses_stream),
    "Chat, gathered": (CHAT, ChatWhole, json.loads),
    "Messages as Chat": (MESSAGES, lambda: MessagesAsChat(CONTEXT), check_chat),
    "Messages as Responses": (
        MESSAGES,
        lambda: Chain(MessagesAsChat(CONTEXT), ChatAsResponses(CONTEXT, ASKED)),
        check_responses_stream,
    ),
    "Messages, gathered": (MESSAGES, MessagesWhole, json.loads),
}
parametrized = pytest.mark.parametrize(
    ("streams", "machine", "check"), MACHINES.values(), ids=MACHINES
)


@parametrized
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_a_broken_stream_becomes_a_sound_one(streams, machine, check, data):
    pieces = data.draw(broken(streams))
    made = machine()

    stream = b"".join([*map(made.feed, pieces), made.finish()])

    check(stream)


@parametrized
@settings(deadline=None, max_examples=40)
@given(pieces=st.lists(st.binary(max_size=60) | st.sampled_from([b"data: ", b'{"', *ODD[-20:]])))
def test_any_bytes_become_a_sound_stream(streams, machine, check, pieces):
    made = machine()

    stream = made.feed(b"".join(pieces) + b"\n\n") + made.finish()

    check(stream)


def start(index, **block):
    return event("content_block_start", index=index, content_block=block)


def delta(index, **said):
    return event("content_block_delta", index=index, delta=said)


def test_a_messages_stream_that_begins_with_a_delta_begins_with_the_role():
    machine = MessagesAsChat(CONTEXT)

    stream = machine.feed(delta(0, type="text_delta", text="Hi")) + machine.finish()

    assert check_chat_stream(stream)["choices"][0]["message"]["content"] == "Hi"


def test_calls_of_a_messages_upstream_that_share_an_id_are_told_apart():
    machine = MessagesAsChat(CONTEXT)
    calls = [start(at, type="tool_use", id="Read:0", name="Read", input={}) for at in range(2)]

    stream = machine.feed(b"".join(calls)) + machine.finish()

    said = check_chat_stream(stream)["choices"][0]["message"]
    assert [each["id"] for each in said["tool_calls"]] == ["Read:0", "call_1_1"]


def test_a_call_of_a_messages_upstream_without_a_name_is_left_out():
    machine = MessagesAsChat(CONTEXT)

    stream = machine.feed(start(0, type="tool_use", id="a", name="", input={})) + machine.finish()

    assert "tool_calls" not in check_chat_stream(stream)["choices"][0]["message"]


@pytest.mark.parametrize("fragment", [None, 7, ["x"], {"a": 1}])
def test_fragments_that_are_no_text_leave_a_gathered_input_empty(fragment):
    machine = MessagesWhole()
    machine.feed(start(0, type="tool_use", id="a", name="T", input={}))
    machine.feed(delta(0, type="input_json_delta", partial_json=fragment))

    assert json.loads(machine.finish())["content"][0]["input"] == {}


def test_reasoning_details_that_cannot_be_kept_cost_nothing_else():
    said = {"content": "Hi", "reasoning_details": [{"text": "Hm.", "signature": "c2ln", "odd": 7}]}
    machine = ChatAsResponses(CONTEXT, ASKED)

    stream = machine.feed(chunk(said).replace(b"7", b"1e400")) + machine.finish()

    assert check_responses_stream(stream)["output"][-1]["content"][0]["text"] == "Hi"


def test_arguments_that_are_nested_too_deeply_are_one_text():
    """A client that reads them would fail, and could not send them back."""
    text = '{"a":' * 3000 + "1" + "}" * 3000
    machine = ChatAsMessages(CONTEXT)

    whole = chunk(call(0, text, ident="a", name="T"))
    torn = [chunk(call(1, part, ident="b", name="T")) for part in (text[:9000], text[9000:])]

    stream = machine.feed(b"".join([whole, *torn])) + machine.finish()

    inputs = [block["input"] for block in check_messages_stream(stream)["content"]]
    assert ["invalid_arguments" in given for given in inputs] == [True, True]


REQUESTS = {
    Protocol.ANTHROPIC: {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                    {"type": "tool_use", "id": "a", "name": "T", "input": {"b": [1]}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "a",
                        "is_error": True,
                        "content": [
                            {
                                "type": "image",
                                "source": {
                                    "type": "base64",
                                    "media_type": "image/png",
                                    "data": "QQ==",
                                },
                            }
                        ],
                    },
                    {
                        "type": "document",
                        "title": "D",
                        "source": {"type": "content", "content": "text"},
                    },
                ],
            },
        ],
        "tools": [{"name": "T", "description": "D", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "output_config": {
            "effort": "high",
            "format": {"type": "json_schema", "schema": {}},
        },
        "stop_sequences": ["x"],
        "temperature": 1,
    },
    Protocol.OPENAI: {
        "model": "m",
        "messages": [
            {"role": "system", "content": "S"},
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ=="}},
                    {"type": "file", "file": {"file_data": "data:text/plain;base64,QQ=="}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_details": [
                    {
                        "type": "reasoning.text",
                        "text": "Hm.",
                        "signature": "c2ln",
                        "format": "anthropic-claude-v1",
                    }
                ],
                "tool_calls": [
                    {
                        "id": "a:0",
                        "type": "function",
                        "function": {"name": "T", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "a:0", "content": "x"},
        ],
        "tools": [{"type": "function", "function": {"name": "T", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "T"}},
        "parallel_tool_calls": False,
        "stop": ["x"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "o", "schema": {}}},
        "reasoning_effort": "low",
        "temperature": 0.5,
        "n": 1,
    },
    Protocol.RESPONSES: {
        "model": "m",
        "instructions": "S",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "encrypted_content": "gateway-reasoning-1.W10="},
            {"type": "function_call", "call_id": "a", "name": "T", "arguments": "{}"},
            {"type": "custom_tool_call", "call_id": "b", "name": "C", "input": "x"},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": "x"},
        ],
        "tools": [
            {"type": "function", "name": "T", "parameters": {}},
            {"type": "custom", "name": "C", "format": {"type": "grammar", "definition": "x"}},
        ],
        "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "T"}]},
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "o", "schema": {}}},
        "max_output_tokens": 5,
    },
}


@pytest.mark.parametrize("tool", [None, "cursor"])
@pytest.mark.parametrize("protocol", Protocol)
@settings(deadline=None, max_examples=120)
@given(
    changes=st.lists(st.tuples(st.sampled_from(ODD), st.integers(0, 500)), max_size=2),
    server=st.sampled_from(sorted(SERVERS)),
)
def test_a_request_is_translated_or_refused_whatever_stands_in_it(protocol, tool, changes, server):
    raw = json.dumps(REQUESTS[protocol]).encode()
    for what, where in changes:
        raw = replaced(raw, what, where)

    try:
        request = reading.read(raw, protocol, tool)
        if request.protocol is Protocol.ANTHROPIC:
            mended(request.fields)
            made = messages_to_chat.request(request.fields, SERVERS[server])
        else:
            made = chat_to_messages.request(request.fields, max_tokens=5)
    except InvalidRequest:
        assert changes
        return

    json.loads(body.join(made.fields))


@pytest.mark.parametrize("member", ["tool_choice", "text", "reasoning", "input", "tools"])
def test_what_is_nested_as_deeply_as_can_be_read_is_taken_or_refused(member):
    refused = 0
    for depth in range(800, 1000):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        raw = body.join({"model": b'"m"', "input": b'"Hi"', member: nested})
        try:
            assert reading.read(raw, Protocol.RESPONSES, "codex").model == "m"
        except InvalidRequest:
            refused += 1

    assert refused  # so the range spans what can be read
