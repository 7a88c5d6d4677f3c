"""How a relayed stream ends: whole, cut, with an error event, or in what is no stream at all."""

import time

import pytest
from support.raw_upstream import EVENTS, FIN, HANG, RST, chunked, run
from support.relays import (
    BEGIN,
    BOTH,
    CHAT,
    CHECKS,
    HEAD,
    MESSAGES,
    STREAMS,
    Relayed,
    answer,
    events,
    metered,
    read,
    relay_for,
)

from server.errors import UpstreamError
from server.upstream.attempt import LINGER_S

PAGE = b"<html>\r\n<body>\r\n502 Bad Gateway\r\n</body>\r\n</html>\r\n"


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


def test_what_a_relay_is_told_after_its_end_changes_nothing():
    async def scenario():
        relay = relay_for("anthropic")
        attempt = relay.attempt
        attempt.on_head(HEAD)
        attempt.on_data(MESSAGES)
        attempt.on_end(None)
        attempt.on_data(MESSAGES)
        attempt.on_end(UpstreamError("late"))
        relay.release(await attempt.over)
        relay.release(UpstreamError("later"))
        return await read(relay)

    got = run(scenario())

    assert isinstance(got, Relayed)
    assert (bytes(got.stream), got.error) == (MESSAGES, None)
