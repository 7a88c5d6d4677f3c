"""A Responses client of a Messages upstream: both translations, one behind the other."""

import json

from support.responses_rules import check_responses_stream

from server.protocols import body
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_responses import ChatAsResponses
from server.protocols.translation.answers.messages_as_chat import MessagesAsChat
from server.protocols.translation.requests import chat_to_messages
from server.protocols.translation.requests.responses_to_chat import request

WAIT = {"type": "function", "name": "wait", "parameters": {"type": "object"}}
PATCH = {"type": "custom", "name": "apply_patch"}
TOOLS = [PATCH, {"type": "namespace", "name": "agents", "description": "", "tools": [WAIT]}]
ASK = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


def asked(*items):
    members = {"model": "auto", "input": [ASK, *items], "tools": TOOLS, "stream": True}
    return request(body.split(json.dumps(members).encode()))


def event(kind, **members):
    data = json.dumps({"type": kind, **members}).encode()
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def block(index, start, *deltas):
    return [
        event("content_block_start", index=index, content_block=start),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


ANSWER = [
    event("message_start", message={"usage": {"input_tokens": 5, "cache_read_input_tokens": 7}}),
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "signature_delta", "signature": "c2ln"},
    ),
    event("ping"),
    *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hi"}),
    *block(
        2,
        {"type": "tool_use", "id": "toolu_1", "name": "agents__wait", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"s":'},
        {"type": "input_json_delta", "partial_json": "1}"},
    ),
    *block(
        3,
        {"type": "tool_use", "id": "toolu_2", "name": "apply_patch", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"input":"*** \\n"}'},
    ),
    event("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 9}),
    event("message_stop"),
]


def answered():
    context = Context("auto", "0123abc", 1_795_000_000, 10, {})
    inner, outer = MessagesAsChat(context), ChatAsResponses(context, asked())
    told = [outer.feed(inner.feed(each)) for each in ANSWER]
    raw = b"".join((*told, outer.feed(inner.finish()), outer.finish()))
    assert raw.count(b": ping\n\n") == 1
    return check_responses_stream(raw)


def test_an_answer_comes_through_both():
    final = answered()

    thought, said, wait, patch = final["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm"}]
    assert said["content"][0]["text"] == "Hi"
    assert (wait["namespace"], wait["name"], wait["arguments"]) == ("agents", "wait", '{"s":1}')
    assert (patch["type"], patch["input"]) == ("custom_tool_call", "*** \n")
    assert final["usage"]["input_tokens"] == 12
    assert final["usage"]["input_tokens_details"]["cached_tokens"] == 7


def test_signed_thinking_is_where_it_was_in_the_next_request():
    """Claude refuses a turn of tool calls whose thinking is missing or not signed."""
    results = [
        {"type": "function_call_output", "call_id": "toolu_1", "output": "one"},
        {"type": "custom_tool_call_output", "call_id": "toolu_2", "output": "two"},
    ]

    chat = asked(*answered()["output"], *results)
    messages = chat_to_messages.request(chat.fields, max_tokens=100).fields["messages"]

    _, turn, found = json.loads(bytes(messages))
    assert turn["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "c2ln"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "toolu_1", "name": "agents__wait", "input": {"s": 1}},
        {
            "type": "tool_use",
            "id": "toolu_2",
            "name": "apply_patch",
            "input": {"input": "*** \n"},
        },
    ]
    assert [result["tool_use_id"] for result in found["content"]] == ["toolu_1", "toolu_2"]
