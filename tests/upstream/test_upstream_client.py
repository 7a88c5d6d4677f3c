"""Requests as they leave, retries, and everything a provider may answer instead of an answer."""

import asyncio
import gzip
import json
import time
from contextlib import suppress

import pytest
from support.raw_upstream import (
    CHUNKED,
    DEAF,
    EARLY,
    EVENTS,
    FIN,
    HANG,
    RST,
    chunked,
    run,
    sized,
    until,
    upstream,
)
from support.relays import BEGIN, client_for, relayed, start

from server.config.schema import Timeouts
from server.errors import (
    GatewayError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)

BODY = json.dumps({"type": "message", "usage": {"input_tokens": 3, "output_tokens": 5}}).encode()
OK = sized(BODY)


def answers(*scripts, times=1, **options):
    """Ask `times` times for whole answers; give what came, and the server."""

    async def scenario():
        async with upstream(*scripts) as server:
            client = client_for(server, timeouts=options.pop("timeouts", Timeouts()))
            got = [await relayed(client, streaming=False, **options) for _ in range(times)]
            assert client.pool.busy_count == 0
            await client.close()
            await until(lambda: server.open == 0)
        return got, server

    return run(scenario())


def answer(*script, **options):
    return answers(list(script), **options)[0][0]


# the request


@pytest.mark.parametrize(
    ("protocol", "path", "secret"),
    [
        ("anthropic", b"POST /v1/messages HTTP/1.1", b"x-api-key: sk-fake-upstream-key"),
        (
            "openai",
            b"POST /chat/completions HTTP/1.1",
            b"authorization: Bearer sk-fake-upstream-key",
        ),
    ],
)
def test_the_request_leaves_as_configured_and_asks_for_no_compression(protocol, path, secret):
    async def scenario():
        async with upstream(OK) as server:
            client = client_for(server, protocol=protocol)
            await relayed(client, protocol=protocol, streaming=False, body=b'{"a": 1.10}')
            await client.close()
        return server

    server = run(scenario())
    (head, body), host = server.requests[0], f"host: 127.0.0.1:{server.port}".encode()

    assert body == b'{"a": 1.10}'
    assert head.split(b"\r\n") == [
        path,
        host,
        b"accept-encoding: identity",
        b"content-type: application/json",
        b"user-agent: gatewayctl",
        b"x-extra: 1",
        secret,
        b"anthropic-version: 2023-06-01",
        b"x-request-id: req_test",
        b"content-length: 11",
        b"",
        b"",
    ]


def test_a_whole_answer_is_given_and_metered():
    got = answer(OK)

    assert (bytes(got.stream), got.error) == (BODY, None)
    assert (got.usage.input_tokens, got.usage.output_tokens) == (3, 5)


# stale connections


@pytest.mark.parametrize("end", [FIN, RST])
@pytest.mark.parametrize("size", [2, 3_000_000])
def test_a_stale_connection_is_tried_again_once_on_a_new_one(end, size):
    """It closes with the second request on its way; the third connection is never stale."""
    got, server = answers([OK], [end], [OK], times=2, body=bytes(size))

    assert [each.error for each in got] == [None, None]
    assert [bytes(each.stream) for each in got] == [BODY, BODY]
    assert (server.accepted, len(server.requests)) == (2, 3)


def test_the_second_try_does_not_take_the_next_idle_connection():
    """A provider that restarted has closed them all."""

    async def scenario():
        both = asyncio.Event()
        async with upstream([both, OK], [both, OK], [FIN], [OK]) as server:
            client = client_for(server)
            asked = [asyncio.create_task(relayed(client, streaming=False)) for _ in range(2)]
            await until(lambda: len(server.requests) == 2)
            both.set()
            await asyncio.gather(*asked)
            got = await relayed(client, streaming=False)
            await client.close()
        return got.error, server.accepted

    assert run(scenario()) == (None, 3)


def test_a_second_failure_is_not_tried_again():
    got, server = answers([OK], [FIN], [FIN], times=2)

    assert str(got[1].error) == "The provider closed the connection without an answer."
    assert len(server.requests) == 3


@pytest.mark.parametrize("end", [FIN, RST])
def test_a_fresh_connection_that_closes_is_not_tried_again(end):
    got, server = answers([end], [OK])

    assert type(got[0].error) is UpstreamError
    assert len(server.requests) == 1


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED])
def test_nothing_is_tried_again_after_a_byte_of_the_answer(first):
    got, server = answers([OK], [first, 0.02, FIN], [OK], times=2)

    assert type(got[1].error) is UpstreamError
    assert len(server.requests) == 2


def test_a_timeout_is_not_tried_again():
    fast = Timeouts(connect_s=1, first_byte_s=0.1, idle_s=0.1, write_s=0.1)
    got, server = answers([OK], [HANG], [OK], times=2, timeouts=fast)

    assert type(got[1].error) is UpstreamTimeout
    assert len(server.requests) == 2


