"""One connection against scripted servers: framing, reuse, hostile answers, its end."""

import asyncio

import pytest
from support.exchanges import OK, answer, error_of, exchange
from support.raw_upstream import (
    CHUNKED,
    EARLY,
    FIN,
    HANG,
    QUICK,
    RST,
    Recorder,
    chunked,
    request,
    run,
    sized,
    until,
    upstream,
)

from server.errors import UpstreamError
from server.upstream.pool import Pool


def whole(data):
    """Cut bytes into single ones, all of them steps of a script."""
    return [data[at : at + 1] for at in range(len(data))]


# bodies


@pytest.mark.parametrize(
    "script",
    [
        [sized(b'{"a": 1}')],
        whole(sized(b'{"a": 1}')),
        [CHUNKED, chunked(b'{"a"', b": 1}")],
        whole(CHUNKED + chunked(b'{"a"', b": 1}")),
        [CHUNKED, b'8;ext=1\r\n{"a": 1}\r\n0\r\ntrailer: x\r\n\r\n'],
        [b'HTTP/1.1 200 OK\r\n\r\n{"a"', 0.01, b": 1}", FIN],
        [b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}', FIN],
    ],
    ids=["length", "length in bits", "chunked", "chunked in bits", "trailer", "closing", "1.0"],
)
def test_a_whole_body_arrives_however_it_is_delimited(script):
    sink = answer(*script)

    assert (sink.head.status, bytes(sink.data), sink.ends) == (200, b'{"a": 1}', [None])


@pytest.mark.parametrize(
    "script",
    [
        [CHUNKED, chunked(b"abc", end=b""), FIN],
        [CHUNKED, b"10\r\nabc", FIN],
        [CHUNKED, chunked(b"abc", end=b"0\r\n"), FIN],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", FIN],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", 0.05, RST],
        [b"HTTP/1.1 200 OK\r\n\r\nabc", 0.05, RST],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc", FIN],
    ],
    ids=["no last chunk", "in a chunk", "in the last", "short", "short, reset", "reset", "coded"],
)
def test_a_body_that_ends_early_is_a_cut(script):
    sink = answer(*script)

    assert bytes(sink.data) == b"abc"
    assert error_of(sink) == (UpstreamError, "The provider cut its answer short.")


def test_answers_without_a_body_are_whole():
    sinks, accepted, _ = exchange(b"HTTP/1.1 204 No Content\r\n\r\n", OK, times=2)

    assert [sink.head.status for sink in sinks] == [204, 200]
    assert accepted == 1


def test_header_names_are_lower_case_and_repeated_headers_stay():
    sink = answer(sized(b"", "X-A: 1", "x-a:  2", "Empty:"))

    assert sink.head.headers[:3] == [(b"x-a", b"1"), (b"x-a", b"2"), (b"empty", b"")]
    assert (sink.head.get(b"x-a"), sink.head.get(b"none")) == (b"1", None)


# reuse


