"""Sessions that grow: what a Chat server has cached of them stays the same, byte for byte."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chat_requests import check_messages, translate

from server.protocols.compat import SERVERS
from server.protocols.translation.idents import from_safe

REASONING_FIELDS = ("reasoning", "reasoning_content", "reasoning_details")
LONG = "mcp__" + "browser_of_the_team__" * 4
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}


def text(content):
    return {"type": "text", "text": content}


def opening():
    """What Claude Code sends first: reminders before the prompt, then a system message."""
    return [
        {"role": "user", "content": [text("<system-reminder>a</system-reminder>"), text("Go.")]},
        {"role": "system", "content": "Agents: none.", "output_config": {"effort": "high"}},
    ]


def turn(number):
    """A turn with parallel calls, a screenshot in one result and a remark behind them."""
    first, second = f"toolu_{number}a", f"toolu_{number}b"
    given = {"path": f"/src/é{number}.py", "limit": number * 1.5, "deep": {"x": [1, None, "\n"]}}
    said = [
        {"type": "thinking", "thinking": f"Thought {number}.", "signature": "c2ln"},
        text(f"Step {number}."),
        {"type": "tool_use", "id": first, "name": "Read", "input": given},
        {"type": "tool_use", "id": second, "name": LONG + "shot", "input": {}},
    ]
    shown = {"type": "tool_result", "tool_use_id": second, "content": [text("shot"), PNG]}
    results = [
        {"type": "tool_result", "tool_use_id": first, "content": f"line {number}\n" * 3},
        shown if number % 3 == 0 else {**shown, "content": "failed", "is_error": True},
    ]
    if number % 2:
        results.append(text(f"Remark {number}."))
    return [{"role": "assistant", "content": said}, {"role": "user", "content": results}]


def session(turns):
    """Give the request after so many turns, its last block marked for the cache."""
    messages = opening()
    for number in range(turns):
        messages += turn(number)
        if number % 4 == 3:
            messages.append({"role": "system", "content": [text(f"Reminder {number}.")]})
    content = messages[-1]["content"]
    if isinstance(content, str):
        content = messages[-1]["content"] = [text(content)]
    content[-1] = {**content[-1], "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    return {
        "messages": messages,
        "system": [
            text(f"x-anthropic-billing-header: cc_version=2.1.330; cch={turns:04x};"),
            {**text("You are a coder."), "cache_control": {"type": "ephemeral"}},
            {**text("Rules."), "cache_control": {"type": "ephemeral"}},
        ],
        "tools": [
            {"name": "Read", "description": "Reads.", "input_schema": {"type": "object"}},
            {"name": LONG + "shot", "input_schema": {"type": "object"}, "defer_loading": True},
            {"name": "DeferredToolPlaceholder", "defer_loading": True},
            {"name": "web_search", "type": "web_search_20250305"},
        ],
        "thinking": {"type": "adaptive", "display": "omitted"},
        "output_config": {"effort": "high"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "max_tokens": 32_000,
        "stream": True,
    }


@pytest.mark.parametrize("server", SERVERS)
def test_each_request_of_a_session_begins_with_the_bytes_of_the_one_before(server):
    requests = [translate(SERVERS[server], **session(turns)) for turns in range(11)]

    messages = [bytes(request.fields["messages"]) for request in requests]
    for shorter, longer in pairwise(messages):
        assert longer.startswith(shorter.removesuffix(b"]"))
        assert len(longer) > len(shorter)
    assert len({bytes(request.fields["tools"]) for request in requests}) == 1
    assert {tuple(request.fields) for request in requests} == {tuple(requests[0].fields)}
    check_messages(json.loads(messages[-1]), REASONING_FIELDS)


@pytest.mark.parametrize("server", SERVERS)
def test_nothing_of_the_cache_marks_or_the_attribution_leaves(server):
    messages = bytes(translate(SERVERS[server], **session(10)).fields["messages"])

    assert b"cache_control" not in messages
    assert b"billing" not in messages
    assert (b"Thought" in messages) is (SERVERS[server].reasoning_field is not None)


TEXTS = st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
JSON = st.recursive(SCALARS, lambda of: st.lists(of) | st.dictionaries(TEXTS, of), max_leaves=8)
INPUTS = st.dictionaries(TEXTS, JSON, max_size=4)
NAMES = st.sampled_from(["Read", "a.b", LONG, LONG + "2"])
TEXT_BLOCKS = st.builds(text, TEXTS)
THOUGHTS = st.builds(
    lambda thought, signature: {"type": "thinking", "thinking": thought, "signature": signature},
    TEXTS,
    st.sampled_from(["", "c2ln"]),
)
CONTENTS = st.none() | TEXTS | st.lists(TEXT_BLOCKS | st.just(PNG), max_size=3)
REMARKS = st.lists(TEXT_BLOCKS | st.just(PNG), max_size=2)


@st.composite
def histories(draw):
    """Draw turns that the Messages API accepts, and the inputs of their calls in order."""
    messages, inputs = [{"role": "user", "content": draw(TEXTS) + "!"}], []
    for number in range(draw(st.integers(0, 4))):
        said = draw(st.lists(TEXT_BLOCKS | THOUGHTS, max_size=3))
        results = []
        for at, made in enumerate(draw(st.lists(INPUTS, max_size=3))):
            ident = f"{draw(st.sampled_from(['toolu_', 'esc_a_3a', 'esc__']))}{number}_{at}"
            said.append({"type": "tool_use", "id": ident, "name": draw(NAMES), "input": made})
            results.append({"type": "tool_result", "tool_use_id": ident, "content": draw(CONTENTS)})
            inputs.append((ident, made))
        halves = draw(st.permutations(results)), draw(REMARKS)
        messages.append({"role": "assistant", "content": said})
        messages += [{"role": "user", "content": [*half]} for half in _cut(draw, *halves)]
        if draw(st.booleans()):
            messages.append({"role": "system", "content": draw(TEXTS)})
    return messages, inputs


def _cut(draw, results, remarks):
    """Send results and remarks as one message, or as two."""
    at = draw(st.integers(0, len(results)))
    return draw(
        st.sampled_from([[results + remarks], [results[:at] + remarks, results[at:]], [results]])
    )


@settings(deadline=None)
@given(histories(), st.sampled_from(sorted(SERVERS)))
def test_every_history_becomes_one_that_a_strict_server_takes(history, server):
    messages, inputs = history

    request = translate(SERVERS[server], messages=messages)

    sent = json.loads(bytes(request.fields["messages"]))
    check_messages(sent, REASONING_FIELDS)
    calls = [call for message in sent for call in message.get("tool_calls", ())]
    assert [call["id"] for call in calls] == [from_safe(ident) for ident, _ in inputs]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [
        made for _, made in inputs
    ]


@settings(deadline=None)
@given(INPUTS)
def test_the_input_of_a_call_survives_to_the_byte(made):
    raw = json.dumps(made)
    messages = [
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "Run", "input": made}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
    ]  # fmt: skip

    sent = json.loads(bytes(translate(messages=messages).fields["messages"]))

    assert sent[0]["tool_calls"][0]["function"]["arguments"] == raw
