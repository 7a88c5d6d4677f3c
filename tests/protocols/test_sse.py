"""Events: every way of cutting the bytes gives the same bytes and the same events."""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocols.sse import EventSplitter, OversizedEvent, events, pieces

GOLDEN = sorted((Path(__file__).parent.parent / "data").glob("*.sse"))
LINE_ENDS = [b"\n", b"\r\n", b"\r"]


def split_at(stream, cuts):
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_any_cut_gives_the_same_bytes_and_events(path, line_end):
    stream = path.read_bytes().replace(b"\n", line_end)
    wanted = list(events(path.read_bytes()))

    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.integers(0, len(stream))))
    def check(cuts):
        splitter = EventSplitter()
        blocks = [splitter.feed(data) for data in split_at(stream, cuts)]
        assert b"".join(blocks) == stream
        assert splitter.pending == b""
        assert [event for block in blocks for event in events(block)] == wanted

    check()


@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_byte_by_byte_each_event_comes_out_once_and_whole(path, line_end):
    stream = path.read_bytes().replace(b"\n", line_end)
    splitter = EventSplitter()

    blocks = [block for at in range(len(stream)) if (block := splitter.feed(stream[at : at + 1]))]

    assert b"".join(blocks) == stream
    assert sum(len(list(events(block))) for block in blocks) == len(list(events(stream)))
    assert all(len(list(events(block))) <= 1 for block in blocks)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"a", b":", b"\n\n", b"\r\n"]), max_size=30),
    st.lists(st.integers(0, 60)),
)
def test_what_is_kept_back_never_holds_a_blank_line(parts, cuts):
    stream = b"".join(parts)
    splitter, out = EventSplitter(), b""

    for data in split_at(stream, cuts):
        out += splitter.feed(data)

    assert out + splitter.pending == stream
    assert len(pieces(splitter.pending)) <= 1
    assert not splitter.pending.endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"))


def test_whole_events_come_out_and_the_rest_waits():
    splitter = EventSplitter()

    assert splitter.feed(b"data: 1\n\ndata: 2\n\nda") == b"data: 1\n\ndata: 2\n\n"
    assert splitter.pending == b"da"
    assert splitter.feed(b"ta: 3\n") == b""
    assert splitter.feed(b"\ndata: 4") == b"data: 3\n\n"
    assert splitter.pending == b"data: 4"


def test_a_line_feed_that_comes_late_is_not_taken_for_a_cut_event():
    splitter = EventSplitter()

    assert splitter.feed(b"data: 1\r\n\r") == b"data: 1\r\n\r"
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.pending == b""


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_the_three_line_ends_end_a_line(odd):
    block = f"data: a{odd}{odd}b\n\n".encode()

    assert EventSplitter().feed(block[:-1]) == b""
    assert list(events(block)) == [(b"", f"a{odd}{odd}b".encode())]


def test_events_are_read_by_the_letter_of_the_standard():
    block = (
        b"\xef\xbb\xbfevent: a\ndata: 1\ndata:2\nid: 7\n\n"
        b": comment\n\nevent: empty\n\nretry: 5\ndata:  x\r\n\r\ndata\ndata\n\n"
    )

    assert list(events(block)) == [(b"a", b"1\n2"), (b"", b" x"), (b"", b"\n")]


def test_an_event_without_end_is_an_error_at_the_limit():
    splitter = EventSplitter(limit_bytes=100)
    splitter.feed(b"x" * 100)

    with pytest.raises(OversizedEvent, match="too large"):
        splitter.feed(b"x")


def test_whole_events_may_come_in_blocks_above_the_limit():
    block = b"data: 1\n\n" * 50

    assert EventSplitter(limit_bytes=100).feed(block + b"data") == block


def test_a_great_event_in_small_pieces_costs_time_in_proportion():
    def seconds(size):
        splitter, piece = EventSplitter(), b"x" * 64
        began = time.process_time()
        for _ in range(size // len(piece)):
            splitter.feed(piece)
        return time.process_time() - began

    small, large = seconds(256 * 1024), seconds(4 * 1024 * 1024)

    assert large < 64 * max(small, 0.005)
