"""Events, held to the letter of the HTML standard by a reader that goes byte by byte.

Of the standard we leave out what no vendor sends: an event whose data is empty is no event here,
and bytes stay bytes. A byte order mark is passed over before every event, not the first alone.
"""

import time
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from support.fuzz import examples, searching

from server.protocols.sse import EventSplitter, OversizedEvent, events

BOM = b"\xef\xbb\xbf"
PARTS = st.sampled_from(
    [
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r", b"\n\r\n", b"\r\n\r"),
        *(b"data: ", b"data:", b"data", b"event: ", b"event", b"id: ", b"retry: 1", b":", b" "),
        *(b'{"a":1}', b"[DONE]", b"ping", b": comment", b"\0", b"id: \0", b"x", BOM),
        *("\u2028\u2029\u0085\x0b\x0c\x1c\x1e é👋".encode(), b"\xff\xfe", b"\xe2\x80"),
    ]
)
STREAMS = st.one_of(
    st.lists(PARTS, max_size=24).map(b"".join),
    st.binary(max_size=40),
    st.lists(PARTS, max_size=12).map(lambda parts: BOM + b"".join(parts)),
)
CUTS = st.lists(st.integers(0, 300), max_size=20)
FOUND = [
    (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [9, 10, 11, 12]),
    (b"data: 1\r\rdata: 2\n\rdata: 3\r\n\r", [8, 17]),
    (b"data: 1\r\n\r\n\r\n\ndata: 2\n\n", [10]),
    (b"data\n\ndata\ndata\n\ndata:", []),
    (b"data:  x\n\n data: y\n\ndata : z\n\n", []),
    (BOM + b"data: 1\n\n" + BOM + b"data: 2\n\n", [1, 2]),
    (BOM + b"\n\ndata: 1\n\n", [3, 4]),
    (b"event: a\nevent\ndata: 1\n\n", []),
    (b"data: \0\n\n\0data: 1\n\n", []),
]


def _standard(stream: bytes):
    """Read events as the standard tells a browser to; what has not ended is none."""
    found, line, last, is_first = [], bytearray(), 0, True
    name, data = b"", bytearray()
    for byte in stream:
        if byte == 10 and last == 13:
            last = byte
            continue
        last = byte
        if byte not in (10, 13):
            line.append(byte)
            continue
        if not line:
            if data and data != b"\n":
                found.append((name, bytes(data[:-1])))
            name, data, is_first = b"", bytearray(), True
            continue
        if is_first:
            line, is_first = line.removeprefix(BOM), False
        key, _, value = bytes(line).partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if key == b"data":
            data += value + b"\n"
        elif key == b"event":
            name = value
        line.clear()
    return found


def _fed(stream, cuts):
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    splitter = EventSplitter()
    return splitter, [splitter.feed(stream[start:end]) for start, end in pairwise(edges)]


@examples(1500)
def test_however_a_stream_is_cut_it_says_what_the_standard_says(examples):
    @searching(examples)
    @given(STREAMS, CUTS)
    def check(stream, cuts):
        splitter, blocks = _fed(stream, cuts)

        assert b"".join(blocks) + splitter.pending == stream
        assert [each for block in blocks for each in events(block)] == _standard(stream)

    for stream, cuts in FOUND:
        check = example(stream, cuts)(check)
    check()


@examples(300)
def test_every_event_is_given_as_soon_as_its_end_is_there(examples):
    """A client must not wait for the next event to see this one."""

    @searching(examples)
    @given(st.lists(PARTS, max_size=16).map(b"".join))
    def check(stream):
        splitter, seen = EventSplitter(), []
        for at in range(len(stream)):
            seen += events(splitter.feed(stream[at : at + 1]))
            assert seen == _standard(stream[: at + 1])

    for stream, _ in FOUND:
        check = example(stream)(check)
    check()


@examples(200)
def test_no_more_than_the_limit_is_ever_kept_back(examples):
    @searching(examples)
    @given(st.lists(STREAMS, max_size=20), st.integers(0, 64))
    def check(pieces, limit):
        splitter = EventSplitter(limit)
        for piece in pieces:
            try:
                splitter.feed(piece)
            except OversizedEvent:
                assert len(splitter.pending) > limit
                return
            assert len(splitter.pending) <= limit

    check()


def test_streams_made_to_be_slow_cost_time_in_proportion():
    """Line ends that never make a blank line, blank lines alone, and a mark at each step."""

    def seconds(stream, step):
        splitter, begun = EventSplitter(), time.process_time()
        for at in range(0, len(stream), step):
            list(events(splitter.feed(stream[at : at + step])))
        return time.process_time() - begun

    for unit in (b"a\r\n", b"a\r", b"\n", b"\r", b"\r\n", b":\n", b"data:\n", b"data: x\n\r"):
        for step in (1024, 65536):
            small, large = unit * 20_000, unit * 160_000
            assert seconds(large, step) < 8 * 8 * max(seconds(small, step), 0.005), (unit, step)
