"""The bounded queue between a provider and a client."""

import asyncio

import pytest
from support.raw_upstream import run

from server.errors import UpstreamError
from server.upstream.handoff import AT_ONCE_BYTES, HIGH_BYTES, Handoff


def scene(play):
    """Run `play(handoff, calls)`; `calls` fills with "pause" and "resume"."""

    async def main():
        handoff, calls = Handoff(), []
        handoff.pause = lambda: calls.append("pause")
        handoff.resume = lambda: calls.append("resume")
        return await play(handoff, calls)

    return run(main())


def test_what_waits_comes_out_joined_and_the_end_comes_last():
    async def play(handoff, _):
        handoff.put(b"a")
        handoff.put(b"b")
        first = await handoff.get()
        handoff.put(b"c")
        handoff.close()
        was_over = handoff.is_over
        return first, was_over, await handoff.get(), handoff.is_over, await handoff.get()

    assert scene(play) == (b"ab", False, b"c", True, b"")


def test_much_comes_out_in_parts_and_reading_goes_on_behind_the_last():
    sent = bytes(range(256)) * (3 * AT_ONCE_BYTES // 256) + b"end"

    async def play(handoff, calls):
        handoff.put(sent)
        parts = [await handoff.get() for _ in range(3)]
        assert calls == ["pause"]
        handoff.put(b", and more")
        handoff.close()
        parts.append(await handoff.get())
        return parts, calls, handoff.is_over

    parts, calls, is_over = scene(play)

    assert [len(part) for part in parts[:3]] == [AT_ONCE_BYTES] * 3
    assert b"".join(parts) == sent + b", and more"
    assert (calls, is_over) == (["pause", "resume"], True)


def test_an_error_comes_after_the_data_and_then_again_and_again():
    async def play(handoff, _):
        handoff.put(b"a")
        handoff.close(UpstreamError("cut"))
        handoff.close()
        assert await handoff.get() == b"a"
        assert not handoff.is_over
        for _ in range(2):
            with pytest.raises(UpstreamError, match="cut"):
                await handoff.get()

    scene(play)


@pytest.mark.parametrize("error", [None, UpstreamError("cut")])
def test_closing_wakes_a_waiting_reader(error):
    async def play(handoff, _):
        reader = asyncio.create_task(handoff.get())
        await asyncio.sleep(0)
        handoff.close(error)
        done, _ = await asyncio.wait([reader], timeout=1)
        return done.pop().exception() or reader.result()

    assert scene(play) == (error or b"")


def test_a_piece_wakes_a_waiting_reader_once():
    async def play(handoff, _):
        reader = asyncio.create_task(handoff.get())
        await asyncio.sleep(0)
        handoff.put(b"a")
        handoff.put(b"b")
        return await asyncio.wait_for(reader, 1)

    assert scene(play) == b"ab"


def test_a_cancelled_reader_loses_nothing():
    async def play(handoff, _):
        reader = asyncio.create_task(handoff.get())
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait([reader])
        handoff.put(b"a")
        return await handoff.get()

    assert scene(play) == b"a"


def test_reading_pauses_above_the_limit_and_goes_on_once_all_is_taken():
    async def play(handoff, calls):
        handoff.put(bytes(HIGH_BYTES))
        told = [list(calls)]
        handoff.put(b"a")
        handoff.put(b"b")
        told.append(list(calls))
        for _ in range(3):
            await handoff.get()
            told.append(list(calls))
        handoff.put(b"c")
        await handoff.get()
        told.append(list(calls))
        return told

    assert scene(play) == [[], *[["pause"]] * 3, *[["pause", "resume"]] * 2]