# other answers


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(status):
    got, server = answers(sized(b"", "location: http://127.0.0.1:1/x", status=status))

    assert (type(got[0].error), got[0].error.http_status) == (UpstreamError, 502)
    assert "127.0.0.1" not in str(got[0].error)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "error", "http_status"),
    [
        ("201 Created", UpstreamError, 502),
        ("204 No Content", UpstreamError, 502),
        ("401 Unauthorized", UpstreamError, 502),
        ("403 Forbidden", UpstreamError, 502),
        ("404 Not Found", UpstreamError, 502),
        ("408 Timeout", UpstreamTimeout, 504),
        ("429 Too Many", UpstreamRefused, 429),
        ("500 Error", UpstreamError, 502),
        ("503 Unavailable", UpstreamOverloaded, 529),
        ("529 Overloaded", UpstreamOverloaded, 529),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_statuses_become_errors(status, error, http_status, streaming):
    body = b'{"error":{"type":"x_error","message":"about sk-fake-0123456789"}}'
    reply = sized(b"" if status.startswith("204") else body, "retry-after: 7", status=status)

    async def scenario():
        async with upstream(reply) as server:
            client = client_for(server)
            got = await relayed(client, streaming=streaming)
            open_count = client.pool.open_count
            await client.close()
        return got, open_count

    got, open_count = run(scenario())

    assert (type(got.error), got.error.http_status, got.error.retry_after_s) == (
        error,
        http_status,
        7,
    )
    assert "sk-fake" not in str(got.error)
    assert (bytes(got.stream), open_count) == (b"", 1)


def test_interim_answers_are_passed_over():
    assert bytes(answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK).stream) == BODY


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ([sized(b"<html>")], "is not JSON"),
        ([sized(b"[]")], "is not"),
        ([sized(b"")], "is not JSON"),
        ([EVENTS, chunked(b"data: {}\n\n")], "is not JSON"),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:-5], FIN], "is not JSON"),
        ([sized(BODY)[:-5], FIN], "cut its answer short"),
    ],
)
def test_what_is_no_whole_answer_is_an_error(script, sentence):
    got = answer(*script)

    assert type(got.error) is UpstreamError
    assert sentence in str(got.error)


def test_a_close_delimited_whole_answer_passes():
    assert bytes(answer(b"HTTP/1.1 200 OK\r\n\r\n" + BODY, FIN).stream) == BODY


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP "])
def test_a_compressed_answer_is_inflated(encoding):
    got = answer(sized(gzip.compress(BODY), f"content-encoding: {encoding}"))

    assert (bytes(got.stream), got.error) == (BODY, None)
    assert got.usage.output_tokens == 5


def test_truncated_and_unknown_compression_and_bombs_are_errors():
    packed = gzip.compress(BODY)
    sentences = [
        str(answer(sized(data, f"content-encoding: {encoding}")).error)
        for data, encoding in (
            (packed[:-1], "gzip"),
            (BODY, "gzip"),
            (packed, "br"),
            (gzip.compress(b" " * (16 << 20)), "gzip"),
        )
    ]

    assert sentences == [
        "The provider cut its answer short.",
        "The provider's compressed answer is damaged.",
        "The provider compressed its answer in a way nobody asked for.",
        "The provider's answer inflates beyond all measure.",
    ]


def test_an_answer_beyond_the_limit_is_refused():
    flood = [chunked(bytes(1 << 20), end=b"")] * 66

    got = answer(CHUNKED, *flood, HANG)

    assert str(got.error) == "The provider's answer is larger than the gateway takes."


# timeouts


@pytest.mark.parametrize(
    ("script", "body"),
    [([HANG], b"{}"), ([EVENTS, HANG], b"{}"), ([DEAF, HANG], b"{}")],
)
def test_timeouts_become_504(script, body):
    fast = Timeouts(connect_s=1, first_byte_s=0.1, idle_s=0.1, write_s=0.1)
    begun = time.monotonic()

    got = answer(*script, body=body, timeouts=fast)

    assert (type(got.error), got.error.http_status) == (UpstreamTimeout, 504)
    assert time.monotonic() - begun < 2


# cancelling


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    "moment", ["connecting", "writing", "before the head", "amid the body", "paused"]
)
def test_a_cancelled_request_closes_its_connection_at_once(moment, twice):
    flood = [chunked(b": " + bytes(65_534 - 2) + b"\n\n", end=b"")] * 300
    script, body = {
        "connecting": ([HANG], b"{}"),
        "writing": ([EARLY, 0.2, HANG], bytes(5_000_000)),
        "before the head": ([HANG], b"{}"),
        "amid the body": ([EVENTS, chunked(BEGIN["anthropic"], end=b""), HANG], b"{}"),
        "paused": ([EVENTS, *flood, HANG], b"{}"),
    }[moment]

    async def scenario():
        async with upstream(script) as server:
            client = client_for(server)
            relay, task = start(client, body=body)
            reached = {
                "connecting": lambda: True,
                "writing": lambda: server.requests,
                "before the head": lambda: server.requests,
                "amid the body": lambda: relay.has_delivered,
                "paused": lambda: relay.handoff._paused,
            }[moment]
            await asyncio.sleep(0)
            await until(reached)
            task.cancel()
            if twice:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            busy = client.pool.busy_count
            await until(lambda: client.pool.open_count == 0 and server.open == 0, 2)
            await client.close()
        return busy

    assert run(scenario()) <= 1


def test_many_requests_cancelled_in_every_turn_of_the_loop_leave_no_connection():
    async def scenario():
        async with upstream([EVENTS, 0.005, chunked(b": x\n\n", end=b""), HANG]) as server:
            client = client_for(server)
            for turns in range(30):
                _, task = start(client)
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                task.cancel()
                with suppress(asyncio.CancelledError, GatewayError):
                    await task
            await until(lambda: client.pool.open_count == 0 and server.open == 0, 2)
            busy = client.pool.busy_count
            await client.close()
            return busy, len(server.requests)

    busy, reached = run(scenario())

    assert busy == 0
    assert 0 < reached < 30  # some were cancelled before they left, and some behind that
