"""The timeouts of one connection: each kind of silence ends it, slowness alone does not."""

import asyncio
import time

import pytest
from support.exchanges import OK, answer, error_of, exchange
from support.raw_upstream import (
    CHUNKED,
    DEAF,
    HANG,
    Recorder,
    chunked,
    request,
    run,
    until,
    upstream,
)

from server.config.schema import Timeouts
from server.errors import UpstreamTimeout
from server.upstream.pool import Pool

FAST = Timeouts(connect_s=2, first_byte_s=0.1, idle_s=0.1, write_s=0.1)


@pytest.mark.parametrize(
    ("script", "body", "message"),
    [
        ([HANG], b"{}", "The provider did not answer in time."),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", HANG], b"{}", "The provider did not answer in time."),
        ([b"HTTP/1.1 200 OK\r\nx", HANG], b"{}", "The provider did not answer in time."),
        (
            [CHUNKED, chunked(b"a", end=b""), HANG],
            b"{}",
            "The provider fell silent in the middle of its answer.",
        ),
        (
            [DEAF, asyncio.Event()],
            bytes(20_000_000),
            "The provider stopped reading the request.",
        ),
    ],
    ids=["first byte", "interim", "in the head", "in the body", "deaf"],
)
def test_silence_of_each_kind_has_its_own_error_and_ends_the_connection(script, body, message):
    sinks, _, open_count = exchange(script, timeouts=FAST, body=body)

    assert error_of(sinks[0]) == (UpstreamTimeout, message)
    assert open_count == 0


def test_a_head_in_drips_does_not_stretch_the_first_byte_timeout():
    drips = [step for _ in range(40) for step in (b"x", 0.03)]
    begun = time.monotonic()
    sink = answer(b"HTTP/1.1 200 OK\r\nx-a: ", *drips, HANG, timeouts=FAST)

    assert error_of(sink)[1] == "The provider did not answer in time."
    assert time.monotonic() - begun < 0.6


def test_a_slow_body_that_never_falls_silent_arrives():
    drips = [step for _ in range(10) for step in (chunked(b"a", end=b""), 0.03)]
    sink = answer(CHUNKED, *drips, b"0\r\n\r\n", timeouts=FAST)

    assert (bytes(sink.data), sink.ends) == (b"a" * 10, [None])


def test_a_slow_reader_of_a_big_request_is_not_cut_off_while_it_reads():
    """The write timeout is for no progress at all, and the first byte's begins behind it."""
    patient = Timeouts(connect_s=2, first_byte_s=0.5, idle_s=1, write_s=0.3)

    body = bytes(12_000_000)

    async def read_slowly(reader):
        left = len(request(body)[0]) + len(body)
        while left:
            left -= len(await reader.read(300_000))
            await asyncio.sleep(0.005)

    sink = answer(DEAF, read_slowly, OK, timeouts=patient, body=body)

    assert sink.ends == [None]


def test_the_idle_time_does_not_run_while_reading_is_paused():
    async def scenario():
        pool, sink, go = Pool(), Recorder(), asyncio.Event()
        script = [CHUNKED, chunked(b"a", end=b""), go, chunked(b"b")]
        async with upstream(script) as server:
            connection = await pool.send(server.origin, sink, *request(), FAST)
            await until(lambda: sink.data)
            connection.pause()
            connection.pause()
            await asyncio.sleep(0.35)  # what is proven: nothing happens in this time
            ended_early = sink.over.done()
            go.set()
            connection.resume()
            connection.resume()
            error = await asyncio.wait_for(sink.over, 5)
            await pool.close()
        return ended_early, error, bytes(sink.data)

    assert run(scenario()) == (False, None, b"ab")


def test_the_idle_time_begins_anew_when_reading_goes_on():
    async def scenario():
        pool, sink = Pool(), Recorder()
        async with upstream([CHUNKED, chunked(b"a", end=b""), HANG]) as server:
            connection = await pool.send(server.origin, sink, *request(), FAST)
            await until(lambda: sink.data)
            connection.pause()
            await asyncio.sleep(0.25)
            connection.resume()
            begun = time.monotonic()
            error = await asyncio.wait_for(sink.over, 5)
            await pool.close()
        return error, time.monotonic() - begun

    error, waited_s = run(scenario())

    assert isinstance(error, UpstreamTimeout)
    assert 0.09 <= waited_s < 1
