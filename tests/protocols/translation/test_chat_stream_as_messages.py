"""Streams of Chat upstreams as a Messages client gets them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stream_rules import check_messages_stream, events, object_of

from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_messages import ChatAsMessages, answer
from server.protocols.translation.answers.messages_as_chat import MessagesAsChat

DATA = Path(__file__).parents[2] / "data"
CONTEXT = Context("auto", "0123abcd", 1763800000, 321, {"Long_1a2b": "Longer"})
USAGE = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}
FIXTURES = [
    *sorted((DATA / "translation").glob("chat_*.sse")),
    *(DATA / name for name in ("chat_text.sse", "chat_tools.sse")),
]


def chunk(delta=None, *, finish=None, usage=None, **members):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish} | members
    return event({"id": "chatcmpl-1", "choices": [choice], "usage": usage})


def event(data):
    return b"data: %b\n\n" % json.dumps(data).encode()


def call(index=0, arguments=None, *, ident=None, name=None):
    function = {"name": name, "arguments": arguments}
    function = {key: value for key, value in function.items() if value is not None}
    fragment = {"index": index, "id": ident, "function": function}
    fragment = {key: value for key, value in fragment.items() if value is not None}
    return {"tool_calls": [fragment]}


def translated(*pieces, context=CONTEXT):
    machine = ChatAsMessages(context)
    return b"".join([*map(machine.feed, pieces), machine.finish()])


def message(*pieces):
    return check_messages_stream(translated(*pieces))


def kinds(stream):
    return [json.loads(data)["type"] for _, data in events(stream)]


def arguments_of(stream):
    """Give what the client puts together as each tool's arguments."""
    texts = {}
    for event in (json.loads(data) for _, data in events(stream)):
        if event.get("delta", {}).get("type") == "input_json_delta":
            texts.setdefault(event["index"], []).append(event["delta"]["partial_json"])
    return ["".join(pieces) for pieces in texts.values()]


def blocks(*pieces):
    return [
        (block["type"], block.get("text") or block.get("thinking") or block.get("input"))
        for block in message(*pieces)["content"]
    ]


def chunkings(stream):
    end = b"\r\n\r\n" if b"\r" in stream else b"\n\n"
    whole = [piece + end for piece in stream.split(end)[:-1]]
    pairs = [b"".join(whole[at : at + 2]) for at in range(0, len(whole), 2)]
    return [stream], whole, pairs


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_stream_reads_the_same_however_it_was_cut(path):
    at_once, one_by_one, pairs = [translated(*cut) for cut in chunkings(path.read_bytes())]

    assert at_once == one_by_one == pairs
    assert check_messages_stream(at_once)["id"] == "msg_0123abcd"


def test_vllm_reasoning_is_told_once_and_blank_text_before_tools_is_none():
    said = message((DATA / "translation/chat_vllm.sse").read_bytes())

    assert [block["type"] for block in said["content"]] == ["thinking", "tool_use", "tool_use"]
    assert said["content"][0]["thinking"] == "The user wants a file."
    assert said["content"][1]["input"] == {"path": "src/ü.py"}
    assert said["content"][2]["input"] == {"path": "b.py", "lines": [1, -2500.0]}
    assert said["stop_reason"] == "tool_use"
    assert said["usage"]["input_tokens"] == 12
    assert said["usage"]["cache_read_input_tokens"] == 800


def test_deepseek_reasoning_text_and_tool_follow_each_other():
    said = message((DATA / "translation/chat_deepseek.sse").read_bytes())

    thinking, text, tool = said["content"]
    assert (thinking["thinking"], thinking["signature"]) == ("Two files, then done.", "")
    assert text["text"] == "I will look. 你好"
    assert (tool["id"], tool["input"]) == ("call_00_demo", {"pattern": "**/*.py"})
    assert said["usage"]["output_tokens_details"] == {"thinking_tokens": 21}
    assert said["usage"]["input_tokens"] == 44


