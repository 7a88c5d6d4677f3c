"""Chat answers in the Responses protocol's form, whole and streamed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.responses_rules import check_responses_stream

from server.errors import UpstreamError
from server.protocols import body
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_responses import ChatAsResponses, answer
from server.protocols.translation.answers.responses_errors import failed_event
from server.protocols.translation.requests.responses_to_chat import request
from server.protocols.translation.sealed_thinking import unseal

CONTEXT = Context("auto", "0123abc", 1_795_000_000, 10, {})
RUN = {"type": "function", "name": "run", "parameters": {"type": "object"}}
PATCH = {"type": "custom", "name": "apply_patch"}
TOOLS = [
    *(RUN, PATCH, {"type": "local_shell"}, {"type": "tool_search", "execution": "client"}),
    {"type": "namespace", "name": "agents", "description": "", "tools": [RUN, PATCH]},
]
SIGNED = {
    "type": "reasoning.text",
    "text": "hm",
    "signature": "c2ln",
    "format": "anthropic-claude-v1",
    "index": 0,
}
REDACTED = {
    "type": "reasoning.encrypted",
    "data": "eA==",
    "format": "anthropic-claude-v1",
    "index": 1,
}
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def asked(**members):
    return request(body.split(json.dumps({"model": "auto", "input": "hi", **members}).encode()))


def chunk(finish=None, usage=None, **delta):
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    shared = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    return b"data: %b\n\n" % json.dumps({**shared, "choices": choices, "usage": usage}).encode()


def fragment(index, arguments, ident=None, name=None):
    function = {"name": name, "arguments": arguments}
    return chunk(tool_calls=[{"index": index, "id": ident, "function": function}])


def stream(*chunks, request=None):
    """Give the whole client stream; the rules are checked on the way."""
    machine = ChatAsResponses(CONTEXT, request or asked(tools=TOOLS))
    out = b"".join([*(machine.feed(each) for each in chunks), machine.finish()])
    return out, check_responses_stream(out)


def items(*chunks):
    return stream(*chunks)[1]["output"]


def kinds(*chunks):
    return [item["type"] for item in items(*chunks)]


def deltas(raw, kind):
    events = [json.loads(line[6:]) for line in raw.splitlines() if line.startswith(b"data: ")]
    return [event["delta"] for event in events if event["type"] == kind]


def test_text_comes_as_it_is_said():
    raw, final = stream(
        chunk(role="assistant", content=""),
        chunk(content="Hé"),
        chunk(content='"\n'),
        chunk("stop"),
        b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(USAGE).encode(),
        b"data: [DONE]\n\n",
    )

    assert deltas(raw, "response.output_text.delta") == ["Hé", '"\n']
    assert final["output"] == [
        {
            "id": "msg_0123abc_0",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": 'Hé"\n', "annotations": [], "logprobs": []}
            ],
        }
    ]
    assert final["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 17,
    }


def test_the_response_repeats_what_was_asked():
    members = {
        "instructions": "Be brief.",
        "tools": TOOLS,
        "tool_choice": {"type": "function", "name": "run"},
        "parallel_tool_calls": False,
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low"},
        "max_output_tokens": 99,
    }

    final = stream(chunk("stop", content="x"), request=asked(**members))[1]

    assert {name: final[name] for name in members} == members
    assert (final["id"], final["model"]) == ("resp_0123abc", "auto")
    assert (final["created_at"], final["store"]) == (1_795_000_000, False)
    assert (final["previous_response_id"], final["truncation"]) == (None, "disabled")


def test_an_answer_that_says_nothing_is_complete():
    assert stream()[1]["output"] == []
    assert stream(chunk("stop"))[1]["status"] == "completed"


@pytest.mark.parametrize("member", ["reasoning_content", "reasoning"])
def test_reasoning_is_an_item_of_its_own(member):
    raw, final = stream(chunk(**{member: "h"}), chunk(**{member: "m"}), chunk("stop", content="x"))

    assert deltas(raw, "response.reasoning_summary_text.delta") == ["h", "m"]
    assert final["output"][0] == {
        "id": "rs_0123abc_0",
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": "hm"}],
    }
    assert [item["type"] for item in final["output"]] == ["reasoning", "message"]


def test_reasoning_that_is_said_in_two_members_is_told_once():
    detail = {"type": "reasoning.text", "text": "hm", "index": 0}

    said = items(chunk(reasoning_content="hm", reasoning="hm", reasoning_details=[detail]))

    assert [item["summary"][0]["text"] for item in said] == ["hm"]


def test_signed_reasoning_is_sealed_and_can_be_sent_back():
    said = items(
        chunk(reasoning_content="hm"),
        chunk(reasoning_details=[SIGNED]),
        chunk(reasoning_details=[REDACTED]),
        fragment(0, "{}", "c1", "run"),
        chunk("tool_calls"),
    )
    back = asked(input=[*said, {"type": "function_call_output", "call_id": "c1", "output": "x"}])

    turn = json.loads(bytes(back.fields["messages"]))[0]
    assert turn["reasoning_details"] == [SIGNED, REDACTED]
    assert turn["tool_calls"][0]["id"] == "c1"


def test_reasoning_details_may_come_in_fragments():
    part = {"type": "reasoning.text", "index": 0, "format": "f"}
    said = items(
        chunk(reasoning_details=[{**part, "text": "h"}]),
        chunk(reasoning_details=[{**part, "text": "m", "signature": None}]),
        chunk(reasoning_details=[{**part, "signature": "c2ln"}]),
        chunk(reasoning_details=[{**part, "text": "again"}]),
        chunk(reasoning_details=None),
        chunk("stop", content="x"),
    )

    assert [json.loads(bytes(raw)) for raw in unseal(said[0]["encrypted_content"])] == [
        {**part, "text": "hm", "signature": "c2ln"}
    ]


def test_reasoning_details_that_say_nothing_are_passed_over():
    assert kinds(chunk(reasoning_details=[{"type": "reasoning.text"}]), chunk(content="x")) == [
        "message"
    ]


def test_redacted_reasoning_has_no_summary():
    said = items(chunk(reasoning_details=[REDACTED]), chunk("stop", content="x"))

    assert said[0]["summary"] == []
    assert said[0]["encrypted_content"]


def test_a_refusal_is_a_part_of_its_own():
    raw, final = stream(chunk(refusal="No"), chunk(refusal="."), chunk("stop"))

    assert deltas(raw, "response.refusal.delta") == ["No", "."]
    assert final["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_arguments_come_as_they_are_said():
    raw, final = stream(
        fragment(0, "", "c1", "run"),
        fragment(0, '{"a":'),
        fragment(0, " 1.10}"),
        chunk("tool_calls"),
    )

    assert deltas(raw, "response.function_call_arguments.delta") == ['{"a":', " 1.10}"]
    assert final["output"] == [
        {
            "id": "fc_0123abc_0",
            "type": "function_call",
            "status": "completed",
            "call_id": "c1",
            "name": "run",
            "arguments": '{"a": 1.10}',
        }
    ]


def test_calls_whose_fragments_are_mixed_come_one_after_the_other():
    said = items(
        fragment(0, "", "c1", "run"),
        fragment(1, "", "c2", "run"),
        fragment(1, '{"b":{'),
        fragment(0, '{"a":{}'),
        fragment(2, "{}", "c3", "run"),
        fragment(1, "}}"),
        fragment(0, "}"),
        chunk("tool_calls"),
    )

    assert [(item["call_id"], item["arguments"]) for item in said] == [
        *(("c1", '{"a":{}}'), ("c2", '{"b":{}}'), ("c3", "{}"))
    ]


def test_a_call_that_is_whole_does_not_wait_for_the_end():
    machine = ChatAsResponses(CONTEXT, asked())
    machine.feed(fragment(0, "{}", "c1", "run"))

    told = machine.feed(fragment(1, "", "c2", "run"))

    assert told.count(b"event: response.output_item.done") == 1
    assert b'"call_id":"c2"' in told


def test_text_behind_a_call_waits_for_it_and_is_not_lost():
    said = items(
        chunk(content="a"),
        fragment(0, '{"x":', "c1", "run"),
        chunk(content="b"),
        fragment(0, "1}"),
        chunk("tool_calls", content="c"),
    )

    assert [item["type"] for item in said] == ["message", "function_call", "message"]
    assert said[1]["arguments"] == '{"x":1}'
    assert said[2]["content"][0]["text"] == "bc"


def test_calls_that_share_an_index_are_told_apart_by_their_ids():
    said = items(
        fragment(0, '{"a":1}', "c1", "run"), fragment(0, '{"a":2}', "c2", "run"), chunk("stop")
    )

    assert [(item["call_id"], item["arguments"]) for item in said] == [
        *(("c1", '{"a":1}'), ("c2", '{"a":2}'))
    ]


def test_two_calls_never_share_an_id():
    said = items(fragment(0, "{}", "c1", "run"), fragment(1, "{}", "c1", "run"), chunk("stop"))

    assert [item["call_id"] for item in said] == ["c1", "call_0123abc_1"]


def test_name_and_id_may_come_late_twice_or_never():
    said = items(
        fragment(0, "{"),
        fragment(0, "", None, "run"),
        fragment(0, "}", "c1", "run"),
        fragment(1, "{}", "", "run"),
        fragment(2, "{}", "c3"),
        chunk("tool_calls"),
    )

    assert [(item["call_id"], item["name"], item["arguments"]) for item in said] == [
        *(("c1", "run", "{}"), ("call_0123abc_1", "run", "{}"))
    ]


@pytest.mark.parametrize("none", ["", None])
def test_a_call_without_arguments_has_an_empty_object(none):
    said = items(fragment(0, none, "c1", "run"), chunk("tool_calls"))

    assert said[0]["arguments"] == "{}"


def test_arguments_may_be_an_object():
    assert items(fragment(0, {"a": "é"}, "c1", "run"))[0]["arguments"] == '{"a": "\\u00e9"}'


def test_what_follows_whole_arguments_is_passed_over():
    said = items(
        fragment(0, "{}", "c1", "run"),
        fragment(1, "{}", "c2", "run"),
        fragment(0, "{}"),
        chunk("tool_calls"),
    )

    assert [item["arguments"] for item in said] == ["{}", "{}"]


def test_a_custom_tools_call_holds_its_string():
    patch = '*** Begin "Patch"\n+é\n'

    raw, final = stream(
        fragment(0, json.dumps({"input": patch})[:9], "c1", "apply_patch"),
        fragment(0, json.dumps({"input": patch})[9:]),
        chunk("tool_calls"),
    )

    assert deltas(raw, "response.custom_tool_call_input.delta") == [patch]
    assert final["output"] == [
        {
            "id": "ctc_0123abc_0",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "c1",
            "name": "apply_patch",
            "input": patch,
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("plain", "plain"),
        ('{"patch":1}', '{"patch":1}'),
        ("[1]", "[1]"),
        ("", ""),
        ('{"input', '{"input'),
    ],
)
def test_a_custom_tools_string_is_whatever_came_where_the_model_kept_to_no_form(arguments, given):
    assert items(fragment(0, arguments, "c1", "apply_patch"))[0]["input"] == given


def test_a_tool_of_a_namespace_gets_its_own_name_back():
    said = items(
        fragment(0, "{}", "c1", "agents__run"),
        fragment(1, '{"input":"x"}', "c2", "agents__apply_patch"),
    )

    assert [(item["type"], item["namespace"], item["name"]) for item in said] == [
        ("function_call", "agents", "run"),
        ("custom_tool_call", "agents", "apply_patch"),
    ]


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (
            {"command": ["ls"], "timeout_ms": 5},
            {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": 5},
        ),
        ({"command": "ls"}, {"type": "exec", "command": ["bash", "-lc", "ls"], "env": {}}),
        ([], {"type": "exec", "command": [], "env": {}}),
    ],
)
def test_a_local_shell_call_holds_what_to_run(arguments, action):
    said = items(fragment(0, json.dumps(arguments), "c1", "local_shell"))[0]

    assert (said["type"], said["call_id"], said["action"]) == ("local_shell_call", "c1", action)


def test_a_tool_search_is_the_clients_to_carry_out():
    said = items(fragment(0, '{"query":"x"}', "c1", "tool_search"))[0]

    assert (said["type"], said["execution"]) == ("tool_search_call", "client")
    assert said["arguments"] == {"query": "x"}


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_broke_off_is_incomplete(finish, reason):
    raw, final = stream(chunk(content="a"), chunk(finish))

    assert b"event: response.incomplete\n" in raw
    assert final["incomplete_details"] == {"reason": reason}
    assert final["output"][0]["status"] == "incomplete"


def test_a_call_that_broke_off_is_incomplete_and_those_before_it_are_not():
    said = items(fragment(0, "{}", "c1", "run"), fragment(1, '{"a', "c2", "run"), chunk("length"))

    assert [(item["status"], item["arguments"]) for item in said] == [
        *(("completed", "{}"), ("incomplete", '{"a'))
    ]


def test_a_call_that_was_whole_when_the_limit_came_is_complete():
    assert items(fragment(0, "{}", "c1", "run"), chunk("length"))[0]["status"] == "completed"


def test_events_are_read_however_they_come():
    lines = chunk(content="a") + chunk("stop", content="b")

    assert kinds(lines.replace(b"\n", b"\r\n")) == ["message"]
    assert kinds(lines.replace(b"data: ", b"data:")) == ["message"]


def test_what_cannot_be_read_is_passed_over():
    raw, final = stream(
        b": ping\n\n",
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: " + b"[" * 5000 + b"\n\n",
        b'data: {"choices":[{"delta":null,"finish_reason":null}]}\n\n',
        b'data: {"choices":null,"usage":{"prompt_tokens":"x"}}\n\n',
        chunk(content=1, reasoning=[1], reasoning_details=[1], tool_calls=[{}]),
        chunk(content=[{"type": "text", "text": "a"}, {"type": "x"}]),
        chunk("stop"),
    )

    assert raw.index(b": ping\n\n") > 0
    assert final["output"][0]["content"][0]["text"] == "a"
    assert final["usage"] is None


@pytest.mark.parametrize("name", ["run", "apply_patch", "local_shell"])
def test_half_of_a_surrogate_pair_harms_nothing(name):
    half = fragment(0, "HALF", "c1", name).replace(b"HALF", b"\\ud800}")

    final = stream(half, fragment(1, "{}", "c2", "run"), chunk("tool_calls"))[1]

    assert [item["call_id"] for item in final["output"]] == ["c1", "c2"]


def completion(finish="stop", usage=None, **message):
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps({"id": "x", "choices": choices, "usage": usage}).encode()


def test_a_whole_answer_says_what_a_stream_says():
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "run", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "apply_patch", "arguments": "x"}},
    ]
    message = {
        "reasoning_content": "hm",
        "reasoning_details": [SIGNED],
        "content": "a",
        "tool_calls": calls,
    }

    whole = json.loads(
        answer(completion("tool_calls", USAGE, **message), CONTEXT, asked(tools=TOOLS))
    )

    assert whole == stream(chunk("tool_calls", USAGE, **message))[1]
    assert [item["type"] for item in whole["output"]] == [
        *("reasoning", "message", "function_call", "custom_tool_call")
    ]


def test_a_whole_answer_that_broke_off_is_incomplete():
    whole = json.loads(answer(completion("length", content="a"), CONTEXT, asked()))

    assert (whole["status"], whole["output"][0]["status"]) == ("incomplete", "incomplete")
    assert whole["usage"] is None


@pytest.mark.parametrize("odd", [b"{}", b"[]", b'{"choices":[]}', b"<html>"])
def test_a_body_that_is_no_completion_is_the_providers_fault(odd):
    with pytest.raises(UpstreamError, match="try again"):
        answer(odd, CONTEXT, asked())


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("upstream_error", "server_error"),
        ("overloaded", "server_error"),
        ("rate_limited", "rate_limit_exceeded"),
        ("insufficient_balance", "invalid_prompt"),
        ("prompt_too_long", "context_length_exceeded"),
    ],
)
def test_a_failure_may_end_a_stream_wherever_it_stands(code, told):
    machine = ChatAsResponses(CONTEXT, asked())
    begun = machine.feed(chunk(content="a"))
    failed = failed_event(code, "It broke.", CONTEXT)

    for out in (failed, begun + failed):
        final = check_responses_stream(out)
        assert final["error"] == {"code": told, "message": "It broke."}
        assert final["id"] == "resp_0123abc"


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    calls=st.lists(st.dictionaries(st.text(max_size=4), anything), min_size=1, max_size=4),
    words=st.text(),
    data=st.data(),
)
def test_whatever_is_said_arrives_as_it_was_however_it_is_cut(calls, words, data):
    texts = [json.dumps(call, ensure_ascii=data.draw(st.booleans())) for call in calls]
    waiting = [
        [fragment(index, cut) for cut in pieces_of(text, data)] for index, text in enumerate(texts)
    ]
    heads = [fragment(index, "", f"c{index}", "run") for index in range(len(calls))]
    mixed = []
    while any(waiting):
        mixed.append(data.draw(st.sampled_from([each for each in waiting if each])).pop(0))

    said = items(*(chunk(content=cut) for cut in pieces_of(words, data)), *heads, *mixed)

    assert (
        "".join(item["content"][0]["text"] for item in said if item["type"] == "message") == words
    )
    assert [item["arguments"] for item in said if item["type"] == "function_call"] == texts


@given(patch=st.text(), data=st.data())
def test_a_custom_tools_string_arrives_as_it_was_however_it_is_cut(patch, data):
    arguments = json.dumps({"input": patch})

    said = items(
        fragment(0, "", "c1", "apply_patch"),
        *(fragment(0, cut) for cut in pieces_of(arguments, data)),
    )

    assert said[0]["input"] == patch


def pieces_of(text, data):
    at = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=3)))
    return [text[begin:end] for begin, end in zip([0, *at], [*at, len(text)], strict=True)]
