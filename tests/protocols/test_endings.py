"""A stream that is stopped anywhere ends as if the model had reached its token limit."""

import json
from itertools import takewhile
from pathlib import Path

import anthropic
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.raw_upstream import EVENTS, chunked, run, upstream
from support.validators import check_chat_stream, check_messages_stream

from server.protocols import Protocol
from server.protocols.by_protocol import METER, without_usage_chunk
from server.protocols.endings import TRACKER, ChatTracker, MessagesTracker
from server.protocols.sse import EventSplitter
from server.protocols.usage import Usage
from server.upstream.demo import chat, messages
from server.upstream.demo.dialect import Stamp
from server.upstream.demo.model import reply_to
from server.upstream.demo.usage import PrefixCache

DATA = Path(__file__).parent.parent / "data"
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path", "content"],
}
TOOL = {"name": "write_file", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}
TASK = [{"role": "user", "content": "Create a file hello.txt containing hi"}]
THINKING = {"type": "enabled", "budget_tokens": 1024}
ASK = {"model": "demo", "max_tokens": 2000, "messages": TASK}
CHAT = {"model": "demo", "messages": TASK, "stream_options": {"include_usage": True}}
DEMO = {
    "messages demo text": (messages, ASK),
    "messages demo tool": (messages, {**ASK, "tools": [TOOL], "thinking": THINKING}),
    "chat demo text": (chat, CHAT),
    "chat demo tool": (chat, {**CHAT, "tools": [FUNCTION]}),
}
GOLDEN = ("messages_text", "messages_tools", "chat_text", "chat_tools")
STREAMS = pytest.mark.parametrize("name", [*DEMO, *GOLDEN])
CHECK = {Protocol.ANTHROPIC: check_messages_stream, Protocol.OPENAI: check_chat_stream}
LIMIT = {Protocol.ANTHROPIC: "max_tokens", Protocol.OPENAI: "length"}
STRICT = {"api_key": "fake", "max_retries": 0, "_strict_response_validation": True}
PAID = {"output_tokens": 777, "usage": Usage(25, 2000, 60, 40, 1), "include_usage": True}


def protocol_of(name):
    return Protocol.ANTHROPIC if name.startswith("messages") else Protocol.OPENAI


def events_of(name):
    """Give the events of a stream of the demo upstream, or of a golden one."""
    if name in DEMO:
        dialect, body = DEMO[name]
        prompt = dialect.read(body)
        read, _ = dialect.measure(body, PrefixCache())
        reply = reply_to(prompt, read, lambda: dialect.tool_call_id("t1"))
        return [event.data for event in dialect.events(prompt, reply, Stamp("t1", 1763800000))]
    return split((DATA / f"{name}.sse").read_bytes())


def split(stream):
    return [piece + b"\n\n" for piece in stream.split(b"\n\n")[:-1]]


def tracked(protocol, stream, size=None):
    """Feed a tracker as the relay does, in blocks that the network cut every `size` bytes."""
    splitter, meter, tracker = EventSplitter(), METER[protocol](), TRACKER[protocol]()
    for at in range(0, len(stream), size or len(stream)):
        block = splitter.feed(stream[at : at + (size or len(stream))])
        if block and not meter.feed_deltas(block):
            tracker.feed(block)
    assert splitter.pending == b""
    return tracker


def told_reason(protocol, stream):
    """Give the reason for which the provider itself says that it stopped."""
    meter = METER[protocol]()
    meter.feed(stream)
    return meter.stop_reason


def message_event(kind, **members):
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def begun(**usage):
    return message_event("message_start", message={"usage": {"input_tokens": 1, **usage}})


def chunk(*choices, **members):
    shared = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return b"data: " + json.dumps({**shared, "choices": choices, **members}).encode() + b"\n\n"


def choice(index=0, finish_reason=None, **delta):
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


def role(index=0):
    return choice(index, role="assistant", content="")


def cuts(name):
    """Give each beginning of a stream that can be ended: it says more than a comment."""
    events = events_of(name)
    for end in range(1, len(events) + 1):
        if not all(event.startswith(b":") for event in events[:end]):
            yield events[:end], events[end:]