def test_openrouter_thinking_of_claude_keeps_its_signature():
    said = message((DATA / "translation/chat_openrouter.sse").read_bytes())

    thinking, text, tool = said["content"]
    assert thinking == {
        "type": "thinking",
        "thinking": "I should read it.",
        "signature": "RGVtbw==",
    }
    assert (text["text"], tool["input"]) == ("Reading.", {"path": "a.txt"})
    assert (said["usage"]["input_tokens"], said["usage"]["cache_creation_input_tokens"]) == (
        350,
        50,
    )


def test_ollama_calls_are_three_though_all_have_index_0():
    said = message((DATA / "translation/chat_ollama.sse").read_bytes())

    assert [(tool["id"], tool["input"]) for tool in said["content"]] == [
        ("call_demo1", {"path": "a"}),
        ("call_demo2", {"path": "b"}),
        ("call_demo3", {}),
    ]
    assert said["stop_reason"] == "tool_use"


def test_azure_chunks_without_choices_or_delta_are_passed_over():
    said = message((DATA / "translation/chat_azure.sse").read_bytes())

    assert said["content"] == [{"type": "text", "text": "Good day 👋"}]
    assert said["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("name", ["messages_text", "messages_tools"])
def test_a_messages_stream_that_went_through_chat_says_the_same(name):
    """Between two gateways may lie the other protocol; signed thinking must survive that."""
    original = (DATA / f"{name}.sse").read_bytes()
    away = MessagesAsChat(CONTEXT)

    back = message(away.feed(original) + away.finish())

    sent = check_messages_stream(original)
    assert back["content"] == sent["content"]
    assert back["stop_reason"] == sent["stop_reason"]


def test_a_first_chunk_with_a_tool_call_comes_behind_message_start():
    stream = translated(
        chunk(call(0, "{}", ident="call_1", name="Now")), chunk(finish="tool_calls")
    )

    assert kinds(stream)[:2] == ["message_start", "content_block_start"]
    assert [block["name"] for block in check_messages_stream(stream)["content"]] == ["Now"]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "tool_use"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        (None, "tool_use"),
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
    ],
)
def test_tool_calls_decide_over_stop_but_not_over_a_limit(finish, reason):
    said = message(chunk(call(0, "{}", ident="a", name="Now")), chunk(finish=finish))

    assert said["stop_reason"] == reason


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "end_turn"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
        (None, "end_turn"),
        (7, "end_turn"),
    ],
)
def test_each_finish_reason_has_its_stop_reason(finish, reason):
    said = message(chunk({"content": "Hi"}), chunk(finish=finish))

    assert (said["stop_reason"], said["stop_sequence"]) == (reason, None)


def test_a_matched_stop_string_is_told_and_a_matched_token_is_none():
    matched = message(chunk({"content": "Hi"}), chunk(finish="stop", stop_reason="END"))
    token = message(chunk({"content": "Hi"}), chunk(finish="stop", stop_reason=151645))

    assert (matched["stop_reason"], matched["stop_sequence"]) == ("stop_sequence", "END")
    assert (token["stop_reason"], token["stop_sequence"]) == ("end_turn", None)


def test_an_empty_answer_is_a_message_without_blocks():
    stream = translated(chunk({"role": "assistant", "content": ""}), chunk(finish="stop"))

    assert kinds(stream) == ["message_start", "message_delta", "message_stop"]
    assert check_messages_stream(stream)["stop_reason"] == "end_turn"


def test_a_stream_that_said_nothing_at_all_ends_as_an_empty_answer():
    assert kinds(translated()) == ["message_start", "message_delta", "message_stop"]


def test_empty_text_never_opens_a_block():
    silent = [chunk({"content": content}) for content in ("", None, [], "\n", " ")]

    assert blocks(*silent, chunk(call(0, "{}", ident="a", name="Now"))) == [("tool_use", {})]
    assert blocks(*silent, chunk({"content": "Hi"})) == [("text", "\n Hi")]


def test_space_ahead_of_a_tool_is_not_put_ahead_of_a_later_text():
    now = chunk(call(0, "{}", ident="a", name="Now"))

    assert blocks(chunk({"content": "\n"}), now, chunk({"content": "Hi"})) == [
        ("tool_use", {}),
        ("text", "Hi"),
    ]


