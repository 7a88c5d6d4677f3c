"""A Messages stream as a Chat client gets it, delta by delta."""

import asyncio
import json
from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import messages_answers as answers
from support.messages_answers import ANSWERS, event, text, thinking, tool_use
from support.raw_upstream import EVENTS, chunked, run, upstream
from support.validators import check_chat_stream

from server.protocols.endings import MessagesTracker
from server.protocols.sse import events as read_events
from server.protocols.translation import Context
from server.protocols.translation.answers.messages_as_chat import MessagesAsChat, answer
from server.protocols.usage import Usage

GOLDEN = Path(__file__).parents[2] / "data"
CONTEXT = Context("smart", "0a1b2c", 1763800000, 7, {"short": "a long name of the client's"})
UNCOUNTED = Context("smart", "0a1b2c", 1763800000, 7, {}, include_usage=False)
STRICT = {"api_key": "fake", "max_retries": 0, "_strict_response_validation": True}
ASK = {"model": "smart", "messages": [{"role": "user", "content": "Hi"}]}
NAMES = pytest.mark.parametrize("name", ANSWERS)
START = event("message_start", message={"usage": answers.START_USAGE})


def translated(events, context=CONTEXT):
    """Feed a machine event by event, and end the stream."""
    machine = MessagesAsChat(context)
    return b"".join([*map(machine.feed, events), machine.finish()])


def chunks(events, context=CONTEXT):
    """Give the chunks of a translated stream, all of them checked."""
    stream = translated(events, context)
    check_chat_stream(stream)
    return read(stream)


def read(stream):
    return [json.loads(data) for _, data in read_events(stream) if data != b"[DONE]"]


def deltas(events, context=CONTEXT):
    """Give what the chunks say between the role and the finish."""
    told = [chunk["choices"][0]["delta"] for chunk in chunks(events, context) if chunk["choices"]]
    assert told[0] == {"role": "assistant", "content": None}
    assert told[-1] == {}
    return told[1:-1]


def block(said, *, deltas=(), index=0):
    """Give the events of a block that starts as `said`, on its own."""
    return [
        START,
        event("content_block_start", index=index, content_block=said),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def arguments(events):
    """Put a stream's calls together: their indices, and the arguments of each."""
    joined = {}
    for delta in deltas(events):
        for call in delta.get("tool_calls", ()):
            joined.setdefault(call["index"], []).append(call["function"]["arguments"])
    return {index: "".join(parts) for index, parts in joined.items()}


@NAMES
def test_the_stream_keeps_to_its_protocol(name):
    check_chat_stream(translated(answers.stream(*ANSWERS[name])), usage=True)
    check_chat_stream(translated(answers.stream(*ANSWERS[name]), UNCOUNTED), usage=False)


@pytest.mark.parametrize("name", ["messages_text", "messages_tools"])
def test_a_recorded_stream_is_told_whole(name):
    stream = (GOLDEN / f"{name}.sse").read_bytes()
    machine = MessagesAsChat(CONTEXT)

    said = check_chat_stream(machine.feed(stream) + machine.finish(), usage=True)

    if name == "messages_tools":
        assert said.thinking == "I should write the file."
        assert said.text == "Writing it."
        content = {"file_path": "a.txt", "content": '"message_stop" [DONE]'}
        assert said.tools == [("Write", content), ("Now", {})]
        assert (said.usage["prompt_tokens"], said.usage["completion_tokens"]) == (322, 77)


@NAMES
def test_the_chunks_are_the_same_however_many_events_come_at_once(name):
    events = answers.stream(*ANSWERS[name])
    wanted = translated(events)

    assert translated([b"".join(events)]) == wanted
    assert translated([each.replace(b"\n", b"\r\n") for each in events]) == wanted
    assert translated([b"".join(events).replace(b"\n", b"\r")]) == wanted
    assert translated([each.replace(b"data: ", b"data:") for each in events]) == wanted


def test_every_chunk_bears_the_gateways_names():
    for chunk in chunks(answers.stream([text("Hello")])):
        assert chunk["id"] == "chatcmpl-0a1b2c"
        assert chunk["object"] == "chat.completion.chunk"
        assert chunk["created"] == 1763800000
        assert chunk["model"] == "smart"


def test_a_text_is_passed_on_as_it_is_written():
    delta = b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%b}}'
    said = b'"\\u00e9\\/ \xc3\xa9 %s \\ud83d\\ude00"'

    chunk = MessagesAsChat(CONTEXT).feed(b"data: " + delta.replace(b"%b", said) + b"\n\n")

    assert b'"delta":{"content":' + said + b"}" in chunk