@STREAMS
def test_a_stream_cut_after_any_event_ends_as_at_the_token_limit(name):
    protocol = protocol_of(name)

    for head, rest in cuts(name):
        given = b"".join(head)
        ending = tracked(protocol, given).ending(**PAID)

        # The validator wants a tool's arguments whole; a model cut at its limit leaves them torn.
        torn = b"".join(takewhile(lambda event: b'"input_json_delta"' in event, rest))
        said = CHECK[protocol](given + torn + ending)
        reason = told_reason(protocol, given)
        assert said.stop_reason == (reason or LIMIT[protocol])
        assert said.error is None
        if reason is None and protocol is Protocol.ANTHROPIC:
            assert said.usage["output_tokens"] == 777
        elif reason is None:
            assert said.usage["completion_tokens"] == 777


@STREAMS
def test_the_ending_is_the_same_however_the_network_cut_the_stream(name):
    protocol = protocol_of(name)

    for head, _ in cuts(name):
        by_event = TRACKER[protocol]()
        for event in head:
            by_event.feed(event)
        wanted = by_event.ending(**PAID)
        for size in (5, 61, 997, None):
            tracker = tracked(protocol, b"".join(head), size)
            assert tracker.ending(**PAID) == tracker.ending(**PAID) == wanted


def reformatted(event, line_end, *, indent=None, named=True):
    """Write an event as another server might."""
    lines = event.decode().splitlines()
    if not lines[-2].startswith("data: {"):
        return event.replace(b"\n", line_end)
    data = json.dumps(json.loads(lines[-2].removeprefix("data: ")), indent=indent)
    written = [line for line in lines[:-2] if named] + [f"data:{line}" for line in data.split("\n")]
    return line_end.join([line.encode() for line in written] + [b"", b""])


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("how", [{}, {"named": False}, {"indent": 1}], ids=str)
@pytest.mark.parametrize("name", ["messages_tools", "chat_tools"])
def test_the_ending_is_the_same_whatever_the_formatting(name, how, line_end):
    protocol = protocol_of(name)

    for head, _ in cuts(name):
        wanted = tracked(protocol, b"".join(head)).ending(**PAID)
        other = b"".join(reformatted(event, line_end, **how) for event in head)
        assert tracked(protocol, other).ending(**PAID) == wanted
        assert tracked(protocol, other, 61).ending(**PAID) == wanted


@pytest.mark.parametrize("name", ["chat demo text", "chat_tools"])
def test_a_chat_client_that_did_not_ask_for_usage_is_told_none(name):
    for head, _ in cuts(name):
        shown = b"".join(without_usage_chunk(event) for event in head)
        ending = tracked(Protocol.OPENAI, shown).ending(**PAID | {"include_usage": False})

        check_chat_stream(shown + ending, usage=False)


@STREAMS
def test_the_official_sdks_take_a_stream_cut_after_any_event_for_one_cut_at_the_limit(name):
    protocol = protocol_of(name)
    heads = [b"".join(head) for head, _ in cuts(name)]
    wholes = [head + tracked(protocol, head).ending(**PAID) for head in heads]
    wanted = [told_reason(protocol, head) or LIMIT[protocol] for head in heads]

    async def scenario():
        async with upstream(*([EVENTS, chunked(whole)] for whole in wholes)) as server:
            ends = SDK_ENDS[protocol]
            return [end async for end in ends(server.url, len(wholes))]

    ends = run(scenario())

    assert [reason for reason, _ in ends] == wanted
    ours = [tokens for (_, tokens), whole in zip(ends, wholes, strict=True) if b"777" in whole]
    assert len(ours) >= len(ends) - 3  # all but those with the provider's own usage
    assert set(ours) == {777}


async def messages_ends(url, count):
    async with anthropic.AsyncAnthropic(base_url=url, **STRICT) as client:
        for _ in range(count):
            async with client.messages.stream(**ASK) as stream:
                message = await stream.get_final_message()
            yield message.stop_reason, message.usage.output_tokens


async def chat_ends(url, count):
    async with openai.AsyncOpenAI(base_url=url, **STRICT) as client:
        for _ in range(count):
            async with client.chat.completions.stream(**CHAT) as stream:
                try:
                    completion = await stream.get_final_completion()
                except openai.LengthFinishReasonError as cut:  # its way to say so
                    completion = cut.completion
            yield completion.choices[0].finish_reason, completion.usage.completion_tokens


