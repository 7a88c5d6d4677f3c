"""Chat requests on their way to Chat upstreams, and what those would refuse of them."""

import json

import pytest

from server.protocols import body
from server.protocols.compat import (
    DEEPSEEK,
    GENERIC,
    OLLAMA,
    OPENAI,
    OPENROUTER,
    SERVERS,
    UNNAMED,
    VLLM,
    ready_set,
)
from server.protocols.translation.requests.mended_chat import mended

MARK = {"type": "ephemeral"}
USER = {"role": "user", "content": "hi"}
TURN = {"role": "assistant", "content": "Hello."}
SIGNED = {
    "type": "reasoning.text",
    "text": "Hm.",
    "signature": "c2ln",
    "format": "anthropic-claude-v1",
    "index": 0,
}
MUTE = {"type": "reasoning.encrypted", "data": "x", "format": "anthropic-claude-v1", "index": 1}
UNMARKING = [compat for compat in SERVERS.values() if not compat.cache_control]


def fields_of(*messages, **members):
    raw = json.dumps({"model": "m", "messages": messages, **members}).encode()
    return body.read_chat(raw).fields


def mend(compat, *messages, is_own=False):
    return json.loads(bytes(mended(fields_of(*messages), compat, is_own=is_own)["messages"]))


@pytest.mark.parametrize("compat", [OPENAI, VLLM, OPENROUTER, GENERIC, UNNAMED])
def test_a_request_without_a_trace_keeps_every_byte(compat):
    turn = rb'{"role" : "user","content":"\/ \"cache_control\""}'
    raw = b'{"model":"m", "messages": [ ' + turn + b' ],"n":1.0}'
    fields = body.split(raw)

    assert mended(fields, compat) == fields


@pytest.mark.parametrize("compat", UNMARKING)
def test_cache_marks_are_left_out_wherever_a_client_may_put_them(compat):
    schema = {"type": "object", "properties": {"cache_control": {"type": "string"}}}
    function = {"name": "f", "parameters": schema}
    tool = {"type": "function", "function": function}
    part = {"type": "text", "text": "hi"}
    fields = fields_of(
        {"role": "system", "content": [{**part, "cache_control": MARK}]},
        {"role": "user", "content": [part, {**part, "cache_control": MARK}]},
        {**USER, "cache_control": MARK},
        tools=[{**tool, "cache_control": MARK}, tool],
        cache_control=MARK,
    )

    left = {name: json.loads(bytes(value)) for name, value in mended(fields, compat).items()}

    assert left == {
        "model": "m",
        "messages": [
            {"role": "system", "content": [part]},
            {"role": "user", "content": [part, part]},
            USER,
        ],
        "tools": [tool, tool],
    }


def test_marks_that_move_on_leave_the_same_bytes_behind():
    """A client marks its last message: one turn later the same message has no mark any more."""
    text = '{"type":"text","text":"a \\/ b"}'
    marked = text[:-1] + ',"cache_control":{"type":"ephemeral"}}'
    message = '{"role":"user","content":[%s]}'
    later = '{"role":"assistant","content":"c"}'

    def sent(first, *more):
        messages = ",".join([message % first, *more])
        raw = f'{{"model":"m","messages":[{messages}]}}'.encode()
        return bytes(mended(body.split(raw), OPENAI)["messages"])

    before, after = sent(marked), sent(text, later, message % marked)

    assert after.startswith(before[:-1])
    assert before[:-1] == b"[" + (message % text).encode()


@pytest.mark.parametrize("compat", [OPENROUTER, UNNAMED])
def test_a_server_that_knows_cache_marks_gets_them(compat):
    part = {"type": "text", "text": "hi", "cache_control": MARK}
    fields = fields_of({"role": "user", "content": [part]}, cache_control=MARK)

    assert mended(fields, compat) == fields


REASONED = {
    "plain": {"reasoning_content": "Hm."},
    "by its other name": {"reasoning": "Hm."},
    "in both ways": {"reasoning_content": "Hm.", "reasoning_details": [SIGNED]},
    "in details": {"reasoning_details": [SIGNED, MUTE]},
    "in fragments": {
        "reasoning_details": [{**SIGNED, "text": "H", "signature": None}, {**SIGNED, "text": "m."}]
    },
}


@pytest.mark.parametrize("member", REASONED.values(), ids=REASONED)
@pytest.mark.parametrize("compat", [OPENAI, GENERIC])
def test_reasoning_is_left_out_where_the_server_wants_none_back(compat, member):
    assert mend(compat, USER, {**TURN, **member}, USER) == [USER, TURN, USER]


@pytest.mark.parametrize("member", REASONED.values(), ids=REASONED)
@pytest.mark.parametrize("compat", [DEEPSEEK, VLLM, OLLAMA])
def test_reasoning_goes_back_in_the_member_that_the_server_has_for_it(compat, member):
    reasoned = {**TURN, compat.reasoning_field: "Hm."}

    assert mend(compat, USER, {**TURN, **member}, USER) == [USER, reasoned, USER]


@pytest.mark.parametrize("member", REASONED.values(), ids=REASONED)
@pytest.mark.parametrize("compat", [OPENROUTER, UNNAMED])
def test_reasoning_stays_as_it_was_sent_where_all_of_it_is_understood(compat, member):
    fields = fields_of(USER, {**TURN, **member}, USER)

    assert mended(fields, compat) == fields


@pytest.mark.parametrize("compat", [OPENAI, UNNAMED])
def test_a_request_that_was_made_here_is_held_to_what_the_server_takes(compat):
    assert mend(compat, USER, {**TURN, "reasoning_details": [SIGNED]}, is_own=True) == [USER, TURN]


def test_a_turn_without_reasoning_gets_an_empty_one_where_it_is_required():
    null = {**TURN, "reasoning_content": None}
    turns = mend(DEEPSEEK, USER, TURN, USER, null)

    assert turns == [USER, {**TURN, "reasoning_content": ""}] * 2


def test_reasoning_in_its_place_keeps_its_bytes():
    turn = b'{"role":"assistant", "reasoning_content" : "\\/ Hm." ,"content":null}'
    raw = b'{"model":"m","messages":[' + turn + b"]}"

    assert bytes(mended(body.split(raw), DEEPSEEK)["messages"]) == b"[" + turn + b"]"


@pytest.mark.parametrize("odd", [7, [], {"text": 7}, [7], [{"type": 7}], "Hm."])
def test_details_of_an_unknown_shape_are_left_out(odd):
    assert mend(VLLM, {**TURN, "reasoning_details": odd}) == [TURN]


@pytest.mark.parametrize("odd", ["reasoning", 7, None, {"content": [7, "reasoning"]}])
def test_messages_that_are_none_are_left_for_the_server_to_judge(odd):
    assert mend(OPENAI, odd, {**TURN, "reasoning": "Hm."}) == [odd, TURN]


@pytest.mark.parametrize("content", ["cache_control", ["cache_control"], {"cache_control": 1}])
def test_content_of_another_shape_stays_as_it_is(content):
    message = {"role": "user", "content": content}

    assert mend(OPENAI, message) == [message]


def test_a_server_is_known_by_its_name_and_openai_by_its_address():
    assert ready_set("vllm", "https://api.openai.com/v1") is VLLM
    assert ready_set(None, "https://api.openai.com/v1") is OPENAI
    assert ready_set(None, "https://api.openai.com.example/v1") is UNNAMED
    assert ready_set(None, None) is UNNAMED
