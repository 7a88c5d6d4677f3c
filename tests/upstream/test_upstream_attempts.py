"""Attempts: until the first content nothing of them is given, so that another may follow."""

import asyncio

import pytest
from support.chunkings import chunkings
from support.raw_upstream import EVENTS, FIN, RST, chunked, run, sized, until, upstream
from support.relays import (
    BEGIN,
    BOTH,
    CHAT,
    CHECKS,
    DELTA,
    FRAME,
    HEAD,
    MESSAGES,
    STREAMS,
    answer,
    client_for,
    dispatch,
    ended,
    events,
    feed,
    read,
    relay_for,
)

from server.errors import (
    GatewayError,
    InsufficientBalance,
    UpstreamError,
    UpstreamOverloaded,
)
from server.protocols import Protocol
from server.protocols.by_protocol import PING
from server.protocols.translation import Context, ways
from server.protocols.usage import Usage
from server.upstream.attempt import FRAME_LIMIT_BYTES
from server.upstream.handoff import HIGH_BYTES

ERROR = {
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"x"}}\n\n',
    "openai": b'data: {"error":{"message":"x","type":"overloaded","code":null}}\n\n',
}
EMPTY = {
    "anthropic": FRAME["anthropic"]
    + b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    + MESSAGES[MESSAGES.index(b"event: message_delta") :],
    "openai": FRAME["openai"] + CHAT[CHAT.index(b"data: [DONE]") :],
}
STOPPED = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


class Line:
    """A connection that notes what is done to it."""

    def __init__(self):
        self.calls = []

    def pause(self):
        self.calls.append("pause")

    def resume(self):
        self.calls.append("resume")

    def abort(self):
        self.calls.append("abort")


def whole(protocol, *pieces, **options):
    """Relay pieces without a network; give what the client got, and how often content began."""

    async def scenario():
        relay, begun = relay_for(protocol, **options), []
        relay.attempt.on_content = lambda: begun.append(relay.has_delivered)
        feed(relay.attempt, *pieces)
        relay.attempt.on_end(None)
        return await ended(relay), begun

    return run(scenario())


# the frame


@BOTH
def test_the_frame_waits_for_content_and_then_all_goes_byte_for_byte(protocol):
    stream, frame = STREAMS[protocol], FRAME[protocol]

    async def scenario(pieces):
        relay, received = relay_for(protocol), 0
        relay.attempt.on_head(HEAD)
        for piece in pieces:
            relay.attempt.on_data(piece)
            received += len(piece)
            assert relay.has_delivered is relay.attempt.has_content
            assert received > len(frame) or not relay.has_delivered
        relay.attempt.on_end(None)
        return await ended(relay)

    for way, pieces in chunkings(stream).items():
        got = run(scenario(pieces))
        assert (bytes(got.stream), got.error) == (stream, None), way


@BOTH
def test_content_begins_once(protocol):
    for way, pieces in chunkings(STREAMS[protocol]).items():
        # In one packet with the end it may wait for that, and is content all the same.
        waits = way == "whole" and protocol == "openai"
        assert whole(protocol, *pieces)[1] == ([] if waits else [False]), way


@BOTH
@pytest.mark.parametrize("size", [None, 1, 100])
def test_a_stream_that_ends_without_content_is_whole(protocol, size):
    stream = EMPTY[protocol]

    got = answer(*events(stream, size), protocol=protocol)

    assert (bytes(got.stream), got.error) == (stream, None)


def test_a_chat_stream_without_content_may_lack_its_done():
    stream = FRAME["openai"] + STOPPED

    got, begun = whole("openai", FRAME["openai"], STOPPED)

    assert (bytes(got.stream), got.error, begun) == (stream, None, [])