def test_text_then_a_tool_keeps_the_first_arguments():
    """The delta that causes a change of blocks carries arguments of its own."""
    said = blocks(
        chunk({"content": "Reading."}),
        chunk(call(0, '{"path":', ident="a", name="Read")),
        chunk(call(0, '"x"}')),
    )

    assert said == [("text", "Reading."), ("tool_use", {"path": "x"})]


def test_text_and_a_whole_call_in_one_chunk_are_both_kept():
    whole = chunk({"content": "Hi"} | call(0, '{"a":1}', ident="a", name="Read"), finish="stop")

    assert blocks(whole) == [("text", "Hi"), ("tool_use", {"a": 1})]


def test_parallel_calls_that_interleave_come_out_one_after_the_other():
    said = blocks(
        chunk(call(0, ident="a", name="Read")),
        chunk(call(1, ident="b", name="Read")),
        chunk(call(1, '{"path":')),
        chunk(call(0, '{"path":')),
        chunk(call(1, '"b"}')),
        chunk(call(0, '"a"}')),
        chunk(finish="tool_calls"),
    )

    assert said == [("tool_use", {"path": "a"}), ("tool_use", {"path": "b"})]


def test_a_call_that_waited_goes_on_live_once_it_is_its_turn():
    machine = ChatAsMessages(CONTEXT)
    machine.feed(chunk(call(0, '{"a":', ident="a", name="One")))

    while_waiting = machine.feed(chunk(call(1, '{"b":"x', ident="b", name="Two")))
    at_its_turn = machine.feed(chunk(call(0, "1}")))
    after = machine.feed(chunk(call(1, "y")))

    assert while_waiting == b""
    assert kinds(at_its_turn) == [
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]
    assert b'"partial_json":"y"' in after


def test_text_between_the_fragments_of_a_call_waits_for_its_end():
    said = blocks(
        chunk(call(0, '{"a":', ident="a", name="One")),
        chunk({"content": "Meanwhile"}),
        chunk(call(0, "1}")),
        chunk({"content": ", done."}),
    )

    assert said == [("tool_use", {"a": 1}), ("text", "Meanwhile, done.")]


def test_a_name_that_comes_late_is_waited_for():
    said = message(
        chunk(call(0, '{"a":', ident="call_1")),
        chunk(call(0, "1", name="Read")),
        chunk(call(0, "}")),
    )

    assert [(tool["id"], tool["name"], tool["input"]) for tool in said["content"]] == [
        ("call_1", "Read", {"a": 1})
    ]


def test_an_id_that_comes_behind_the_name_is_taken():
    said = message(chunk(call(0, "", name="Read")), chunk(call(0, "{}", ident="call_1")))

    assert [tool["id"] for tool in said["content"]] == ["call_1"]


def test_a_call_that_never_has_a_name_is_left_out():
    said = message(chunk({"content": "Hi"}), chunk(call(0, "{}", ident="a")), chunk(finish="stop"))

    assert [block["type"] for block in said["content"]] == ["text"]
    assert said["stop_reason"] == "end_turn"


@pytest.mark.parametrize("ident", [None, "", "call_1", 7])
def test_missing_and_repeated_ids_become_unique_ones(ident):
    calls = [chunk(call(index, "{}", ident=ident, name="Now")) for index in range(3)]

    idents = [tool["id"] for tool in message(*calls)["content"]]

    assert len(set(idents)) == 3
    assert idents[2] == "toolu_0123abcd_2"
    assert idents == [tool["id"] for tool in message(*calls)["content"]]


def test_ids_that_the_client_may_not_send_back_are_made_safe():
    (tool,) = message(chunk(call(0, "{}", ident="functions.Read:0", name="Read")))["content"]

    assert tool["id"].isascii()
    assert not {".", ":"} & set(tool["id"])


