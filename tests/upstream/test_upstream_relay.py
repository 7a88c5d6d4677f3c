"""The relay: the same bytes and usage however they came, pings between events, backpressure."""

import asyncio
import gzip
import zlib
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from support.raw_upstream import EVENTS, FIN, HANG, RST, chunked, run, until, upstream
from support.relays import (
    BEGIN,
    BOTH,
    CHAT,
    CHECKS,
    DATA,
    HEAD,
    MESSAGES,
    STREAMS,
    answer,
    client_for,
    events,
    metered,
    read,
    relay_for,
    relayed,
    start,
)
from support.validators import check_chat_stream

from server.protocols import Protocol
from server.protocols.by_protocol import PING

GOLDEN = sorted(DATA.glob("*.sse"))


def protocol_of(path):
    return "anthropic" if path.name.startswith("messages") else "openai"


# any cut


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_any_cut_gives_the_client_the_same_bytes_and_the_row_the_same_usage(path, line_end):
    stream, protocol = path.read_bytes().replace(b"\n", line_end), protocol_of(path)
    wanted = metered(path.read_bytes(), protocol)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    async def through(pieces):
        relay = relay_for(protocol)
        attempt = relay.attempt
        attempt.on_head(HEAD)
        for piece in pieces:
            attempt.on_data(piece)
        attempt.on_end(None)
        relay.release(await attempt.over)
        return await read(relay)

    @settings(deadline=None, max_examples=20)
    @given(st.lists(st.integers(0, len(stream)), max_size=40))
    def check(cuts):
        pieces = [stream[a:b] for a, b in pairwise([0, *sorted(cuts), len(stream)])]
        got = runner.run(through(pieces))
        meter = got.relay.meter
        # Behind `\r\n\r` the stream has ended; an LF of its own that comes later means nothing.
        late_lf = line_end == b"\r\n" and cuts and len(stream) - 1 in cuts
        assert bytes(got.stream) == (stream[:-1] if late_lf else stream)
        assert got.error is None
        assert (meter.usage, meter.stop_reason, meter.error) == wanted

    with runner:
        check()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [None, 1, 100])
def test_golden_streams_arrive_through_real_sockets_in_chunks_of_any_size(path, size):
    stream, protocol = path.read_bytes(), protocol_of(path)

    got = answer(*events(stream, size), protocol=protocol)

    assert (bytes(got.stream), got.error) == (stream, None)
    assert got.usage == metered(stream, protocol)[0]
    CHECKS[protocol](bytes(got.stream))


@BOTH
def test_a_stream_byte_by_byte_with_pauses_is_relayed_event_by_event(protocol):
    stream = STREAMS[protocol]
    slow = stream[: stream.index(b"\n\n", len(BEGIN[protocol])) + 2]  # one behind the first content
    drips = [step for at in range(len(slow)) for step in (slow[at : at + 1], 0.001)]
    chunks = [chunked(step, end=b"") if isinstance(step, bytes) else step for step in drips]

    got = answer(EVENTS, *chunks, chunked(stream[len(slow) :]), protocol=protocol)

    assert bytes(got.stream) == stream
    assert all(piece.endswith(b"\n\n") for piece in got.pieces)
    assert len(got.pieces) > 2


def test_the_usage_chunk_is_hidden_from_a_client_that_did_not_ask():
    shown = answer(*events(CHAT), protocol="openai")
    hidden = answer(*events(CHAT, 50), protocol="openai", hide_usage=True)

    assert check_chat_stream(bytes(shown.stream)).usage is not None
    check_chat_stream(bytes(hidden.stream), usage=False)
    assert hidden.usage == shown.usage


# compression


def squeeze(stream, encoding):
    """Compress event by event, each flushed, as servers do."""
    wbits = {"gzip": 31, "deflate": 15}[encoding]
    squeezer = zlib.compressobj(wbits=wbits)
    pieces = [
        squeezer.compress(piece + b"\n\n") + squeezer.flush(zlib.Z_SYNC_FLUSH)
        for piece in stream.split(b"\n\n")[:-1]
    ]
    return [*pieces, squeezer.flush()]


def packed_head(encoding):
    return EVENTS.replace(b"\r\n\r\n", b"\r\ncontent-encoding: %b\r\n\r\n" % encoding.encode())


@BOTH
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_stream_is_inflated_as_it_comes(protocol, encoding):
    stream = STREAMS[protocol]
    pieces = [chunked(piece, end=b"") for piece in squeeze(stream, encoding)]
    steps = [step for piece in pieces for step in (piece, 0.002)]

    got = answer(packed_head(encoding), *steps, b"0\r\n\r\n", protocol=protocol)

    assert (bytes(got.stream), got.error) == (stream, None)
    assert len(got.pieces) > 3


def test_a_truncated_compressed_stream_is_a_cut():
    pieces = squeeze(BEGIN["anthropic"], "gzip")

    got = answer(packed_head("gzip"), chunked(*pieces[:-1]))

    assert (bytes(got.stream), str(got.error)) == (
        BEGIN["anthropic"],
        "The provider cut its answer short.",
    )


