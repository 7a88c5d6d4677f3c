"""The relay: the same bytes and usage however they came, pings between events, honest ends."""

import asyncio
import gzip
import time
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from support.raw_upstream import (
    EVENTS,
    FIN,
    HANG,
    RST,
    chunked,
    run,
    until,
    upstream,
)
from support.relays import Relayed, client_for, read, relayed, start
from support.validators import check_chat_stream, check_messages_stream

from server.errors import UpstreamError
from server.protocols import Protocol
from server.protocols.by_protocol import METER, PING
from server.upstream.connection import Head
from server.upstream.relay import LINGER_S, Relay

GOLDEN = sorted((Path(__file__).parent.parent / "data").glob("*.sse"))
MESSAGES = (Path(__file__).parent.parent / "data" / "messages_text.sse").read_bytes()
CHAT = (Path(__file__).parent.parent / "data" / "chat_text.sse").read_bytes()
STREAMS = {"anthropic": MESSAGES, "openai": CHAT}
CHECKS = {"anthropic": check_messages_stream, "openai": check_chat_stream}
BEGIN = {
    "anthropic": b"".join(piece + b"\n\n" for piece in MESSAGES.split(b"\n\n")[:4]),
    "openai": b"".join(piece + b"\n\n" for piece in CHAT.split(b"\n\n")[:4]),
}
PAGE = b"<html>\r\n<body>\r\n502 Bad Gateway\r\n</body>\r\n</html>\r\n"
HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
BOTH = pytest.mark.parametrize("protocol", ["anthropic", "openai"])


def protocol_of(path):
    return "anthropic" if path.name.startswith("messages") else "openai"


def metered(stream, protocol):
    meter = METER[Protocol(protocol)]()
    meter.feed(stream)
    return meter.usage, meter.stop_reason, meter.error


def answer(*script, protocol="anthropic", **options):
    """Relay one streamed answer that plays `script`; nothing may stay open behind it."""

    async def scenario():
        async with upstream(list(script)) as server:
            client = client_for(server, protocol=protocol)
            got = await relayed(client, protocol=protocol, **options)
            assert client.pool.busy_count == 0
            await client.close()
            await until(lambda: server.open == 0)
        return got

    return run(scenario())


def events(stream, size=None):
    """Play `stream` in chunks of `size` bytes, then end it."""
    size = size or len(stream)
    return [EVENTS, chunked(*(stream[at : at + size] for at in range(0, len(stream), size)))]


# any chunking


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_any_cut_gives_the_client_the_same_bytes_and_the_row_the_same_usage(path, line_end):
    stream, protocol = path.read_bytes().replace(b"\n", line_end), protocol_of(path)
    wanted = metered(path.read_bytes(), protocol)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    async def through(pieces):
        relay = Relay(Protocol(protocol), streaming=True)
        relay.on_head(HEAD)
        for piece in pieces:
            relay.on_data(piece)
        relay.on_end(None)
        relay.release(await relay.over)
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
    begin = BEGIN[protocol]
    slow = begin[:600].rpartition(b"\n\n")[0] + b"\n\n"
    drips = [step for at in range(len(slow)) for step in (slow[at : at + 1], 0.001)]
    chunks = [chunked(step, end=b"") if isinstance(step, bytes) else step for step in drips]

    got = answer(EVENTS, *chunks, chunked(stream[len(slow) :]), protocol=protocol)

    assert bytes(got.stream) == stream
    assert all(piece.endswith(b"\n\n") for piece in got.pieces)
    assert len(got.pieces) > 1


# how it ends


@BOTH
@pytest.mark.parametrize(
    "end",
    [
        [b"0\r\n\r\n"],
        [FIN],
        [0.05, RST],
        [chunked(b"event: content_block_delta\ndata: {"), FIN],
        [chunked(b'data: {"a":{"b":1}\n'), FIN],
    ],
    ids=["clean", "closed", "reset", "inside an event", "torn but looking whole"],
)
def test_a_stream_without_its_terminal_event_ends_in_an_error(protocol, end):
    begin = BEGIN[protocol]

    got = answer(EVENTS, chunked(begin, end=b""), *end, protocol=protocol)

    assert (bytes(got.stream), type(got.error)) == (begin, UpstreamError)
    assert str(got.error) in (
        "The provider cut its stream before the end.",
        "The provider cut its answer short.",
    )


def test_a_close_delimited_stream_ends_well_with_its_terminal_event():
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"

    whole = answer(head, MESSAGES, FIN)
    cut = answer(head, BEGIN["anthropic"], FIN)

    assert (bytes(whole.stream), whole.error) == (MESSAGES, None)
    assert str(cut.error) == "The provider cut its stream before the end."


