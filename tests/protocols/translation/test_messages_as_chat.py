"""A Messages answer as a Chat client gets it, whole."""

import json

import openai
import pytest
from support.messages_answers import ANSWERS, FOUND, SEARCH, body, text, thinking, tool_use
from support.raw_upstream import run, sized, upstream

from server.errors import UpstreamError
from server.protocols.translation import Context
from server.protocols.translation.answers.messages_as_chat import answer

CONTEXT = Context("smart", "0a1b2c", 1763800000, 7, {"short": "a long name of the client's"})
STRICT = {"api_key": "fake", "max_retries": 0, "_strict_response_validation": True}
FORMAT = "anthropic-claude-v1"


def told(*blocks, **options):
    """Give the completion that `blocks` become."""
    return json.loads(answer(body(list(blocks), **options), CONTEXT))


def message(*blocks, **options):
    return told(*blocks, **options)["choices"][0]["message"]


def test_the_completion_bears_the_gateways_names():
    completion = told(text("Hello"))

    assert completion.pop("usage")
    assert completion == {
        "id": "chatcmpl-0a1b2c",
        "object": "chat.completion",
        "created": 1763800000,
        "model": "smart",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
    }


def test_the_texts_of_several_blocks_become_one():
    assert message(text("Hello"), text(", "), text("world"))["content"] == "Hello, world"


def test_citations_and_the_providers_own_tools_are_left_out():
    said = message(text("I search."), SEARCH, FOUND, text(" Found.", citations=[{"url": "u"}]))

    assert said == {"role": "assistant", "content": "I search. Found.", "refusal": None}


def test_tools_become_calls_and_content_is_null_beside_them():
    said = message(SEARCH, tool_use(path='a "b"'), tool_use("short", "toolu_2"))

    assert said["content"] is None
    assert said["tool_calls"] == [
        {
            "id": "toolu_1",
            "type": "function",
            "function": {"name": "Write", "arguments": '{"path": "a \\"b\\""}'},
        },
        {
            "id": "toolu_2",
            "type": "function",
            "function": {"name": "a long name of the client's", "arguments": "{}"},
        },
    ]


def test_text_beside_a_tool_is_kept():
    assert message(text("I write."), tool_use())["content"] == "I write."


@pytest.mark.parametrize("tool_input", [None, [], "", "{}", 5])
def test_an_input_that_is_no_object_becomes_an_empty_one(tool_input):
    call = message({**tool_use(), "input": tool_input})["tool_calls"][0]

    assert call["function"]["arguments"] == "{}"


def test_a_call_without_an_id_is_given_one_of_its_own():
    calls = message(tool_use(ident=""), tool_use(ident=""))["tool_calls"]

    assert [call["id"] for call in calls] == ["call_0a1b2c_0", "call_0a1b2c_1"]


def test_signed_thinking_can_be_sent_back_and_is_never_content():
    redacted = {"type": "redacted_thinking", "data": "c2VjcmV0"}

    said = message(thinking("Hm. "), redacted, thinking("Oh.", "Yg=="), text("Yes."))

    assert said["content"] == "Yes."
    assert said["reasoning_content"] == "Hm. Oh."
    signed = {"type": "reasoning.text", "format": FORMAT}
    assert said["reasoning_details"] == [
        {**signed, "text": "Hm. ", "signature": "c2lnbmVk", "index": 0},
        {"type": "reasoning.encrypted", "data": "c2VjcmV0", "format": FORMAT, "index": 1},
        {**signed, "text": "Oh.", "signature": "Yg==", "index": 2},
    ]


def test_unsigned_thinking_is_shown_but_not_to_be_sent_back():
    said = message(thinking("Hm.", ""), text("Yes."))

    assert said["reasoning_content"] == "Hm."
    assert "reasoning_details" not in said


@pytest.mark.parametrize("nothing", [(), (text(""),), (SEARCH, FOUND)])
def test_an_answer_that_says_nothing_has_empty_content(nothing):
    assert message(*nothing)["content"] == ""


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "stop"),  # of the provider's own tools only
        ("compaction", "stop"),
        (None, "stop"),
    ],
)
def test_each_stop_reason_has_its_finish_reason(stop_reason, finish_reason):
    assert told(text("So"), stop_reason=stop_reason)["choices"][0]["finish_reason"] == finish_reason


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [("tool_use", "tool_calls"), ("end_turn", "tool_calls"), ("max_tokens", "length")],
)
def test_beside_a_call_only_the_limit_hides_that_it_is_to_be_made(stop_reason, finish_reason):
    choice = told(tool_use(a=1), stop_reason=stop_reason)["choices"][0]

    assert choice["finish_reason"] == finish_reason


def test_the_prompt_counts_what_was_cached():
    assert told(text("So"))["usage"] == {
        "prompt_tokens": 365,
        "completion_tokens": 60,
        "total_tokens": 425,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 12},
    }


def test_cache_writes_are_counted_by_their_parts_too():
    parts = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 5}
    counts = {"input_tokens": 1, "output_tokens": 2, "cache_creation": parts}

    usage = told(text("So"), usage=counts)["usage"]

    assert usage["prompt_tokens"] == 16
    assert usage["prompt_tokens_details"]["cache_write_tokens"] == 15
    assert "completion_tokens_details" not in usage


@pytest.mark.parametrize("usage", [None, {}, [], {"output_tokens": -5}, {"input_tokens": "12"}])
def test_usage_that_was_not_told_is_not_made_up(usage):
    assert "usage" not in told(text("So"), usage=usage)


@pytest.mark.parametrize("details", [None, [], {"thinking_tokens": -1}, {"thinking_tokens": "1"}])
def test_thinking_tokens_that_are_no_count_are_passed_over(details):
    counts = {"input_tokens": 1, "output_tokens": 2, "output_tokens_details": details}

    assert "completion_tokens_details" not in told(text("So"), usage=counts)["usage"]


@pytest.mark.parametrize("odd", [5, None, [], {}, {"type": "text", "text": None}, {"type": 1}])
def test_a_block_that_cannot_be_read_is_passed_over(odd):
    assert message(text("So"), odd, text("."))["content"] == "So."


@pytest.mark.parametrize(
    "odd", [b"", b"[]", b"{", b"{}", b'{"content":"Hello"}', b'{"content":%b}' % (b"[" * 100_000)]
)
def test_what_is_no_message_is_the_upstreams_error(odd):
    with pytest.raises(UpstreamError, match="The provider's answer is not"):
        answer(odd, CONTEXT)


def test_the_official_sdk_takes_every_answer_strictly():
    wholes = [answer(body(*each), CONTEXT) for each in ANSWERS.values()]

    async def scenario():
        heads = [sized(whole, "content-type: application/json") for whole in wholes]
        async with (
            upstream(*heads) as server,
            openai.AsyncOpenAI(base_url=server.url, **STRICT) as client,
        ):
            ask = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}]}
            return [await client.chat.completions.create(**ask) for _ in wholes]

    for completion, whole in zip(run(scenario()), wholes, strict=True):
        assert completion.to_dict() == json.loads(whole)
