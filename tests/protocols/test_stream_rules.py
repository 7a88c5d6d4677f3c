"""The rules themselves: golden streams keep them all, and each way to break one is named."""

import json
from pathlib import Path

import pytest
from support.stream_rules import BrokenStreamError, check_chat_stream, check_messages_stream

DATA = Path(__file__).parent.parent / "data"

USAGE = {"input_tokens": 3, "output_tokens": 1}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
MESSAGE |= {"stop_reason": None, "stop_sequence": None, "usage": USAGE}
START = {"type": "message_start", "message": MESSAGE}
PING, STOP = {"type": "ping"}, {"type": "message_stop"}
ERROR = {"type": "error", "error": {"type": "api_error", "message": "no"}}
TEXT = {"type": "text", "text": ""}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}
HI = {"type": "text_delta", "text": "hi"}
HM = {"type": "thinking_delta", "thinking": "hm"}
SIGNED = {"type": "signature_delta", "signature": "c2ln"}

ROLE = {"role": "assistant", "content": ""}
READ = {"index": 0, "id": "call_1", "type": "function"}
READ |= {"function": {"name": "read", "arguments": ""}}
SPENT = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
CHAT_ERROR = {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}


def opened(index, block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def grown(index, delta):
    return {"type": "content_block_delta", "index": index, "delta": delta}


def closed(index):
    return {"type": "content_block_stop", "index": index}


def block(index, first, *deltas):
    return [opened(index, first), *(grown(index, delta) for delta in deltas), closed(index)]


def arguments(fragment):
    return {"type": "input_json_delta", "partial_json": fragment}


def end(reason="end_turn", sequence=None, **usage):
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5} | usage}


def messages(*events):
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
    )


def chunk(delta, finish=None, index=0, **more):
    choices = [{"index": index, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": choices} | more


def calls(*fragments):
    return chunk({"tool_calls": list(fragments)})


def more_of(index, fragment):
    return {"index": index, "function": {"arguments": fragment}}


def chat(*chunks, done=True):
    told = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in chunks)
    return told + b"data: [DONE]\n\n" * done


SPENT_CHUNK = chunk({}) | {"choices": [], "usage": SPENT}
SAID_HI = [chunk(ROLE), chunk({"content": "hi"}), chunk({}, "stop")]


def test_a_messages_stream_gives_the_message_it_streamed():
    message = check_messages_stream((DATA / "messages_tools.sse").read_bytes())

    thinking, text, write, now = message["content"]
    assert thinking["thinking"] == "I should write the file."
    assert thinking["signature"] == "c2lnbmF0dXJl"
    assert text == {"type": "text", "text": "Writing it."}
    assert write["input"] == {"file_path": "a.txt", "content": '"message_stop" [DONE]'}
    assert now == CALL | {"id": "toolu_demo2", "name": "Now"}
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)
    assert message["usage"] == {
        "input_tokens": 310,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 12,
        "output_tokens": 77,
    }


def test_a_chat_stream_gives_the_completion_it_streamed():
    completion = check_chat_stream((DATA / "chat_tools.sse").read_bytes())

    (choice,) = completion["choices"]
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "write", "arguments": '{"path":"a.txt"}'},
        {"name": "now", "arguments": "{}"},
    ]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    assert (completion["object"], completion["usage"]["total_tokens"]) == ("chat.completion", 70)


def test_reasoning_is_gathered_by_its_index():
    text = {"type": "reasoning.text", "index": 0, "format": "f"}
    said = check_chat_stream(
        chat(
            chunk(ROLE | {"reasoning_content": "a", "reasoning_details": [text | {"text": "a"}]}),
            chunk({"reasoning_content": "b", "reasoning_details": [text | {"text": "b"}]}),
            chunk({"reasoning_details": [text | {"signature": "s"}]}),
            chunk({}, "stop"),
        )
    )

    message = said["choices"][0]["message"]
    assert message["reasoning_content"] == "ab"
    assert message["reasoning_details"] == [text | {"text": "ab", "signature": "s"}]


def test_a_stream_that_ends_in_an_error_gives_what_came_before_it():
    message = check_messages_stream((DATA / "messages_error.sse").read_bytes())
    completion = check_chat_stream((DATA / "chat_error.sse").read_bytes())

    assert message["error"]["type"] == "overloaded_error"
    assert (message["content"][0]["text"], message["stop_reason"]) == ("Half an ans", None)
    assert completion["error"]["type"] == "server_error"
    assert completion["choices"][0]["message"]["content"] == "Half"