@pytest.mark.parametrize("framed", [True, False], ids=["framed", "closed"])
def test_a_chat_stream_may_lack_its_done_once_it_said_why_it_stopped(framed):
    """Compatible servers leave it out, and the SDKs take the end of the stream for it."""
    stream = CHAT.removesuffix(b"data: [DONE]\n\n")
    head = EVENTS.replace(b"transfer-encoding: chunked\r\n", b"")
    script = [EVENTS, chunked(stream)] if framed else [head, stream, FIN]

    got = answer(*script, protocol="openai")

    assert (bytes(got.stream), got.error) == (stream, None)
    assert got.usage == metered(CHAT, "openai")[0]


def test_a_chat_stream_that_is_reset_without_its_done_was_cut():
    stream = CHAT.removesuffix(b"data: [DONE]\n\n")

    got = answer(EVENTS, chunked(stream, end=b""), 0.05, RST, protocol="openai")

    assert (bytes(got.stream), type(got.error)) == (stream, UpstreamError)


@BOTH
def test_the_last_event_may_lack_its_blank_line(protocol):
    stream = STREAMS[protocol]

    got = answer(*events(stream[:-2]), protocol=protocol)

    assert (bytes(got.stream), got.error) == (stream, None)


@BOTH
@pytest.mark.parametrize("end", [[HANG], [FIN], [0.05, RST]], ids=["open", "fin", "rst"])
def test_behind_the_terminal_event_it_does_not_matter_how_the_connection_ends(protocol, end):
    stream = STREAMS[protocol]
    begun = time.monotonic()

    got = answer(EVENTS, chunked(stream, end=b""), *end, protocol=protocol)

    assert (bytes(got.stream), got.error) == (stream, None)
    assert time.monotonic() - begun < LINGER_S + 1


@BOTH
@pytest.mark.parametrize("gap", [b"", b"0\r\n"])
def test_what_follows_the_terminal_event_is_not_relayed(protocol, gap):
    stream = STREAMS[protocol]

    joined = answer(*events(stream + BEGIN[protocol]), protocol=protocol)
    later = answer(
        EVENTS,
        chunked(stream, end=b""),
        0.02,
        chunked(BEGIN[protocol], PAGE, end=gap),
        FIN,
        protocol=protocol,
    )

    assert (bytes(joined.stream), joined.error) == (stream, None)
    assert (bytes(later.stream), later.error) == (stream, None)


@BOTH
def test_an_error_event_ends_the_stream_with_its_secrets_masked(protocol):
    begin = BEGIN[protocol]
    error = {
        "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        b'"message":"key %b failed"}}\n\n',
        "openai": b'data: {"error":{"message":"key %b failed","type":"server_error",'
        b'"param":null,"code":null}}\n\n',
    }[protocol]

    got = answer(
        EVENTS,
        chunked(begin, error % b"sk-fake-0123456789", begin, end=b""),
        HANG,
        protocol=protocol,
    )

    assert bytes(got.stream) == begin + error % b"[redacted]"
    assert got.error is None
    assert got.relay.meter.error.message == "key sk-fake-0123456789 failed"
    CHECKS[protocol](bytes(got.stream))


@BOTH
def test_garbage_in_a_stream_never_reaches_the_client(protocol):
    stream, begin = STREAMS[protocol], BEGIN[protocol]
    rest = stream[len(begin) :]

    amid = answer(*events(begin + PAGE + b"\n" + rest), protocol=protocol)
    instead = answer(*events(begin + PAGE), protocol=protocol)

    assert (bytes(amid.stream), amid.error) == (stream, None)
    assert bytes(instead.stream) == begin
    assert str(instead.error) == "The provider cut its stream before the end."


def test_an_endless_line_is_an_error_with_bounded_memory():
    flood = [chunked(bytes(1 << 20), end=b"")] * 40

    got = answer(EVENTS, chunked(BEGIN["anthropic"], b"data: ", end=b""), *flood, HANG)

    assert bytes(got.stream) == BEGIN["anthropic"]
    assert "too large" in str(got.error)


@pytest.mark.parametrize("status", ["200 OK", "502 Bad Gateway"])
def test_a_page_in_place_of_a_stream_is_an_error(status):
    page = b"<html></html>"
    head = f"HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {len(page)}\r\n\r\n"

    got = answer(head.encode(), page)

    assert (bytes(got.stream), type(got.error)) == (b"", UpstreamError)
    assert "html" not in str(got.error)


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
    steps = [step for _ in range(8) for step in (chunked(b": x\n\n", end=b""), 0.04)]

    got = answer(EVENTS, *steps, chunked(MESSAGES), ping_after_s=0.15)

    assert bytes(got.stream) == b": x\n\n" * 8 + MESSAGES


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


def test_what_a_relay_is_told_after_its_end_changes_nothing():
    async def scenario():
        relay = Relay(Protocol.ANTHROPIC, streaming=True)
        relay.on_head(HEAD)
        relay.on_data(MESSAGES)
        relay.on_end(None)
        relay.on_data(MESSAGES)
        relay.on_end(UpstreamError("late"))
        relay.release(await relay.over)
        relay.release(UpstreamError("later"))
        return await read(relay)

    got = run(scenario())

    assert isinstance(got, Relayed)
    assert (bytes(got.stream), got.error) == (MESSAGES, None)