@BOTH
def test_pings_do_not_wait_with_the_frame(protocol):
    stream, frame, ping = STREAMS[protocol], FRAME[protocol], PING[Protocol(protocol)]

    async def scenario():
        relay = relay_for(protocol, ping_after_s=0.03)
        feed(relay.attempt, frame)
        await until(lambda: relay.has_delivered)
        had_content = relay.attempt.has_content
        relay.attempt.on_data(stream[len(frame) :])
        relay.attempt.on_end(None)
        return had_content, await ended(relay)

    had_content, got = run(scenario())

    count = got.stream.count(ping) - stream.count(ping)
    assert (had_content, got.error) == (False, None)
    assert count > 0
    assert bytes(got.stream) == ping * count + stream
    CHECKS[protocol](bytes(got.stream))


@BOTH
def test_a_frame_beyond_the_limit_waits_no_longer(protocol):
    comment = b": " + b"x" * 996 + b"\n\n"
    count = FRAME_LIMIT_BYTES // len(comment) + 1

    async def scenario():
        relay = relay_for(protocol)
        feed(relay.attempt, *[comment] * (count - 1))
        before = relay.has_delivered
        relay.attempt.on_data(comment)
        after = relay.has_delivered, relay.attempt.has_content
        relay.attempt.on_data(STREAMS[protocol])
        relay.attempt.on_end(None)
        return before, after, await ended(relay)

    before, after, got = run(scenario())

    assert (before, after) == (False, (True, True))
    assert bytes(got.stream) == comment * count + STREAMS[protocol]