def test_an_error_may_be_all_there_is():
    assert check_messages_stream(messages(PING, ERROR)) == {"error": ERROR["error"]}
    assert check_chat_stream(b": ping\n\n" + chat(CHAT_ERROR, done=False)) == CHAT_ERROR


@pytest.mark.parametrize("path", sorted(DATA.glob("*.sse")), ids=lambda path: path.stem)
def test_golden_streams_pass_with_any_line_end_and_with_comments(path):
    check = check_messages_stream if path.stem.startswith("messages") else check_chat_stream
    golden = path.read_bytes()
    said = check(golden)

    for line_end in (b"\n", b"\r\n", b"\r"):
        lines = golden.replace(b"\n", line_end)
        assert check(lines) == said
        assert check(b": ping" + line_end * 2 + b": ping" + line_end + lines) == said


def test_what_is_rare_but_right_passes():
    torn = [START, *block(0, CALL, arguments('{"a": "'))]
    assert check_messages_stream(messages(PING, *torn, end("max_tokens"), STOP))["content"] == [
        CALL | {"input": '{"a": "'}
    ]
    empty = messages(START, *block(0, TEXT), end("max_tokens"), STOP)
    assert check_messages_stream(empty, allow_empty_text=True)["content"] == [TEXT]
    named = messages(START, *block(0, TEXT, HI), end("stop_sequence", "X"), STOP)
    assert check_messages_stream(named)["stop_sequence"] == "X"
    redacted = {"type": "redacted_thinking", "data": "c2ln"}
    hidden = messages(START, *block(0, redacted), *block(1, THINKING, SIGNED), end(), STOP)
    assert check_messages_stream(hidden)["content"] == [redacted, THINKING | {"signature": "c2ln"}]
    said = check_chat_stream(
        chat(chunk(ROLE), chunk(ROLE, index=1), chunk({}, "stop", 1), chunk({}, "length"))
    )
    assert [choice["finish_reason"] for choice in said["choices"]] == ["length", "stop"]
    second = READ | {"index": 1, "id": "call_2"}
    mixed = [calls(READ, second), calls(more_of(1, "{"), more_of(0, "{}")), calls(more_of(1, "}"))]
    said = check_chat_stream(chat(chunk(ROLE), *mixed, chunk({}, "tool_calls")))
    made = said["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in made] == ["{}", "{}"]


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([], "without message_stop"),
        ([START, end()], "without message_stop"),
        ([opened(0, CALL), START], "content_block_start before message_start"),
        ([STOP], "message_stop before message_start"),
        ([START, START], "second message_start"),
        ([START | {"message": MESSAGE | {"content": [TEXT]}}], "message_start with content"),
        ([START | {"message": MESSAGE | {"stop_reason": "end_turn"}}], "with stop_reason"),
        ([START | {"message": MESSAGE | {"usage": None}}], "usage is None"),
        ([START | {"message": MESSAGE | {"usage": {"input_tokens": 1}}}], "without output_tokens"),
        ([START, opened(1, TEXT)], "index 1 out of order"),
        ([START, *block(0, TEXT, HI), opened(0, TEXT)], "index 0 out of order"),
        ([START, *block(0, TEXT, HI), opened(2, TEXT)], "index 2 out of order"),
        ([START, opened(0, TEXT), opened(1, CALL)], "inside another"),
        ([START, opened(0, TEXT | {"text": "hi"})], "text block starts with text"),
        ([START, opened(0, CALL | {"input": {"a": 1}})], "tool_use block starts with input"),
        ([START, opened(0, {"type": "thinking", "thinking": ""})], "starts with signature"),
        ([START, opened(0, CALL | {"id": "call 1"})], "tool id 'call 1'"),
        ([START, opened(0, CALL | {"name": ""})], "tool without name"),
        ([START, *block(0, CALL), opened(1, CALL)], "'toolu_1' came twice"),
        ([START, grown(0, HI)], "delta outside of a block"),
        ([START, *block(0, TEXT, HI), grown(0, HI)], "delta outside of a block"),
        ([START, opened(0, TEXT), grown(1, HI)], "delta of block 1"),
        ([START, opened(0, TEXT), grown(0, HM)], "thinking_delta in a text block"),
        ([START, opened(0, THINKING), grown(0, HI)], "text_delta in a thinking block"),
        ([START, opened(0, CALL), grown(0, HI)], "text_delta in a tool_use block"),
        ([START, opened(0, TEXT), grown(0, SIGNED)], "signature_delta in a text block"),
        ([START, opened(0, TEXT), grown(0, {"type": "text_delta"})], "text_delta without text"),
        ([START, *block(0, THINKING, SIGNED, HM)], "behind its signature"),
        ([START, closed(0)], "content_block_stop outside"),
        ([START, opened(0, TEXT), grown(0, HI), closed(1)], "stop of block 1"),
        ([START, *block(0, TEXT)], "text block without text"),
        ([START, *block(0, CALL, arguments("[]")), end("tool_use")], "torn arguments"),
        ([START, *block(0, CALL, arguments('{"a":')), end("tool_use")], "torn arguments"),
        ([START, *block(0, CALL, arguments("{}{}")), end("tool_use")], "torn arguments"),
        ([START, *block(0, CALL, arguments('{"a":')), opened(1, TEXT)], "behind a call"),
        ([START, opened(0, TEXT), end()], "message_delta inside a block"),
        ([START, end(), end()], "second message_delta"),
        ([START, end(), opened(0, TEXT)], "block after message_delta"),
        ([START, end(None)], "stop reason None"),
        ([START, end("stop")], "stop reason 'stop'"),
        ([START, end("tool_use")], "tool_use without a tool"),
        ([START, *block(0, CALL), end()], "end_turn with tools"),
        ([START, end("stop_sequence")], "a stop sequence, and 'stop_sequence'"),
        ([START, end(sequence="X")], "a stop sequence, and 'end_turn'"),
        ([START, end(output_tokens=None)], "output_tokens in"),
        ([START, end(cache_read_input_tokens=-1)], "cache_read_input_tokens in"),
        ([START, end(cache_creation={"ephemeral_5m_input_tokens": 0.5})], "ephemeral_5m"),
        ([START, end() | {"usage": {}}], "without output_tokens"),
        ([START, STOP], "message_stop without message_delta"),
        ([START, end(), STOP, PING], "after the end came"),
        ([START, ERROR, end()], "after the end came"),
        ([START, ERROR, ERROR], "after the end came"),
        ([START, ERROR | {"error": {"type": "api_error"}}], "error without message"),
        ([START, {"type": "message_limit"}], "unknown event 'message_limit'"),
    ],
)
def test_a_messages_stream_that_breaks_a_rule_is_told_which(events, sentence):
    with pytest.raises(BrokenStreamError, match=sentence):
        check_messages_stream(messages(*events))