def test_the_role_comes_first_and_once():
    machine = MessagesAsChat(CONTEXT)

    assert b'"role":"assistant"' in machine.feed(START)
    assert b'"role"' not in machine.feed(b"".join(answers.stream([text("Hi")]))) + machine.finish()


def test_a_stream_without_a_message_start_begins_with_the_role_too():
    check_chat_stream(translated(answers.stream([tool_use(a=1)], "tool_use")[1:]))


def test_a_ping_becomes_a_comment_and_what_is_unknown_is_passed_over():
    machine = MessagesAsChat(CONTEXT)

    assert machine.feed(event("ping")) == b": ping\n\n"
    assert machine.feed(event("vendor_news", index="x") + b": a comment\n\n") == b""


@pytest.mark.parametrize(
    "odd",
    [
        b"data: [1]\n\n",
        b"data: {\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"event: error\ndata: {}\n\n",
        event("content_block_delta", index=9, delta={"type": "text_delta", "text": None}),
        event("content_block_delta", index=9, delta={"type": "text_delta", "text": {}}),
        event("content_block_delta", index=9, delta={"type": "input_json_delta"}),
        event("content_block_delta", index=9, delta={"type": "signature_delta", "signature": "x"}),
        event("content_block_delta", index=9, delta={"type": "vendor_delta", "text": "x"}),
        event("content_block_delta", index=9, delta=None),
        event("content_block_start", index=9, content_block=None),
        event("content_block_start", index=9, content_block={"type": "tool_use", "id": 5}),
        event("content_block_stop", index=9),
        event("content_block_stop"),
        event("message_delta", delta=None, usage=5),
    ],
)
def test_what_cannot_be_read_is_passed_over(odd):
    events = answers.stream([text("Hi"), tool_use(a=1)], "tool_use")

    assert translated([*events[:3], odd, *events[3:]]) == translated(events)


def test_a_byte_that_is_not_utf8_spoils_no_more_than_its_character():
    stream = b"".join(answers.stream([text("Hallo")])).replace(b"Hallo", b"H\xe4llo")

    assert b'"content":"H\xef\xbf\xbdllo"' in translated([stream])


def test_the_index_counts_tools_not_blocks():
    blocks = [thinking("Hm."), text("So"), tool_use(a=1), text("and"), tool_use("Read", "toolu_2")]

    assert arguments(answers.stream(blocks, "tool_use")) == {0: '{"a": 1}', 1: "{}"}


def test_a_calls_id_and_name_come_once_and_then_only_arguments():
    first, *rest = deltas(answers.stream([tool_use("short", path="a.txt")], "tool_use"))

    function = {"name": "a long name of the client's", "arguments": ""}
    call = {"index": 0, "id": "toolu_1", "type": "function", "function": function}
    assert first == {"tool_calls": [call]}
    assert len(rest) > 1
    for delta in rest:
        (call,) = delta["tool_calls"]
        assert call.keys() == {"index", "function"}
        assert call["function"].keys() == {"arguments"}


@pytest.mark.parametrize("tool_input", [{}, None, "", []])
@pytest.mark.parametrize("fragments", [0, 1, 3])
def test_a_tool_without_arguments_is_called_with_an_empty_object(tool_input, fragments):
    empty = {"type": "input_json_delta", "partial_json": ""}
    events = block({**tool_use(), "input": tool_input}, deltas=[empty] * fragments)

    assert arguments(events) == {0: "{}"}


def test_an_input_that_is_given_at_the_start_is_passed_on_whole():
    assert arguments(block(tool_use(path="a.txt"))) == {0: '{"path": "a.txt"}'}


def test_fragments_count_more_than_an_input_given_at_the_start():
    fragment = {"type": "input_json_delta", "partial_json": '{"b": 2}'}

    assert arguments(block(tool_use(a=1), deltas=[fragment])) == {0: '{"b": 2}'}


def test_a_block_that_was_never_closed_is_told_at_the_end():
    assert arguments(block(tool_use(a=1))[:-1]) == {0: '{"a": 1}'}


def test_blocks_that_are_open_at_once_keep_their_fragments_apart():
    def fragment(index, part):
        delta = {"type": "input_json_delta", "partial_json": part}
        return event("content_block_delta", index=index, delta=delta)

    events = [
        *block(tool_use(), index=0)[:2],
        *block(tool_use("Read", "toolu_2"), index=1)[1:2],
        *(fragment(0, '{"a"'), fragment(1, '{"b"'), fragment(0, ":1}"), fragment(1, ":2}")),
    ]

    assert arguments(events) == {0: '{"a":1}', 1: '{"b":2}'}


