"""Histories that another upstream had a part in, on their way to an Anthropic one."""

import json

import pytest

from server.errors import InvalidRequest
from server.protocols import body
from server.protocols.translation.idents import to_safe
from server.protocols.translation.requests.mended_messages import mended

SIGNED = {"type": "thinking", "thinking": "a", "signature": "c2ln"}
UNSIGNED = {"type": "thinking", "thinking": "b", "signature": ""}
ANSWER = {"type": "text", "text": "Hello.", "cache_control": {"type": "ephemeral"}}
USER = {"role": "user", "content": "hi"}
ROTTEN = "functions.Read:0"


def fields_of(*messages, **members):
    raw = json.dumps({"model": "m", "messages": messages, **members}).encode()
    return body.read_messages(raw).fields


def mend(*messages):
    return json.loads(bytes(mended(fields_of(*messages))["messages"]))


def test_a_history_without_a_trace_is_not_touched():
    fields = fields_of(USER, {"role": "assistant", "content": [SIGNED, ANSWER]}, USER)

    assert mended(fields) is fields


def test_unsigned_thinking_is_left_out_and_signed_thinking_stays():
    turn = {"role": "assistant", "content": [UNSIGNED, SIGNED, {**UNSIGNED, "signature": None}]}

    assert mend(USER, turn, USER) == [USER, {"role": "assistant", "content": [SIGNED]}, USER]


def test_a_turn_of_unsigned_thinking_alone_is_left_out():
    assert mend(USER, {"role": "assistant", "content": [UNSIGNED]}, USER) == [USER, USER]


def test_ids_that_the_messages_api_refuses_are_escaped_on_both_sides():
    use = {"type": "tool_use", "id": ROTTEN, "name": "Read", "input": {"id": ROTTEN}}
    result = {"type": "tool_result", "tool_use_id": ROTTEN, "content": ROTTEN}

    sent = mend({"role": "assistant", "content": [use]}, {"role": "user", "content": [result]})

    assert sent[0]["content"] == [{**use, "id": to_safe(ROTTEN)}]
    assert sent[1]["content"] == [{**result, "tool_use_id": to_safe(ROTTEN)}]


@pytest.mark.parametrize("ident", ["call_0", ROTTEN])
def test_ids_that_come_back_in_a_later_turn_become_unique(ident):
    """Some servers begin anew in every turn; the Messages API takes no id twice."""
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": ident, "name": "Read"}]}
    result = {"type": "tool_result", "tool_use_id": ident, "content": "x"}
    turn = [call, {"role": "user", "content": [result]}]

    sent = mend(USER, *turn, *turn, *turn)

    safe = to_safe(ident)
    wanted = [safe, f"{safe}_2", f"{safe}_3"]
    assert [each["content"][0]["id"] for each in sent[1::2]] == wanted
    assert [each["content"][0]["tool_use_id"] for each in sent[2::2]] == wanted
    assert mend(USER, *turn, *turn) == sent[:5]


def test_a_made_id_never_meets_one_that_was_there():
    ids = ["call_0", "call_0_2", "call_0", "call_0_2"]
    talk = []
    for ident in ids:
        use = {"type": "tool_use", "id": ident, "name": "Read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": ident, "content": ident}
        talk += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]

    sent = mend(*talk)

    own = [each["content"][0]["id"] for each in sent[::2]]
    assert len(set(own)) == 4
    assert [each["content"][0]["tool_use_id"] for each in sent[1::2]] == own


def test_a_result_that_is_sent_twice_is_no_call_of_its_own():
    use = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "x"}
    talk = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result, result]}]

    assert mend(*talk) == talk


def test_what_needs_no_mending_keeps_its_bytes():
    """Of the whole history only the turn with the trace may be written anew."""
    given = rb'{ "id" : "a.b", "n": 1.10, "s": "\/ \"signature\": \"\"", "signature": "" }'
    call = rb'{"type":"tool_use", "id":"t1", "name":"Run", "input":' + given + b"}"
    calling = b'{"content": [' + call + b'] , "role":"assistant"}'
    thinking = json.dumps({"role": "assistant", "content": [UNSIGNED, ANSWER]}).encode()
    raw = b'{"model":"m","messages":[' + calling + b", " + thinking + b"]}"

    sent = bytes(mended(body.read_messages(raw).fields)["messages"])

    assert sent.startswith(b"[" + calling + b",")
    assert json.dumps(ANSWER).encode() in sent
    assert b'"thinking"' not in sent


@pytest.mark.parametrize("content", [None, 7, '"id": "a.b"'])
def test_content_of_another_type_is_left_for_the_upstream_to_judge(content):
    odd = {"role": "user", "content": content, "id": "a.b"}

    assert mend(odd) == [odd]


def test_a_block_that_cannot_be_read_is_the_clients_fault():
    with pytest.raises(InvalidRequest, match="messages cannot be read"):
        mend({"role": "user", "content": [{"tool_use_id": "a.b"}]})