@pytest.mark.parametrize(
    ("chunks", "sentence"),
    [
        ([], r"\[DONE\] before the finish"),
        ([chunk(ROLE)], r"\[DONE\] before the finish"),
        ([chunk(ROLE) | {"object": "chat.completion"}], "object 'chat.completion'"),
        ([chunk(ROLE) | {"id": None}], "no id or no model"),
        ([chunk(ROLE) | {"created": "1"}], "created is not an integer"),
        ([chunk(ROLE), chunk({}, id="chatcmpl-2")], "'chatcmpl-2'.* after"),
        ([chunk(ROLE), chunk({}, model="n")], "'model': 'n'.* after"),
        ([chunk(ROLE), chunk({}, created=2)], "'created': 2.* after"),
        ([chunk({"content": "hi"})], "the first delta has no role"),
        ([chunk(ROLE), chunk({"content": "hi"}, index=1)], "the first delta has no role"),
        ([chunk(ROLE | {"content": ["hi"]})], "content is not text"),
        ([chunk(ROLE), calls(READ | {"index": 1})], "tool index 1 out of order"),
        ([chunk(ROLE), calls(READ | {"id": ""})], "tool id ''"),
        ([chunk(ROLE), calls(READ | {"type": None})], "without type"),
        ([chunk(ROLE), calls(more_of(0, "{}") | {"id": "x", "type": "function"})], "without name"),
        ([chunk(ROLE), calls(READ, READ)], "id or name came twice"),
        ([chunk(ROLE), calls(READ, READ | {"index": 1})], "'call_1' twice"),
        ([chunk(ROLE), calls(READ), chunk({}, "tool_calls")], "not JSON: ''"),
        ([chunk(ROLE), calls(READ, more_of(0, "[]")), chunk({}, "tool_calls")], "not an object"),
        ([chunk(ROLE), calls(READ, more_of(0, "{")), chunk({}, "tool_calls")], "not JSON"),
        ([chunk(ROLE), calls(READ, more_of(0, None))], "fragment without arguments"),
        ([chunk(ROLE), calls(READ), chunk({}, "stop")], "stop with tool calls"),
        ([chunk(ROLE), chunk({}, "tool_calls")], "tool_calls without a call"),
        ([chunk(ROLE), chunk({}, "error")], "finish reason 'error'"),
        ([*SAID_HI, chunk({}, "stop")], "choice 0 goes on after its finish"),
        ([*SAID_HI, chunk({"content": "!"})], "choice 0 goes on after its finish"),
        ([chunk(ROLE, index=1), *SAID_HI], r"\[DONE\] before the finish"),
        ([chunk(ROLE), SPENT_CHUNK], "usage before the finish"),
        ([*SAID_HI, SPENT_CHUNK, SPENT_CHUNK], "second usage chunk"),
        ([*SAID_HI, SPENT_CHUNK, chunk(ROLE, index=1)], "choices after the usage chunk"),
        ([*SAID_HI, SPENT_CHUNK | {"usage": None}], "usage is None"),
        ([*SAID_HI, SPENT_CHUNK | {"usage": SPENT | {"total_tokens": 5}}], "not the sum"),
        ([*SAID_HI, SPENT_CHUNK | {"usage": SPENT | {"prompt_tokens": -1}}], "prompt_tokens in"),
        ([chunk(ROLE, usage=SPENT)], "usage beside choices"),
        ([chunk(ROLE), CHAT_ERROR], "after the end came"),
        ([chunk(ROLE), CHAT_ERROR, chunk({}, "stop")], "after the end came"),
        ([{"error": {"message": "no"}}], "error lacks a member"),
    ],
)
def test_a_chat_stream_that_breaks_a_rule_is_told_which(chunks, sentence):
    with pytest.raises(BrokenStreamError, match=sentence):
        check_chat_stream(chat(*chunks))


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (messages(PING)[:-1], "the last event is cut"),
        (b'data: {"type":"ping"}\n\n', "event without a name"),
        (b'event: pong\ndata: {"type":"ping"}\n\n', "event 'pong' carries type 'ping'"),
        (b'event: ping\ndata: {"type":"ping"\n\n', "not JSON"),
        (b'event: ping\ndata: {"type":"ping","type":"ping"}\n\n', "a name twice"),
        (b'event: ping\ndata: {"type":"ping","at":NaN}\n\n', "not JSON"),
        (b"event: ping\ndata: []\n\n", "not an object"),
        (b"event: ping\n\n", "not one event and one data"),
        (b'event: ping\nevent: ping\ndata: {"type":"ping"}\n\n', "not one event and one data"),
        (b"date: {}\n\n", "a line of no known field"),
        (messages(ERROR) + b": late\n\n", "after the end came 'a comment'"),
    ],
)
def test_lines_that_are_no_messages_events_are_found(stream, sentence):
    with pytest.raises(BrokenStreamError, match=sentence):
        check_messages_stream(stream)


@pytest.mark.parametrize(
    ("stream", "sentence"),
    [
        (chat(*SAID_HI, done=False), r"without \[DONE\]"),
        (chat(*SAID_HI) + b"data: [DONE]\n\n", r"after the end came '\[DONE\]'"),
        (chat(*SAID_HI) + b": late\n\n", "after the end came 'a comment'"),
        (chat(*SAID_HI)[:-1], "the last event is cut"),
        (b"event: chunk\n" + chat(*SAID_HI), "an event with a name: 'chunk'"),
        (b"data: [done]\n\n", "not JSON"),
    ],
)
def test_lines_that_are_no_chat_chunks_are_found(stream, sentence):
    with pytest.raises(BrokenStreamError, match=sentence):
        check_chat_stream(stream)