def test_a_frame_that_translates_to_nothing_is_bounded_too():
    context = Context(model="m", ident="1", created=1, input_tokens=5, names={})
    answers = ways.answers(
        Protocol.OPENAI, Protocol.ANTHROPIC, stream=True, streamed=True, context=context
    )
    ping = PING[Protocol.ANTHROPIC]

    got, begun = whole(
        "anthropic", *[ping] * (FRAME_LIMIT_BYTES // len(ping) + 1), MESSAGES, answers=answers
    )

    assert (got.error, len(begun)) == (None, 1)
    CHECKS["openai"](bytes(got.stream))


# errors


@BOTH
@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("is_joined", [True, False])
def test_an_error_event_before_content_is_an_error_and_no_event(protocol, has_begun, is_joined):
    begin, error = FRAME[protocol] * has_begun, ERROR[protocol]

    got, begun = whole(protocol, *([begin + error] if is_joined else [begin, error]))

    assert (bytes(got.stream), type(got.error), begun) == (b"", UpstreamOverloaded, [])
    with pytest.raises(GatewayError, match="overloaded"):
        got.relay.raise_early_error()


@BOTH
@pytest.mark.parametrize("is_joined", [True, False])
def test_an_error_event_behind_content_is_relayed_as_it_is(protocol, is_joined):
    begin, error = BEGIN[protocol], ERROR[protocol]

    got, _ = whole(protocol, *([begin + error] if is_joined else [begin, error]))

    assert (bytes(got.stream), got.error) == (begin + error, None)


@BOTH
@pytest.mark.parametrize("end", [[b"0\r\n\r\n"], [FIN], [0.02, RST], [chunked(b"data: {"), FIN]])
def test_a_cut_before_content_gives_not_one_byte(protocol, end):
    got = answer(EVENTS, chunked(FRAME[protocol], end=b""), *end, protocol=protocol)

    assert (bytes(got.stream), type(got.error)) == (b"", UpstreamError)
    assert not got.relay.has_delivered


# another attempt


FAILURES = {
    "status": lambda _: [sized(b"{}", status="529 Overloaded")],
    "reset": lambda _: [RST],
    "page": lambda _: [sized(b"<html>", "content-type: text/html")],
    "cut": lambda protocol: [EVENTS, chunked(FRAME[protocol], end=b""), FIN],
    "error": lambda protocol: [EVENTS, chunked(FRAME[protocol], ERROR[protocol])],
    "error first": lambda protocol: [EVENTS, chunked(ERROR[protocol])],
}


@BOTH
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("ping_after_s", [9, 0.05])
def test_behind_a_failed_attempt_the_client_gets_the_next_ones_bytes_alone(
    protocol, failure, ping_after_s
):
    stream, ping = STREAMS[protocol], PING[Protocol(protocol)]
    pause = 0.08 if ping_after_s < 1 else 0

    async def scenario():
        async with upstream([pause, *failure(protocol)], events(stream, 100)) as server:
            client = client_for(server, protocol=protocol)
            relay = relay_for(protocol, ping_after_s=ping_after_s)
            reading = asyncio.create_task(read(relay))
            first = await client.forward(dispatch(protocol), relay.attempt)
            had_content = relay.attempt.has_content
            relay.begin(Protocol(protocol))
            relay.release(await client.forward(dispatch(protocol), relay.attempt))
            got = await reading
            await client.close()
        return first, had_content, got

    first, had_content, got = run(scenario())

    pings = (got.stream.count(ping) - stream.count(ping)) * ping
    assert isinstance(first, GatewayError)
    assert (had_content, got.error) == (False, None)
    assert bytes(got.stream) == pings + stream
    assert bool(pings) is (ping_after_s < 1)
    assert got.relay.meter is got.relay.attempt.meter
    CHECKS[protocol](bytes(got.stream))


def test_an_old_attempt_never_touches_the_next_ones_connection():
    async def scenario():
        old, new = Line(), Line()
        relay = relay_for("anthropic")
        first = relay.attempt
        first.attach(old)
        second = relay.begin(Protocol.ANTHROPIC)
        second.attach(new)
        first.pause()
        first.resume()
        first.detach()
        first.on_end(UpstreamError("late"))
        first.detach()
        feed(second, DELTA * (HIGH_BYTES // len(DELTA) + 1))
        paused = list(new.calls)
        while relay.handoff.is_full:
            await relay.handoff.get()
        return old.calls, paused, new.calls

    assert run(scenario()) == (["pause", "resume", "abort"], ["pause"], ["pause", "resume"])


def test_a_connection_that_carries_another_exchange_is_left_alone():
    async def scenario():
        line, relay = Line(), relay_for("anthropic")
        relay.attempt.attach(line)
        feed(relay.attempt, MESSAGES)
        relay.attempt.on_end(None)
        relay.hold_back(is_on=True)
        relay.hold_back(is_on=False)
        relay.attempt.detach()
        return line.calls

    assert run(scenario()) == []


def test_what_is_held_back_before_it_has_left_is_not_read_until_it_may_be():
    async def scenario():
        line, relay = Line(), relay_for("anthropic")
        relay.hold_back(is_on=True)
        relay.attempt.attach(line)
        held = list(line.calls)
        relay.hold_back(is_on=False)
        return held, line.calls

    assert run(scenario()) == (["pause"], ["pause", "resume"])


def test_an_attempt_is_not_held_back_or_cut_because_an_earlier_one_was():
    async def scenario():
        line, relay = Line(), relay_for("anthropic")
        relay.hold_back(is_on=True)
        relay.cut(Usage(input_tokens=5), 1, InsufficientBalance("Top up."))
        was_cut = relay.was_cut
        first = await relay.attempt.over
        relay.begin(Protocol.ANTHROPIC).attach(line)
        return was_cut, type(first), relay.was_cut, line.calls

    assert run(scenario()) == (True, InsufficientBalance, False, [])


@BOTH
def test_a_stream_cut_before_its_content_ends_as_if_the_model_had_stopped(protocol):
    async def scenario():
        relay = relay_for(protocol)
        feed(relay.attempt, FRAME[protocol])
        relay.cut(Usage(input_tokens=5), 1, InsufficientBalance("Top up."))
        return await ended(relay)

    got = run(scenario())

    assert (got.error, got.stream.startswith(FRAME[protocol])) == (None, True)
    CHECKS[protocol](bytes(got.stream))