def test_the_input_of_the_providers_own_tools_is_no_content():
    events = answers.stream([answers.SEARCH, answers.FOUND, text("Found")])

    assert deltas(events) == [{"content": "Found"}]


def test_a_signature_is_told_with_its_whole_thinking():
    told = deltas(answers.stream([thinking('I "see" ☃.'), text("Yes.")]))

    shown = "".join(delta.get("reasoning_content", "") for delta in told)
    assert shown == 'I "see" ☃.'
    details = [delta["reasoning_details"] for delta in told if "reasoning_details" in delta]
    detail = {"type": "reasoning.text", "text": shown, "signature": "c2lnbmVk"}
    assert details == [[{**detail, "format": "anthropic-claude-v1", "index": 0}]]
    assert told[-1] == {"content": "Yes."}


def test_thinking_given_at_the_start_is_told_too():
    assert [*deltas(block(thinking("Hm.")))[0]] == ["reasoning_content"]
    assert [*deltas(block(thinking("Hm.")))[1]] == ["reasoning_details"]


def test_the_last_signature_counts():
    signatures = [{"type": "signature_delta", "signature": each} for each in ("YQ==", "Yg==")]

    (told,) = deltas(block(thinking("", ""), deltas=signatures))[:1]

    assert told["reasoning_details"][0]["signature"] == "Yg=="


def test_the_last_reason_and_the_last_usage_count():
    events = answers.stream([text("Hi")])
    more = event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 99})

    *_, finish, usage = chunks([*events, more])

    assert finish["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 365,
        "completion_tokens": 99,
        "total_tokens": 464,
        "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 12},
    }


def test_what_only_the_start_counted_stays():
    events = [START, event("message_delta", delta={}, usage={"output_tokens": 9})]

    usage = chunks(events)[-1]["usage"]

    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (320, 9)


def test_usage_that_was_not_told_is_not_made_up():
    events = [event("message_start", message={}), event("message_delta", delta={})]

    check_chat_stream(translated(events), usage=False)


def test_without_the_wish_for_usage_no_chunk_speaks_of_it():
    assert b'"usage"' not in translated(answers.stream([text("Hi")]), UNCOUNTED)


def test_nothing_of_an_end_is_told_before_the_end():
    machine = MessagesAsChat(CONTEXT)

    stream = machine.feed(b"".join(answers.stream([tool_use(a=1)], "tool_use")))

    assert b'"finish_reason":"' not in stream
    assert b"[DONE]" not in stream


@NAMES
def test_a_stream_that_the_gateway_stops_ends_as_at_the_limit(name):
    events = answers.stream(*ANSWERS[name])[:-2]
    tracker = MessagesTracker()
    tracker.feed(b"".join(events))
    ending = tracker.ending(output_tokens=777, usage=Usage(25), include_usage=True)

    said = check_chat_stream(translated([*events, ending]), usage=True)

    assert said.stop_reason == "length"
    assert said.usage["completion_tokens"] == 777


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
).flatmap(lambda value: st.just({"value": value}) | st.just({})))  # fmt: skip
def test_the_fragments_make_up_the_arguments_of_the_whole_answer(tool_input):
    block = tool_use(**tool_input)
    whole = json.loads(answer(answers.body([block], "tool_use"), CONTEXT))

    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == tool_input
    assert arguments(answers.stream([block], "tool_use")) == {0: call["function"]["arguments"]}


def test_the_official_sdk_puts_the_stream_together_as_the_whole_answer():
    """Strictly parsed; what the SDK adds to a message and what it numbers is left aside."""
    wholes = [json.loads(answer(answers.body(*each), CONTEXT)) for each in ANSWERS.values()]
    streams = [translated(answers.stream(*each)) for each in ANSWERS.values()]

    async def scenario():
        scripts = ([EVENTS, chunked(stream)] for stream in streams)
        async with (
            asyncio.timeout(30),
            upstream(*scripts) as server,
            openai.AsyncOpenAI(base_url=server.url, **STRICT) as client,
        ):
            return [await gathered(client) for _ in streams]

    for completion, whole in zip(run(scenario()), wholes, strict=True):
        (choice,), (wanted,) = completion["choices"], whole["choices"]
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index")
            call["function"].pop("parsed_arguments", None)
        assert told_of(choice["message"]) == told_of(wanted["message"])
        assert choice["finish_reason"] == wanted["finish_reason"]
        assert completion["usage"] == whole["usage"]


async def gathered(client):
    options = {"include_usage": True}
    async with client.chat.completions.stream(**ASK, stream_options=options) as stream:
        return (await stream.get_final_completion()).to_dict()


def told_of(message):
    return {name: value for name, value in message.items() if value is not None}