@pytest.mark.parametrize("index", [None, 0])
def test_calls_without_an_index_of_their_own_are_told_apart_by_their_ids(index):
    said = blocks(
        chunk(call(index, "", ident="a", name="Read")),
        chunk(call(index, '{"p":1}')),
        chunk(call(index, '{"p":', ident="b", name="Read")),
        chunk(call(index, "2}", ident="b")),
        chunk(call(index, "", ident="c", name="Now")),
    )

    assert said == [("tool_use", {"p": 1}), ("tool_use", {"p": 2}), ("tool_use", {})]


@pytest.mark.parametrize("index", [None, 0])
def test_whole_calls_without_index_and_id_are_told_apart_by_being_whole(index):
    calls = [chunk(call(index, f'{{"p":{n}}}', name="Read")) for n in range(3)]

    assert blocks(*calls) == [("tool_use", {"p": n}) for n in range(3)]


@pytest.mark.parametrize("ident", ["", "same"])
def test_calls_that_only_their_names_tell_apart_are_two(ident):
    said = message(
        chunk(call(None, "", ident=ident, name="Now")),
        chunk(call(None, '{"a":1}', ident=ident, name="Read")),
    )

    assert [(tool["name"], tool["input"]) for tool in said["content"]] == [
        ("Now", {}),
        ("Read", {"a": 1}),
    ]


def test_a_new_id_with_each_fragment_does_not_make_new_calls():
    said = blocks(
        chunk(call(0, '{"a":', ident="x1", name="Read")),
        chunk(call(0, "[1,", ident="x2")),
        chunk(call(0, "2]}", ident="x3", name="Read")),
    )

    assert said == [("tool_use", {"a": [1, 2]})]


def test_arguments_that_are_said_again_when_whole_count_once():
    said = blocks(
        chunk(call(0, '{"a":1}', ident="x", name="Read")),
        chunk(call(0, '{"a":1}', ident="x", name="Read")),
    )

    assert said == [("tool_use", {"a": 1})]


@pytest.mark.parametrize("fragments", [[], [""], [None], ["", "  "], ["null"], ["{}"], ["{", "}"]])
def test_no_arguments_are_an_empty_object_that_is_streamed(fragments):
    calls = [chunk(call(0, text)) for text in fragments]
    stream = translated(
        chunk(call(0, "", ident="a", name="Now")), *calls, chunk(finish="tool_calls")
    )

    assert arguments_of(stream) == ["{}"]


def test_arguments_that_are_sent_as_an_object_are_taken():
    assert blocks(chunk(call(0, {"a": [1]}, ident="a", name="Read"))) == [("tool_use", {"a": [1]})]


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("[1]", {"invalid_arguments": "[1]"}),
        ('"text"', {"invalid_arguments": '"text"'}),
        ("not JSON", {"invalid_arguments": "not JSON"}),
        ("{'a':1}", {"invalid_arguments": "'a':1}"}),
        ('{"path":"a', {"path": "a", "invalid_arguments": ""}),
        ('{"path":"a","lin', {"path": "a", "lin": None, "invalid_arguments": ""}),
        ('{"a":{"b":[1,tru', {"a": {"b": [1, None]}, "invalid_arguments": "tru"}),
        ('{"a":1,', {"a": 1, "invalid_arguments": ","}),
        ('{"a":"x\\u00', {"a": "x", "invalid_arguments": "\\u00"}),
        ('{"a":1}}', {"a": 1}),
    ],
)
def test_what_is_no_object_reaches_the_client_as_one_that_no_tool_takes_for_its_own(text, taken):
    """Half a call must not look like a whole one: a file written with half of its text."""
    stream = translated(chunk(call(0, text, ident="a", name="Write")), chunk(finish="length"))

    assert [object_of(text) for text in arguments_of(stream)] == [taken]
    assert check_messages_stream(stream)["stop_reason"] == "max_tokens"


def test_a_torn_call_that_was_not_begun_yet_is_wrapped_whole():
    stream = translated(
        chunk(call(0, '{"a":', ident="a", name="One")),
        chunk(call(1, '{"b":1', ident="b", name="Two")),
        chunk(finish="length"),
    )

    first, second = map(object_of, arguments_of(stream))
    assert (first, second) == (
        {"a": None, "invalid_arguments": ""},
        {"invalid_arguments": '{"b":1'},
    )


