"""The loop that the router's tests run in."""

import asyncio
import socket
import time

import pytest
from support.virtual_time import Deadlock, VirtualTimeLoop, run


def now():
    return asyncio.get_running_loop().time()


def test_a_year_passes_at_once_and_exactly():
    async def wait():
        before = now()
        await asyncio.sleep(365 * 86_400)
        return now() - before

    began = time.monotonic()

    assert run(wait()) == 365 * 86_400
    assert time.monotonic() - began < 5


def test_timers_come_in_their_order_and_at_their_time():
    async def wait():
        heard = []

        async def sleep(seconds):
            await asyncio.sleep(seconds)
            heard.append((seconds, now() - VirtualTimeLoop.START))

        await asyncio.gather(*(sleep(each) for each in (30, 0.5, 10, 0.25)))
        return heard

    assert run(wait()) == [(each, each) for each in (0.25, 0.5, 10, 30)]


def test_no_time_passes_while_something_is_ready():
    async def work():
        for _ in range(1000):
            await asyncio.sleep(0)
        return now()

    assert run(work()) == VirtualTimeLoop.START


def test_timeouts_are_told():
    async def wait():
        async with asyncio.timeout(60):
            await asyncio.sleep(61)

    with pytest.raises(TimeoutError, match=r"^$"):
        run(wait())


def test_a_wait_that_nothing_can_end_raises():
    async def wait_for_ever():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="wait_for_ever"):
        run(wait_for_ever())


def test_the_tasks_of_a_deadlock_are_cancelled():
    ended = []

    async def wait_for_ever():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(Deadlock, match="pending"):
        run(wait_for_ever())

    assert ended == [True]


def test_what_goes_wrong_inside_comes_out():
    async def fail():
        await asyncio.sleep(1)
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        run(fail())


def test_sockets_that_have_something_to_say_are_heard():
    async def talk():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.send(b"hello")
            return await asyncio.get_running_loop().sock_recv(near, 5), now()

    assert run(talk()) == (b"hello", VirtualTimeLoop.START)