@pytest.mark.parametrize(
    "first",
    [
        OK,
        CHUNKED + chunked(b"a"),
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_a_connection_is_reused_after_a_clean_answer(first):
    _, accepted, open_count = exchange(first, times=3)

    assert (accepted, open_count) == (1, 1)


@pytest.mark.parametrize(
    "first",
    [
        sized(b"{}", "connection: close"),
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        OK + b"x",
        OK + b"HTTP",
        OK + OK,
        OK + sized(b"", status="404 No"),
        CHUNKED + chunked(b"{}") + OK,
    ],
    ids=["close", "1.0", "a byte", "a beginning", "an answer", "an empty answer", "chunked"],
)
def test_a_connection_is_not_reused_after(first):
    sinks, accepted, _ = exchange(first, OK, times=2, settle=True)

    assert [bytes(sink.data) for sink in sinks] == [b"{}", b"{}"]
    assert [sink.ends for sink in sinks] == [[None], [None]]
    assert accepted == 2


@pytest.mark.parametrize("coding", [b"chunked", b"gzip", b"identity", b""])
@pytest.mark.parametrize("is_first", [False, True])
def test_content_length_beside_transfer_encoding_is_no_http(coding, is_first):
    """Two lengths for one body: another reader on the way could see another end."""
    lines = [b"content-length: 3\r\n", b"transfer-encoding: " + coding + b"\r\n"]
    both = b"HTTP/1.1 200 OK\r\n" + b"".join(reversed(lines) if is_first else lines) + b"\r\n"
    sinks, accepted, _ = exchange(both + chunked(b"abc"), OK, times=2, settle=True)

    assert error_of(sinks[0]) == (UpstreamError, "The provider broke HTTP in its answer.")
    assert (sinks[1].ends, accepted) == ([None], 2)


def test_bytes_while_idle_end_the_connection():
    sinks, accepted, _ = exchange([OK, 0.02, b"HTTP/1.1 200 OK\r\n"], OK, times=1)
    assert (sinks[0].ends, accepted) == ([None], 1)

    async def scenario():
        pool, go = Pool(), asyncio.Event()
        async with upstream([OK, go, sized(b"stale")], [OK]) as server:
            first, second = Recorder(), Recorder()
            await pool.send(server.origin, first, *request(), QUICK)
            await first.over
            assert pool.open_count == 1
            go.set()
            await until(lambda: pool.open_count == 0)
            await pool.send(server.origin, second, *request(), QUICK)
            await second.over
            await pool.close()
        return first, second, server.accepted

    first, second, accepted = run(scenario())
    assert (bytes(first.data), bytes(second.data), accepted) == (b"{}", b"{}", 2)


def test_a_connection_is_not_reused_when_the_answer_came_before_the_request_was_out():
    refusal = sized(b"{}", status="413 Too Large")
    sinks, accepted, open_count = exchange([EARLY, refusal, HANG], body=bytes(20_000_000))

    assert (sinks[0].head.status, sinks[0].ends) == (413, [None])
    assert (accepted, open_count) == (1, 0)


# before the answer


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 100 Continue\r\n\r\n" + OK],
        [b"HTTP/1.1 100 Continue\r\n\r\n", 0.01, OK],
        whole(b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
        [b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK],
    ],
)
def test_interim_answers_are_passed_over(script):
    sinks, accepted, _ = exchange(script, OK, times=2)

    assert (sinks[0].head.status, bytes(sinks[0].data), accepted) == (200, b"{}", 1)
    assert sinks[0].head.get(b"link") is None


def test_switching_protocols_is_refused():
    sink = answer(b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", HANG)

    assert error_of(sink) == (UpstreamError, "The provider broke HTTP in its answer.")


# hostile answers


@pytest.mark.parametrize(
    "garbage",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
        b"<html>no</html>",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        CHUNKED + b"2\r\nabcd\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_what_is_not_http_fails(garbage):
    sinks, _, open_count = exchange([garbage, HANG])

    assert error_of(sinks[0]) == (UpstreamError, "The provider broke HTTP in its answer.")
    assert open_count == 0


def test_what_came_before_broken_framing_is_still_told():
    sink = answer(CHUNKED + chunked(b"abc", end=b"zz\r\n"), HANG)

    assert bytes(sink.data) == b"abc"
    assert error_of(sink)[1] == "The provider broke HTTP in its answer."


@pytest.mark.parametrize("more", [[FIN], [RST], [b"HTTP/1.1 200 OK\r\nx-a: ", FIN]])
def test_no_answer_on_a_fresh_connection_is_not_called_stale(more):
    sink = answer(*more)

    assert error_of(sink) == (
        UpstreamError,
        "The provider closed the connection without an answer.",
    )


@pytest.mark.parametrize("line", [b"x-a: " + b"b" * 40_000, b"x-a: b\r\n" * 4_999 + b"x-a: b"])
def test_endless_headers_fail(line):
    flood = [line + b"\r\n"] * 20
    sinks, _, open_count = exchange([b"HTTP/1.1 200 OK\r\n", *flood, HANG])

    assert error_of(sinks[0]) == (
        UpstreamError,
        "The provider sent endless response headers.",
    )
    assert open_count == 0


def test_endless_interim_answers_fail():
    sink = answer(*[b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 1000] * 10, HANG)

    assert error_of(sink)[1] == "The provider sent endless response headers."


def test_trailers_are_no_headers():
    sink = answer(CHUNKED, b"0\r\n", *[b"x-a: b\r\n" * 1000] * 5, b"\r\n")

    assert (sink.ends, sink.head.headers) == ([None], [(b"transfer-encoding", b"chunked")])


# the end of an exchange


def test_aborting_closes_at_once_and_tells_the_sink_nothing():
    async def scenario():
        pool, sink = Pool(), Recorder()
        async with upstream([CHUNKED, chunked(b"a", end=b""), HANG]) as server:
            connection = await pool.send(server.origin, sink, *request(), QUICK)
            await until(lambda: sink.data)
            connection.abort()
            connection.abort()
            connection.pause()
            connection.resume()
            await until(lambda: pool.open_count == 0 and server.open == 0, 2)
        return sink.ends

    assert run(scenario()) == []


def test_a_paused_connection_that_ends_goes_back_reading():
    """Its answer is complete in what was read already; the next one must not hang."""

    async def scenario():
        pool = Pool()
        async with upstream([OK]) as server:
            first, second = Recorder(), Recorder()
            connection = await pool.send(server.origin, first, *request(), QUICK)
            first.on_head = lambda head: connection.pause()
            await asyncio.wait_for(first.over, 5)
            await pool.send(server.origin, second, *request(), QUICK)
            error = await asyncio.wait_for(second.over, 5)
            await pool.close()
        return error, server.accepted

    assert run(scenario()) == (None, 1)
