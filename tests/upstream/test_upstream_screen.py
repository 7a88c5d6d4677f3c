"""What is no event never reaches a client; what is one does, byte for byte."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocols import Protocol, sse
from server.upstream.screen import screen, screen_lines, up_to_end

ANTHROPIC, OPENAI = Protocol.ANTHROPIC, Protocol.OPENAI
GOLDEN = sorted((Path(__file__).parent.parent / "data").glob("*.sse"))
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
CHUNK = b'data: {"choices":[]}\n\n'
PAGE = b"<html>\r\n<body>\r\n<h1>502 Bad Gateway</h1>\r\n</body>\r\n</html>\r\n"


def protocol_of(path):
    return ANTHROPIC if path.name.startswith("messages") else OPENAI


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_sound_streams_pass_untouched_whole_and_event_by_event(path, line_end):
    stream = path.read_bytes().replace(b"\n", line_end)
    pieces = [piece + line_end * 2 for piece in stream.split(line_end * 2)[:-1]]

    assert screen(stream, protocol_of(path)) == stream
    assert [screen(piece, protocol_of(path)) for piece in pieces] == pieces


@pytest.mark.parametrize(
    "garbage",
    [
        PAGE + b"\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        b"<html>\r\n\xff\xfe\x00 not an event\nHTTP/1.1 200 OK\r\n}{\n\n",
        b"data: <html>\n\n",
        b"data: upstream connect error\n\n",
        b'data: "text"\n\n',
        b"data: [1]\n\n",
        b"data: null\n\n",
        b'data: {"cut": \n\n',
        b"event: message_start\n\n",
        b"retry: 3000\n\n",
        b"id: 7\n\n",
        b"data:\n\n",
    ],
)
@pytest.mark.parametrize(("event", "protocol"), [(PING, ANTHROPIC), (CHUNK, OPENAI)])
def test_garbage_between_events_goes(event, protocol, garbage):
    assert screen(event + garbage + event, protocol) == event * 2
    assert screen(garbage + event, protocol) == event
    assert screen(garbage, protocol) == b""


@pytest.mark.parametrize(
    ("torn", "kept"),
    [
        (b"junk\nevent: ping\ndata: {}\n\n", b"event: ping\ndata: {}\n\n"),
        (b"event: ping\njunk\ndata: {}\n\n", b"event: ping\ndata: {}\n\n"),
        (b"event: ping\ndata: {}\njunk\n\n", b"event: ping\ndata: {}\n\n"),
        (b"event: ping\ndata: {}\rjunk\n\n", b"event: ping\ndata: {}\n\n"),
        (b"event: ping\nData: {}\ndata: {}\n\n", b"event: ping\ndata: {}\n\n"),
        (b"event: ping\r\njunk\r\ndata: {}\r\n\r\n", b"event: ping\ndata: {}\r\n\r\n"),
        (b": a\njunk\n\n", b": a\n\n"),
    ],
)
def test_stray_lines_inside_an_event_go_and_the_event_stays(torn, kept):
    assert screen(torn, ANTHROPIC) == kept
    assert screen(PING + torn + PING, ANTHROPIC) == PING + kept + PING


@pytest.mark.parametrize(
    ("events", "protocol"),
    [
        (b": OPENROUTER PROCESSING\n\n", OPENAI),
        (b":\n\n", ANTHROPIC),
        (b"data:{}\n\n", OPENAI),
        (b'data: {"a":\ndata: 1}\n\n', OPENAI),
        (b"id: 1\nevent: x\ndata: {}\nretry: 5\n\n", ANTHROPIC),
        (b"\xef\xbb\xbfevent: x\ndata: {}\n\n", ANTHROPIC),
        (CHUNK + b"data: [DONE]\n\n", OPENAI),
        (b"data: [DONE]\n\n", OPENAI),
        (b"data: [DONE]\r\n\r\n", OPENAI),
        (b"\n" + CHUNK, OPENAI),
        (b"\n", OPENAI),
        (b"\n", ANTHROPIC),
        (CHUNK + b"\n\n\n" + CHUNK, OPENAI),
    ],
)
def test_unusual_but_sound_events_pass_untouched(events, protocol):
    assert screen(events, protocol) == events


def test_done_is_no_event_of_messages():
    assert screen(PING + b"data: [DONE]\n\n", ANTHROPIC) == PING


LINES = [
    b"event: ping",
    b"event: a",
    b'data: {"a":1}',
    b"data: {}",
    b"data: {",
    b"data: }",
    b"data: [DONE]",
    b"}",
    b"junk",
    b": c",
    b"",
]


@pytest.mark.parametrize("protocol", [ANTHROPIC, OPENAI])
def test_the_short_cut_agrees_with_the_long_way(protocol):
    """But for JSON that only looks whole, which nobody can tell without decoding it all."""

    @settings(deadline=None, max_examples=400)
    @given(st.lists(st.sampled_from(LINES), max_size=12))
    def check(lines):
        events = b"\n".join(lines) + b"\n\n"
        slow = screen_lines(events, protocol)
        if screen(events, protocol) != slow:
            assert screen(events, protocol) == events
            known = (b"event", b"data", b"")
            assert all(line.partition(b":")[0] in known for line in events.split(b"\n"))
            assert b"junk" not in events

    check()


# the end


def test_what_follows_the_last_event_is_cut_off():
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    assert up_to_end(PING + stop + PING + stop, ANTHROPIC) == PING + stop
    assert up_to_end(CHUNK + b"data: [DONE]\n\n" * 2, OPENAI) == CHUNK + b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("error", "protocol"),
    [
        (b'event: error\ndata: {"type":"error","error":{"type":"a","message":"%b"}}\n\n', "A"),
        (b'data: {"error":{"message":"%b","type":"a","param":null,"code":null}}\r\n\r\n', "O"),
    ],
)
def test_an_error_is_the_end_and_secrets_in_it_are_masked(error, protocol):
    event, protocol = (PING, ANTHROPIC) if protocol == "A" else (CHUNK, OPENAI)
    said = error % b"Bad key sk-fake-0123456789abcdef in Bearer fake.token.value"

    shown = up_to_end(event + said + event, protocol)

    assert shown == event + error % b"Bad key [redacted] in [redacted]"
    assert len(list(sse.events(shown))) == 2