SDK_ENDS = {Protocol.ANTHROPIC: messages_ends, Protocol.OPENAI: chat_ends}


def test_open_blocks_are_closed_and_the_input_that_was_reported_is_said_again():
    block = {"type": "text", "text": ""}
    tracker = MessagesTracker()
    tracker.feed(begun() + message_event("content_block_start", index=0, content_block=block))

    assert tracker.ending(**PAID) == (
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
        b'event: message_delta\ndata: {"type":"message_delta",'
        b'"delta":{"stop_reason":"max_tokens","stop_sequence":null},'
        b'"usage":{"input_tokens":25,"cache_creation_input_tokens":100,'
        b'"cache_read_input_tokens":2000,"output_tokens":777}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    assert b'"usage":{"output_tokens":777}' in tracker.ending(**PAID | {"usage": Usage()})


def test_blocks_that_a_server_interleaves_are_all_closed():
    tracker = MessagesTracker()
    tracker.feed(begun())
    for index in (0, 1, 2, 1):
        tracker.feed(message_event("content_block_start", index=index, content_block={}))
    tracker.feed(message_event("content_block_stop", index=0))

    ending = tracker.ending(**PAID)

    stops = [event for event in split(ending) if b"content_block_stop" in event]
    assert [json.loads(stop.splitlines()[1][6:])["index"] for stop in stops] == [1, 2]


def test_what_the_provider_has_ended_is_not_ended_again():
    stopped = message_event("message_delta", delta={"stop_reason": "refusal"}, usage={})
    tracker = MessagesTracker()

    tracker.feed(begun() + message_event("message_delta", delta={"stop_reason": None}))
    assert b'"max_tokens"' in tracker.ending(**PAID)
    tracker.feed(stopped)
    assert tracker.ending(**PAID) == message_event("message_stop").replace(b': "', b':"')
    tracker.feed(message_event("message_stop"))
    assert tracker.ending(**PAID) == b""


def test_each_open_choice_gets_a_finish_of_its_own_then_the_usage_is_told():
    tracker = ChatTracker()
    first = {"system_fingerprint": "fp", "usage": None, "service_tier": "default"}
    for index in range(3):
        tracker.feed(chunk(role(index), **first))
    tracker.feed(chunk(choice(2, "stop")))

    like = b'data: {"id":"c1","object":"chat.completion.chunk","created":5,"model":"m","choices":['
    finish = b'{"index":%d,"delta":{},"finish_reason":"length"}]}\n\n'
    assert tracker.ending(**PAID) == (
        like + finish % 0 + like + finish % 1 + like + b'],"usage":{"prompt_tokens":2125,'
        b'"completion_tokens":777,"total_tokens":2902,"prompt_tokens_details":'
        b'{"cached_tokens":2000,"cache_write_tokens":100}}}\n\ndata: [DONE]\n\n'
    )


def test_the_choices_of_one_answer_may_come_late_and_end_apart():
    given = chunk(role()) + chunk(choice(content="a")) + chunk(choice(0, "stop"))
    late = chunk(role(1)) + chunk(choice(1, content="b"))
    tracker = ChatTracker()

    tracker.feed(given)
    tracker.feed(late)
    said = check_chat_stream(given + late + tracker.ending(**PAID), usage=True)

    assert said.stop_reason == "stop"
    assert tracker.ending(**PAID).count(b'"length"') == 1


def test_a_prelude_without_choices_neither_begins_a_stream_nor_names_it():
    """Azure sends one with the results of its filters, and empty strings for the rest."""
    tracker = ChatTracker()

    tracker.feed(b": PROCESSING\n\n" + chunk(id="", created=0, model="", object=""))
    assert tracker.ending(**PAID) is None
    tracker.feed(chunk(role()))
    assert tracker.ending(**PAID).startswith(b'data: {"id":"c1","object":"chat.completion.chunk"')


def test_names_that_a_server_leaves_out_stay_out():
    tracker = ChatTracker()
    tracker.feed(b'data: {"id": 7, "created": 1.50, "choices": [{"delta": {"content": "a"}}]}\n\n')

    finish, _ = split(tracker.ending(**PAID | {"include_usage": False}))

    assert finish == (
        b'data: {"id":7,"created":1.50,'
        b'"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    )


def test_an_empty_finish_reason_is_none_and_a_late_chunk_opens_nothing_again():
    tracker = ChatTracker()

    tracker.feed(chunk(choice(finish_reason="", role="assistant")))
    tracker.feed(chunk(choice(finish_reason="", content="a")))
    assert b'"length"' in tracker.ending(**PAID)
    tracker.feed(chunk(choice(finish_reason="stop")))
    tracker.feed(chunk(choice(content=""), id="c2"))
    usage, _ = split(tracker.ending(**PAID))
    assert b'"id":"c1"' in usage
    assert b'"choices":[]' in usage


@pytest.mark.parametrize("choices", [[], [choice()], [choice(finish_reason="stop")]])
def test_usage_is_told_once(choices):
    """Some servers put it beside a choice."""
    tracker = ChatTracker()
    tracker.feed(chunk(role(), usage={"prompt_tokens": 1}))
    tracker.feed(chunk(choice(finish_reason="stop")))
    assert b'"prompt_tokens"' in tracker.ending(**PAID)

    tracker.feed(chunk(*choices, usage={"prompt_tokens": 1}))
    tracker.feed(chunk(choice(), usage=None))
    assert tracker.ending(**PAID) == b"data: [DONE]\n\n"
    tracker.feed(b"data: [DONE]\n\n")
    assert tracker.ending(**PAID) == b""


@pytest.mark.parametrize(
    ("tracker_class", "stream"),
    [
        (MessagesTracker, b""),
        (MessagesTracker, message_event("ping")),
        (MessagesTracker, message_event("content_block_start", index=0)),
        (MessagesTracker, b"event: message_start\ndata: message_start\n\n"),
        (ChatTracker, b": ping\n\n"),
        (ChatTracker, b"data: [DONE]\n\n"),
        (ChatTracker, b'data: {"choices":null}\n\n'),
    ],
)
def test_a_stream_that_has_not_begun_has_no_ending(tracker_class, stream):
    tracker = tracker_class()
    tracker.feed(stream)

    assert tracker.ending(**PAID) is None


def test_text_that_imitates_events_opens_and_ends_nothing():
    lies = ['{"type":"message_stop"}', '"content_block_start"', '"finish_reason":"stop"']
    lies += ['"message_delta"', '[{"index":1}]', "[DONE]"]
    messages_tracker, chat_tracker = MessagesTracker(), ChatTracker()
    messages_tracker.feed(begun())
    chat_tracker.feed(chunk(role()))
    wanted = messages_tracker.ending(**PAID), chat_tracker.ending(**PAID)

    for lie in lies:
        delta = {"type": "text_delta", "text": lie, "stop_reason": lie}
        messages_tracker.feed(message_event("content_block_delta", index=0, delta=delta))
        chat_tracker.feed(chunk(choice(content=lie)))

    assert (messages_tracker.ending(**PAID), chat_tracker.ending(**PAID)) == wanted


def test_an_event_nested_too_deep_is_passed_over():
    deep = b"[" * 100_000 + b"]" * 100_000
    for tracker in (MessagesTracker(), ChatTracker()):
        tracker.feed(b'data: {"type":"message_start","choices":[{}],"deep":' + deep + b"}\n\n")

        assert tracker.ending(**PAID) is None


FRAGMENTS = [b'data: {"type":', b'"message_start"', b'"content_block_start"', b'"index":', b"1"]
FRAGMENTS += [b'"delta":', b"[" * 2000, b'{"choices":[', b'{"finish_reason":', b'"stop"', b"\xff"]
FRAGMENTS += [b"}", b"]}", b",", b"\n\n", b"\r\n\r\n", b"null", b'"usage":', b'"message_delta"']


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_whatever_comes_by_feeding_never_fails(pieces):
    for tracker in (MessagesTracker(), ChatTracker()):
        tracker.feed(begun() + chunk(role()))
        tracker.feed(b"".join(pieces) + b"\n\n")

        assert tracker.ending(**PAID) is not None