def test_a_stream_whose_end_was_seen_may_lack_the_compressions_trailer():
    got = answer(packed_head("gzip"), chunked(*squeeze(MESSAGES, "gzip")[:-1]))

    assert (bytes(got.stream), got.error) == (MESSAGES, None)


def test_unknown_encodings_and_bombs_are_errors():
    bomb = gzip.compress(bytes(64 << 20))

    unknown = answer(packed_head("br"), chunked(b"xyz", end=b""), HANG)
    burst = answer(packed_head("gzip"), chunked(bomb, end=b""), HANG)
    identity = answer(packed_head("identity"), chunked(MESSAGES))

    assert "in a way nobody asked for" in str(unknown.error)
    assert "beyond all measure" in str(burst.error)
    assert bytes(identity.stream) == MESSAGES


# pings


@BOTH
def test_silence_is_filled_with_pings_between_events_only(protocol):
    stream, begin, ping = STREAMS[protocol], BEGIN[protocol], PING[Protocol(protocol)]
    half = begin[:-20]
    pause = 0.26

    got = answer(
        pause,  # before the head
        EVENTS,
        pause,  # before the first event
        chunked(half, end=b""),
        pause,  # inside an event
        chunked(stream[len(half) :]),
        protocol=protocol,
        ping_after_s=0.1,
    )

    parts = bytes(got.stream).split(ping)
    assert got.error is None
    assert b"".join(parts) == stream.replace(ping, b"")
    own_pings = stream.count(ping)
    assert 5 <= len(parts) - 1 - own_pings <= 7
    assert got.stream.startswith(ping)
    assert CHECKS[protocol](bytes(got.stream)).pings >= 5


def test_no_ping_where_events_keep_coming():
    begin = BEGIN["anthropic"]
    steps = [step for _ in range(8) for step in (chunked(b": x\n\n", end=b""), 0.04)]
    rest = chunked(MESSAGES.removeprefix(begin))

    got = answer(EVENTS, chunked(begin, end=b""), *steps, rest, ping_after_s=0.15)

    assert bytes(got.stream) == begin + b": x\n\n" * 8 + MESSAGES.removeprefix(begin)


@BOTH
@pytest.mark.parametrize(
    "end",
    [[b"HTTP/1.1 529 Overloaded\r\ncontent-length: 0\r\n\r\n"], [RST], [EVENTS, FIN]],
    ids=["status", "reset", "cut"],
)
def test_an_error_after_a_ping_follows_it(protocol, end):
    got = answer(0.15, *end, protocol=protocol, ping_after_s=0.1)

    assert bytes(got.stream) == PING[Protocol(protocol)]
    assert got.error is not None
    assert got.relay.has_delivered


# backpressure


def test_a_client_that_reads_nothing_slows_the_provider_and_then_gets_everything():
    delta = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"text_delta","text":"' + b"x" * 20_000 + b'"}}\n\n'
    )
    count = 50_000_000 // len(delta)
    steps = [chunked(delta, end=b"")] * count
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    async def scenario():
        async with upstream([EVENTS, *steps, chunked(stop)]) as server:
            client = client_for(server)
            relay, task = start(client)
            await until(lambda: server.sent > 500_000)
            sent = -1
            while sent != server.sent:  # until the provider can send no more
                sent = server.sent
                await asyncio.sleep(0.05)
            held = relay.handoff._size
            got = await read(relay)
            await task
            open_count = client.pool.open_count
            await client.close()
        return sent, held, got, open_count

    sent, held, got, open_count = run(scenario())

    assert held <= 128 * 1024 + 256 * 1024 + len(delta)
    assert sent < 10_000_000  # the rest is in the kernel's buffers
    assert got.error is None
    assert len(got.stream) == count * len(delta) + len(stop)
    assert got.stream == delta * count + stop
    assert open_count == 1


def test_a_slow_client_never_touches_a_connection_that_carries_another_exchange():
    """The first answer waits unread above the limit while its connection serves a second."""
    body = b"".join(b": %06d\n\n" % at for at in range(30_000)) + MESSAGES

    async def scenario():
        async with upstream([EVENTS + chunked(body)], events(MESSAGES)) as server:
            client = client_for(server)
            slow, first = start(client)
            while not first.done():  # reads the least that lets the answer come in whole
                await asyncio.sleep(0.01)
                if slow.handoff._paused and not first.done():
                    first_part = await slow.handoff.get()
            second = await relayed(client)
            rest = await read(slow)
            third = await relayed(client)
            counts = server.accepted, client.pool.open_count
            await client.close()
        return first_part + bytes(rest.stream), second, third, counts

    first, second, third, counts = run(scenario())

    assert first.endswith(MESSAGES)
    assert (second.error, third.error) == (None, None)
    assert bytes(second.stream) == bytes(third.stream) == MESSAGES
    assert counts == (1, 1)
