"""Where an answer's content begins, by every kind of event that either protocol has."""

import json

import pytest

from server.protocols import Protocol
from server.protocols.content import has_content

USAGE = {"input_tokens": 5, "output_tokens": 1, "server_tool_use": {"web_search_requests": 0}}
START = {"type": "message_start", "message": {"id": "m", "content": [], "usage": USAGE}}


def event(**members):
    return f"event: {members['type']}\ndata: {json.dumps(members)}\n\n".encode()


def block(kind, **members):
    return event(type="content_block_start", index=0, content_block={"type": kind, **members})


def chunk(*deltas, **members):
    choices = [{"index": at, "delta": delta} for at, delta in enumerate(deltas)]
    return f"data: {json.dumps({'choices': choices, **members})}\n\n".encode()


MESSAGES_FRAME = {
    "nothing": b"",
    "a comment": b": OPENROUTER PROCESSING\n\n",
    "ping": event(type="ping"),
    "start": event(**START),
    "empty text": block("text", text=""),
    "empty thinking": block("thinking", thinking="", signature=""),
    "a tool's name": block("tool_use", id="t", name="Write", input={}),
    "a block's end": event(type="content_block_stop", index=0),
    "stop reason": event(type="message_delta", delta={"stop_reason": "end_turn"}, usage=USAGE),
    "stop": event(type="message_stop"),
    "error": event(type="error", error={"type": "overloaded_error", "message": "x"}),
    "all at once": event(**START) + block("text", text="") + event(type="ping"),
}
MESSAGES_CONTENT = {
    "text": event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "a"}),
    "an unknown delta": event(type="content_block_delta", index=0, delta={"type": "new_delta"}),
    "a delta named by its event alone": b"event: content_block_delta\ndata: {}\n\n",
    "a server's tool": block("server_tool_use", id="t", name="web_search", input={}),
    "a server tool's result": block("web_search_tool_result", tool_use_id="t", content=[]),
    "an MCP tool's result": block("mcp_tool_result", tool_use_id="t", content=[]),
    "redacted thinking": block("redacted_thinking", data="abc"),
}
CHAT_FRAME = {
    "nothing": b"",
    "a comment": b": OPENROUTER PROCESSING\n\n",
    "role": chunk({"role": "assistant"}),
    "empty members": chunk({"role": "assistant", "content": "", "refusal": None, "tool_calls": []}),
    "null content": chunk({"role": "assistant", "content": None}),
    "empty reasoning": chunk({"reasoning": "", "reasoning_details": []}),
    "no delta": b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n',
    "null delta": chunk(None),
    "no choices": chunk(usage={"prompt_tokens": 1}),
    "null choices": b'data: {"choices":null}\n\n',
    "error": b'data: {"error":{"message":"x"}}\n\n',
    "done": b"data: [DONE]\n\n",
    "filter results": chunk(prompt_filter_results=[{"prompt_index": 0}]),
}
CHAT_CONTENT = {
    "text": chunk({"content": "a"}),
    "a space": chunk({"content": " "}),
    "text with its role": chunk({"role": "assistant", "content": "a"}),
    "the second choice": chunk({"content": ""}, {"content": "a"}),
    "a tool call": chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}),
    "a function call": chunk({"function_call": {"name": "f"}}),
    "reasoning_content": chunk({"content": None, "reasoning_content": "hm"}),
    "reasoning": chunk({"content": "", "reasoning": "hm"}),
    "reasoning_details": chunk({"reasoning_details": [{"type": "reasoning.text"}]}),
    "refusal": chunk({"refusal": "I"}),
    "audio": chunk({"audio": {"id": "a"}}),
    "an unknown member": chunk({"new": 0}),
    "behind a role": chunk({"role": "assistant"}) + chunk({"content": "a"}),
    "no object": b"data: [1]\n\n",
    "a delta of another kind": b'data: {"choices":[{"delta":"a"}]}\n\n',
    "torn": b'data: {"choices":[{"del\n\n',
    "no UTF-8": b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
    "too deep": b'data: {"choices":[{"delta":{"content":' + b"[" * 100_000 + b"\n\n",
}


def cases(frame, content):
    told = [(events, False) for events in frame.values()]
    told += [(events, True) for events in content.values()]
    return pytest.mark.parametrize(("events", "is_content"), told, ids=[*frame, *content])


@cases(MESSAGES_FRAME, MESSAGES_CONTENT)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_messages_content_begins_with_a_delta_or_a_block_that_comes_whole(
    events, is_content, line_end
):
    assert has_content(events.replace(b"\n", line_end), Protocol.ANTHROPIC) is is_content


@cases(CHAT_FRAME, CHAT_CONTENT)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_chat_content_begins_with_a_delta_that_says_something(events, is_content, line_end):
    assert has_content(events.replace(b"\n", line_end), Protocol.OPENAI) is is_content


def test_a_count_of_a_servers_tools_is_no_tool():
    """It stands in the usage of the first event, which may come in one packet with a block."""
    assert not has_content(event(**START) + block("text", text=""), Protocol.ANTHROPIC)