def test_the_function_call_of_old_is_a_tool_call():
    said = message(
        chunk({"function_call": {"name": "Read", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"a"'}}),
        chunk({"function_call": {"arguments": ":1}"}}),
        chunk(finish="function_call"),
    )

    assert [(tool["name"], tool["input"]) for tool in said["content"]] == [("Read", {"a": 1})]
    assert said["stop_reason"] == "tool_use"


def test_names_that_were_changed_on_the_way_out_are_restored():
    said = message(chunk(call(0, "{}", ident="a", name="Long_1a2b")))

    assert said["content"][0]["name"] == "Longer"


def test_thinking_is_signed_and_closed_before_anything_else_begins():
    stream = translated(
        chunk({"reasoning_content": "Hm"}), chunk({"content": "Hi"}), chunk(finish="stop")
    )

    assert kinds(stream)[1:6] == [
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
    ]
    assert b'"signature_delta","signature":""' in stream
    assert blocks(
        chunk({"reasoning": "Hm"}), chunk(call(0, "{}", ident="a", name="Now"), finish="stop")
    ) == [("thinking", "Hm"), ("tool_use", {})]


def test_reasoning_between_texts_has_a_block_of_its_own():
    said = blocks(
        chunk({"reasoning_content": "one"}),
        chunk({"content": "A"}),
        chunk({"reasoning_content": "two"}),
        chunk({"content": "B"}),
    )

    assert said == [("thinking", "one"), ("text", "A"), ("thinking", "two"), ("text", "B")]


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "Hm"},
        {"reasoning": "Hm", "reasoning_content": ""},
        {"reasoning": "Hm", "reasoning_content": "Hm"},
        {"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
        {"content": [{"type": "thinking", "thinking": "Hm"}]},
    ],
)
def test_reasoning_is_read_once_wherever_it_stands(delta):
    end = chunk({"content": "Hi", "reasoning_details": [{"text": "Hm Hm"}]})

    assert blocks(chunk(delta), chunk(delta), chunk({"content": "Hi"})) == [
        ("thinking", "HmHm"),
        ("text", "Hi"),
    ]
    if "reasoning_details" not in delta:
        assert blocks(chunk(delta), end) == [("thinking", "Hm"), ("text", "Hi")]


def details(**members):
    return {"reasoning_details": [{"index": 0} | members]}


def test_only_claudes_signatures_and_sealed_thoughts_reach_the_client():
    """Those of others would be refused where the conversation goes on at Anthropic."""
    claude, other = {"format": "anthropic-claude-v1"}, {"format": "openai-responses-v1"}

    sealed = message(chunk(details(type="reasoning.encrypted", data="c2VhbA==", **claude)))
    foreign = message(chunk(details(type="reasoning.encrypted", data="c2VhbA==", **other)))
    unsigned = message(chunk(details(text="Hm", signature="x", **other)))
    hidden = message(chunk(details(text="", signature="x", **claude)), chunk({"content": "Hi"}))

    assert sealed["content"] == [{"type": "redacted_thinking", "data": "c2VhbA=="}]
    assert foreign["content"] == []
    assert unsigned["content"][0]["signature"] == ""
    assert hidden["content"][0] == {"type": "thinking", "thinking": "", "signature": "x"}


def test_a_signature_ends_its_block_and_the_next_thought_begins_another():
    claude = {"format": "anthropic-claude-v1"}
    said = message(
        chunk({"reasoning_content": "one"}),
        chunk(details(text="one", signature="s1", **claude)),
        chunk({"reasoning_content": "two"}),
        chunk(details(text="two", signature="s2", **claude)),
        chunk({"reasoning_content": "three"}),
    )

    assert [(block["thinking"], block["signature"]) for block in said["content"]] == [
        ("one", "s1"),
        ("two", "s2"),
        ("three", ""),
    ]


def test_usage_is_estimated_first_and_exact_in_the_end():
    stream = translated(
        chunk({"content": "Hi"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
        chunk(finish="stop", usage=None),
        event({"choices": [], "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 30}}}),
        event({"choices": [], "usage": None}),
    )

    start = json.loads(next(iter(events(stream)))[1])["message"]["usage"]
    assert (start["input_tokens"], start["output_tokens"]) == (321, 1)
    assert check_messages_stream(stream)["usage"] == {
        "input_tokens": 20,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 0,
        "output_tokens": 20,
    }


def test_usage_inside_a_choice_counts():
    said = message(chunk({"content": "Hi"}), chunk(finish="stop"))
    within = message(event({"choices": [{"index": 0, "delta": {}, "usage": USAGE}]}))

    assert said["usage"]["input_tokens"] == 321
    assert (within["usage"]["input_tokens"], within["usage"]["output_tokens"]) == (50, 20)


@pytest.mark.parametrize(
    "usage", [None, {}, [], "x", {"prompt_tokens": -1, "completion_tokens": 1.5}]
)
def test_without_sound_counts_the_usage_is_estimated(usage):
    said = message(chunk({"content": "x" * 40}), event({"choices": [], "usage": usage}))

    assert (said["usage"]["input_tokens"], said["usage"]["output_tokens"]) == (321, 10)


def test_content_in_parts_is_read_and_a_refusal_is_text_that_refuses():
    parts = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}, {"type": "image"}]
    refused = message(chunk({"refusal": "I "}), chunk({"refusal": "won't."}), chunk(finish="stop"))
    in_parts = message(chunk({"content": [{"type": "refusal", "refusal": "No."}]}))

    assert blocks(chunk({"content": parts}), chunk({"content": "C"})) == [("text", "ABC")]
    assert (refused["content"][0]["text"], refused["stop_reason"]) == ("I won't.", "refusal")
    assert (in_parts["content"][0]["text"], in_parts["stop_reason"]) == ("No.", "refusal")


def test_only_the_first_choice_is_told():
    stray = event({"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "length"}]})
    said = message(chunk({"content": "A"}), stray, chunk(finish="stop"))

    assert (said["content"], said["stop_reason"]) == ([{"type": "text", "text": "A"}], "end_turn")


@pytest.mark.parametrize(
    "odd",
    [
        b": comment\n\n",
        b"data: [DONE]\n\n",
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"choices":{}}\n\n',
        b'data: {"choices":[{"delta":"x"}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":{"a":1}}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[7,null]}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":{"a":1},"reasoning":7}}]}\n\n',
        b"event: x\n\n",
        b'data: {"error":{"message":"No"},"choices":[{"delta":{"content":"x"}}]}\n\n',
        b"data: " + b"[" * 5000 + b"\n\n",
        b'data: {"choices":[{"delta":{"content":' + b"[" * 5000 + b"}}]}\n\n",
    ],
)
def test_what_cannot_be_read_is_passed_over(odd):
    said = message(odd, chunk({"content": "Hi"}), odd, chunk(finish="stop"), odd)

    assert said["content"] == [{"type": "text", "text": "Hi"}]


def test_an_error_alone_begins_nothing():
    assert ChatAsMessages(CONTEXT).feed(event({"error": {"message": "No"}})) == b""


def test_an_event_over_several_data_lines_is_read():
    piece = b'data: {"choices":[{"delta":\ndata: {"content":"Hi"}}]}\n\n'

    assert blocks(piece) == [("text", "Hi")]


def test_half_a_character_costs_that_character_alone():
    broken = b'data: {"choices":[{"delta":{"content":"a\xff"}}]}\n\n'
    surrogate = b'data: {"choices":[{"delta":{"content":"b\\ud83d"}}]}\n\n'

    assert blocks(broken, surrogate, chunk({"content": "c"})) == [("text", "a\ufffdb?c")]


def test_escaped_surrogate_pairs_and_separators_arrive_as_they_were():
    text = '👋 \u2028 \x85 \\u0041 "quoted" \n\ndata: {}'

    assert blocks(chunk({"content": text})) == [("text", text)]


def test_text_is_given_with_the_event_that_carries_it():
    machine = ChatAsMessages(CONTEXT)
    machine.feed(chunk({"role": "assistant"}))

    assert b'"text":"Hi"' in machine.feed(chunk({"content": "Hi"}))
    assert b'"name":"Read"' in machine.feed(chunk(call(0, "", ident="a", name="Read")))
    assert b'"partial_json":"{\\"path\\":\\"a"' in machine.feed(chunk(call(0, '{"path":"a')))
    assert machine.feed(chunk(call(0, 'b"}'))).endswith(b'"content_block_stop","index":1}\n\n')


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=5)


@st.composite
def interleaved(draw):
    """Give some texts of arguments, and their fragments in an order that keeps each in its own."""
    texts = [
        json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        for value in draw(st.lists(objects, min_size=1, max_size=3))
    ]
    left, fragments = dict(enumerate(texts)), []
    while left:
        index = draw(st.sampled_from(sorted(left)))
        size = draw(st.integers(1, len(left[index])))
        fragments.append((index, left[index][:size]))
        left[index] = left[index][size:]
        if not left[index]:
            del left[index]
    return texts, fragments


@settings(deadline=None, max_examples=60)
@given(interleaved(), st.integers(1, 4))
def test_streamed_arguments_are_those_of_the_whole_answer(drawn, per_block):
    texts, fragments = drawn
    starts = [chunk(call(n, "", ident=f"call_{n}", name="Tool")) for n in range(len(texts))]
    pieces = [*starts, *(chunk(call(index, text)) for index, text in fragments)]
    fed = [b"".join(pieces[at : at + per_block]) for at in range(0, len(pieces), per_block)]
    calls = [
        {"id": f"call_{n}", "function": {"name": "Tool", "arguments": text}}
        for n, text in enumerate(texts)
    ]
    body = {"choices": [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "stop"}]}

    stream = translated(*fed, chunk(finish="tool_calls"))
    whole = json.loads(answer(json.dumps(body).encode(), CONTEXT))

    assert arguments_of(stream) == texts
    assert [block["input"] for block in whole["content"]] == [json.loads(text) for text in texts]
    assert check_messages_stream(stream)["content"] == whole["content"]


@settings(deadline=None)
@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"data: ", b'{"choices":[{"delta":', b"}]}"])
    )
)
def test_no_bytes_make_it_fail(pieces):
    machine = ChatAsMessages(CONTEXT)

    stream = machine.feed(b"".join(pieces) + b"\n\n") + machine.finish()

    check_messages_stream(stream)


