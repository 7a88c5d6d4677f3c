"""Answers of Chat upstreams, not streamed, as a Messages client gets them."""

import json

import anthropic.types
import pytest

from server.errors import UpstreamError
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_messages import answer

CONTEXT = Context("auto", "0123abcd", 1763800000, 321, {"Long_1a2b": "Longer"})
CALL = {"id": "call_1", "type": "function", "function": {"name": "Read", "arguments": '{"a":1}'}}


def translated(message=None, *, finish="stop", usage=None, **members):
    choice = {"index": 0, "message": message or {}, "finish_reason": finish} | members
    body = {"id": "chatcmpl-1", "choices": [choice], "usage": usage}
    return json.loads(answer(json.dumps(body).encode(), CONTEXT))


def tool(arguments):
    return translated({"tool_calls": [CALL | {"function": {"name": "T", "arguments": arguments}}]})


def test_an_answer_has_the_shape_that_the_sdk_is_strict_about():
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    message = {"content": "Hi", "reasoning_content": "Hm", "tool_calls": [CALL]}

    said = translated(message, finish="tool_calls", usage=usage)

    anthropic.types.Message.model_validate(said, strict=True)
    assert said == {
        "id": "msg_0123abcd",
        "type": "message",
        "role": "assistant",
        "model": "auto",
        "content": [
            {"type": "thinking", "thinking": "Hm", "signature": ""},
            {"type": "text", "text": "Hi"},
            {"type": "tool_use", "id": "call_1", "name": "Read", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 30,
            "cache_creation_input_tokens": 10,
            "cache_read_input_tokens": 60,
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 5},
        },
    }


@pytest.mark.parametrize(
    ("finish", "calls", "reason"),
    [
        ("stop", [], "end_turn"),
        ("length", [], "max_tokens"),
        ("content_filter", [], "refusal"),
        ("tool_calls", [], "end_turn"),
        ("sensitive", [], "end_turn"),
        (None, [], "end_turn"),
        ("stop", [CALL], "tool_use"),
        ("tool_calls", [CALL], "tool_use"),
        ("function_call", [CALL], "tool_use"),
        ("length", [CALL], "max_tokens"),
        ("content_filter", [CALL], "refusal"),
    ],
)
def test_the_stop_reason_follows_from_finish_and_calls(finish, calls, reason):
    assert translated({"tool_calls": calls}, finish=finish)["stop_reason"] == reason


def test_a_matched_stop_string_is_told():
    said = translated({"content": "Hi"}, stop_reason="END")

    assert (said["stop_reason"], said["stop_sequence"]) == ("stop_sequence", "END")


@pytest.mark.parametrize("content", [None, "", " \n", [], {}, 7])
def test_an_answer_without_text_has_no_empty_block(content):
    assert translated({"content": content})["content"] == []
    assert translated({"content": content, "tool_calls": [CALL]})["content"][0]["id"] == "call_1"


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ("[1]", {"invalid_arguments": "[1]"}),
        ('{"path":"a', {"invalid_arguments": '{"path":"a'}),
        ('{"a":1}{"a":1}', {"a": 1}),
    ],
)
def test_input_is_always_an_object(arguments, taken):
    assert tool(arguments)["content"][0]["input"] == taken


def test_input_keeps_its_numbers_and_escapes_to_the_byte():
    text = '{"n":1.10,"big":123456789012345678901234567890,"path":"a\\/b\\u00e9"}'
    body = {"choices": [{"message": {"tool_calls": [CALL | {"function": {"name": "T"}}]}}]}
    body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] = text

    assert b'"input":' + text.encode() in answer(json.dumps(body).encode(), CONTEXT)


def test_calls_get_unique_safe_ids_and_their_names_back():
    calls = [CALL, CALL, CALL | {"id": None}, {"function": {"name": "Long_1a2b"}}, {"id": "x"}]

    tools = translated({"tool_calls": calls})["content"]

    assert [tool["id"] for tool in tools] == [
        "call_1",
        "toolu_0123abcd_1",
        "toolu_0123abcd_2",
        "toolu_0123abcd_3",
    ]
    assert tools[3]["name"] == "Longer"


def test_the_function_call_of_old_is_a_tool_call():
    said = translated(
        {"function_call": {"name": "Read", "arguments": "{}"}}, finish="function_call"
    )

    assert (said["content"][0]["name"], said["stop_reason"]) == ("Read", "tool_use")


def test_a_refusal_is_text_and_refuses():
    said = translated({"content": None, "refusal": "I won't."})

    assert said["content"] == [{"type": "text", "text": "I won't."}]
    assert said["stop_reason"] == "refusal"


def test_signed_thoughts_of_claude_keep_their_blocks():
    claude = {"format": "anthropic-claude-v1"}
    details = [
        {"type": "reasoning.text", "text": "one", "signature": "s1", **claude},
        {"type": "reasoning.encrypted", "data": "c2VhbA==", **claude},
        {"type": "reasoning.text", "text": "two", "signature": "s2", **claude},
        {"type": "reasoning.text", "text": "", "signature": None, **claude},
    ]

    said = translated({"reasoning": "one\ntwo", "reasoning_details": details, "content": "Hi"})

    assert said["content"] == [
        {"type": "thinking", "thinking": "one", "signature": "s1"},
        {"type": "redacted_thinking", "data": "c2VhbA=="},
        {"type": "thinking", "thinking": "two", "signature": "s2"},
        {"type": "text", "text": "Hi"},
    ]


def test_unsigned_reasoning_is_told_once():
    details = [{"type": "reasoning.text", "text": "Hm", "signature": "x", "format": "unknown"}]

    said = translated({"reasoning": "Hm", "reasoning_content": "Hm", "reasoning_details": details})

    assert said["content"] == [{"type": "thinking", "thinking": "Hm", "signature": ""}]


def test_usage_that_is_missing_is_estimated():
    usage = translated({"content": "x" * 100})["usage"]

    assert usage["input_tokens"] == 321
    assert usage["output_tokens"] > 20


def test_the_first_choice_is_the_answer():
    choices = [{"index": n, "message": {"content": str(n)}} for n in (1, 0)]

    said = json.loads(answer(json.dumps({"choices": choices}).encode(), CONTEXT))

    assert said["content"] == [{"type": "text", "text": "0"}]


def test_bytes_that_are_not_utf_8_are_replaced():
    body = b'{"choices":[{"message":{"content":"a\xff","tool_calls":[{"id":"\xff"}]}}]}'

    assert json.loads(answer(body, CONTEXT))["content"][0]["text"] == "a\ufffd"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b"{}", b"<html>", b'{"choices":' + b"[" * 5000),
        *(b'{"choices":null}', b'{"choices":[]}', b'{"choices":7}'),
        b'{"choices":[{"index":1,"message":{}}]}',
    ],
)
def test_what_is_no_answer_is_the_providers_failure(body):
    with pytest.raises(UpstreamError, match="The provider's answer"):
        answer(body, CONTEXT)
