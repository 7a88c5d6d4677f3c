"""The longest and the largest answer that is relayed, and what is left running behind one."""

import asyncio

import pytest
from support.raw_upstream import EVENTS, HANG, chunked, run, until, upstream
from support.relays import (
    BEGIN,
    DELTA,
    MESSAGES,
    client_for,
    dispatch,
    ended,
    feed,
    read,
    relay_for,
    start,
)

from server.errors import AnswerTooLong
from server.protocols import Protocol


async def to_the_end(script, **options):
    """Relay one answer; by its end the provider's connection is closed."""
    async with upstream(script) as server:
        client = client_for(server)
        relay, task = start(client, **options)
        got = await read(relay)
        await task
        await until(lambda: server.open == 0 and client.pool.open_count == 0)
        await client.close()
    return got


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("begin", [b"", BEGIN["anthropic"]], ids=["silent", "begun"])
def test_an_answer_that_goes_on_for_too_long_ends_with_an_error(streaming, begin):
    script = [EVENTS, chunked(begin, end=b"") if begin else b"", HANG]

    got = run(to_the_end(script, streaming=streaming, most_s=0.15))

    assert type(got.error) is AnswerTooLong
    assert bytes(got.stream) == (begin if streaming else b"")


def test_an_attempt_that_begins_too_late_does_not_leave():
    async def scenario():
        async with upstream([HANG]) as server:
            client = client_for(server)
            relay = relay_for("anthropic", most_s=0.05)
            await client.forward(dispatch(), relay.attempt)
            relay.begin(Protocol.ANTHROPIC)
            relay.release(await client.forward(dispatch(), relay.attempt))
            got = await read(relay)
            await client.close()
        return type(got.error), relay.attempt.was_sent, len(server.requests)

    assert run(scenario()) == (AnswerTooLong, False, 1)


def test_an_answer_that_is_too_large_ends_with_an_error():
    most_bytes = 200_000
    flood = [chunked(DELTA * 50, end=b"")] * 400

    got = run(to_the_end([EVENTS, *flood, HANG], most_bytes=most_bytes))

    assert type(got.error) is AnswerTooLong
    assert "longer than is relayed" in str(got.error)
    assert most_bytes < len(got.stream) < most_bytes + 2**20
    assert got.stream == DELTA * (len(got.stream) // len(DELTA))


def test_an_answer_that_ends_in_time_leaves_no_clock_running():
    async def scenario():
        relay = relay_for("anthropic", most_s=0.05, ping_after_s=0.05)
        feed(relay.attempt, MESSAGES)
        relay.attempt.on_end(None)
        got = await ended(relay)
        size = got.relay.given_bytes
        await asyncio.sleep(0.12)  # longer than either clock
        return got, size

    got, size = run(scenario())

    assert (bytes(got.stream), got.error) == (MESSAGES, None)
    assert got.relay.given_bytes == size