tiny = st.sampled_from(["", "a", "\n", None, 7, [], {}, [{}], [{"text": "p"}], "{", '{"a":1}', "}"])
odd_call = st.fixed_dictionaries(
    {},
    optional={
        "index": st.sampled_from([0, 1, None, "0"]),
        "id": st.sampled_from(["a", "b", "", None, 3]),
        "function": st.none()
        | st.fixed_dictionaries(
            {}, optional={"name": st.sampled_from(["T", ""]), "arguments": tiny}
        ),
    },
)
odd_delta = st.fixed_dictionaries(
    {},
    optional={
        "content": tiny,
        "reasoning": tiny,
        "reasoning_content": tiny,
        "reasoning_details": st.lists(
            st.fixed_dictionaries(
                {"format": st.sampled_from(["anthropic-claude-v1", None])},
                optional={"text": tiny, "signature": tiny, "data": tiny},
            ),
            max_size=2,
        ),
        "tool_calls": st.lists(odd_call, max_size=2) | st.none(),
        "refusal": tiny,
    },
)


@settings(deadline=None, max_examples=60)
@given(st.lists(odd_delta, max_size=8), st.sampled_from(["stop", "tool_calls", "length", None]))
def test_whatever_a_server_says_the_client_gets_a_sound_stream(deltas, finish):
    pieces = [*map(chunk, deltas), chunk(finish=finish)]

    stream = translated(*pieces)

    assert stream == translated(b"".join(pieces))
    check_messages_stream(stream)
    for text in arguments_of(stream):
        object_of(text)
