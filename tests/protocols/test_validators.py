"""The validators themselves: every golden stream passes, every way of breaking one does not."""

from pathlib import Path

import pytest
from support.validators import BrokenStreamError, check_chat_stream, check_messages_stream

DATA = Path(__file__).parent.parent / "data"
MESSAGES = (DATA / "messages_tools.sse").read_bytes()
CHAT = (DATA / "chat_tools.sse").read_bytes()


def events(stream):
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


def test_a_messages_stream_is_told_in_full():
    said = check_messages_stream(MESSAGES)

    assert (said.thinking, said.text) == ("I should write the file.", "Writing it.")
    assert [name for name, _ in said.tools] == ["Write", "Now"]
    assert (said.stop_reason, said.usage["output_tokens"], said.pings) == ("tool_use", 77, 1)


def test_a_chat_stream_is_told_in_full():
    said = check_chat_stream(CHAT, usage=True)

    assert said.tools == [("write", {"path": "a.txt"}), ("now", {})]
    assert (said.stop_reason, said.usage["total_tokens"], said.pings) == ("tool_calls", 70, 1)


def test_a_stream_that_ends_in_an_error_is_well_formed():
    messages = check_messages_stream((DATA / "messages_error.sse").read_bytes())
    chat = check_chat_stream((DATA / "chat_error.sse").read_bytes(), usage=True)

    assert (messages.text, messages.error["type"]) == ("Half an ans", "overloaded_error")
    assert (chat.text, chat.error["type"]) == ("Half", "server_error")


@pytest.mark.parametrize("path", sorted(DATA.glob("*_text.sse")), ids=lambda path: path.stem)
def test_text_streams_pass_with_any_line_end(path):
    check = check_messages_stream if path.stem.startswith("messages") else check_chat_stream

    for line_end in (b"\n", b"\r\n", b"\r"):
        assert check(path.read_bytes().replace(b"\n", line_end)).text.startswith("Hello, wörld!")


@pytest.mark.parametrize(
    ("check", "stream"), [(check_messages_stream, MESSAGES), (check_chat_stream, CHAT)]
)
def test_no_event_can_go_twice_and_no_end_be_missing(check, stream):
    whole = events(stream)
    harmless = (b"ping", b'"partial_json"', b"thinking_delta", b"signature", b"text_delta")

    for at, event in enumerate(whole):
        if any(word in event for word in harmless) or b'"arguments":"{\\"path\\":"' in event:
            continue
        if b'"tool_calls":null' in event or (b'"role"' in event and b"chunk" in event):
            continue  # a role may be said again
        with pytest.raises(BrokenStreamError):
            check(b"".join([*whole[:at], event, *whole[at:]]))
    for end in range(len(whole)):
        with pytest.raises(BrokenStreamError):
            check(b"".join(whole[:end]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"event: message_start", b"event: message"),
        (b"event: ping\n", b""),
        (b'"index":1', b'"index":2'),
        (b'"text_delta"', b'"thinking_delta"'),
        (b'"stop_reason":"tool_use"', b'"stop_reason":"end_turn"'),
        (b'"stop_reason":"tool_use"', b'"stop_reason":"stop"'),
        (b'"output_tokens":77', b'"output_tokens":null'),
        (b'"input_tokens":300', b'"input_tokens":-1'),
        (b"toolu_demo2", b"toolu demo2"),
        (b'\\"content\\"', b'content\\"'),
        (b'"content":[]', b'"content":null'),
        (b'"input":{}', b'"input":{"a":1}'),
        (b'{"type":"ping"}', b'{"type":"ping","type":"ping"}'),
        (b'{"type":"ping"}', b'{"type":"ping"'),
        (b"event: ping", b": comment\n\nevent: ping"),
        (b"event: ping", b"event: pong"),
        (b"data: ", b"date: "),
        (b'"model":"claude-demo",', b""),
    ],
)
def test_a_broken_messages_stream_is_found(old, new):
    assert old in MESSAGES

    with pytest.raises(BrokenStreamError):
        check_messages_stream(MESSAGES.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"object":"chat.completion.chunk"', b'"object":"chat.completion"'),
        (b'"role":"assistant"', b'"role":null'),
        (b'"finish_reason":"tool_calls"', b'"finish_reason":"stop"'),
        (b'"finish_reason":"tool_calls"', b'"finish_reason":"end_turn"'),
        (b'"finish_reason":"tool_calls"', b'"finish_reason":null'),
        (b'"total_tokens":70', b'"total_tokens":71'),
        (b'"choices":[]', b'"choices":null'),
        (b'"index":1', b'"index":2'),
        (b'"a.txt\\"}', b'"a.txt\\"'),
        (b'"id":"call_demo1",', b""),
        (b'"name":"now",', b""),
        (b"data: [DONE]", b"event: done\ndata: [DONE]"),
        (b"[DONE]", b"[done]"),
        (b'"usage":null', b'"usage":{}'),
    ],
)
def test_a_broken_chat_stream_is_found(old, new):
    assert old in CHAT

    with pytest.raises(BrokenStreamError):
        check_chat_stream(CHAT.replace(old, new))


def test_a_chunk_of_another_answer_is_found():
    with pytest.raises(BrokenStreamError, match="after"):
        check_chat_stream(CHAT.replace(b"chatcmpl-demo1", b"chatcmpl-demo2", 1))


def test_a_usage_chunk_that_nobody_asked_for_is_found():
    with pytest.raises(BrokenStreamError, match="usage is"):
        check_chat_stream(CHAT, usage=False)


def test_a_cut_last_event_is_found():
    with pytest.raises(BrokenStreamError, match="cut"):
        check_messages_stream(MESSAGES[:-1])
