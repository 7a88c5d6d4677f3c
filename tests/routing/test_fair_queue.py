"""The queue before an upstream: in turn, in time, and no place lost or given twice."""

import asyncio
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual_time import Deadlock, VirtualTimeLoop, run

from server.errors import UpstreamOverloaded
from server.routing.fair_queue import FairQueue


class House:
    """Visitors of one queue: who is in and who was let in, as they see it themselves."""

    def __init__(self, most=1, wait_s=30.0):
        self.queue = FairQueue(most, wait_s)
        self.entered, self.turned_away, self.inside = [], [], []

    def visit(self, who):
        return asyncio.create_task(self._visit(who))

    async def _visit(self, who):
        try:
            await self.queue.enter(who)
        except UpstreamOverloaded:
            self.turned_away.append((who, asyncio.get_running_loop().time()))
            return
        door = asyncio.Event()
        self.inside.append(door)
        self.entered.append(who)
        try:
            await door.wait()
        finally:
            self.inside.remove(door)
            self.queue.leave()

    async def let_out(self, times=1):
        for _ in range(times):
            self.inside[0].set()
            await settle()

    async def empty(self):
        await settle()
        while self.inside:
            await self.let_out()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def counts(queue):
    return queue.inside, queue.waiting


def test_as_many_as_allowed_are_in_at_once():
    async def play():
        house = House(most=3)
        for who in range(5):
            house.visit(who)
        await settle()
        assert counts(house.queue) == (3, 2)
        await house.let_out()
        assert counts(house.queue) == (3, 1)
        await house.empty()
        assert counts(house.queue) == (0, 0)
        return house.entered

    assert run(play()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("most", [1, 4])
def test_a_swarm_does_not_starve_a_single_request(most):
    async def play():
        house = House(most=most)
        for _ in range(100):
            house.visit("swarm")
        await settle()
        house.visit("single")
        await settle()
        before = len(house.entered)
        await house.let_out(2)
        assert "single" in house.entered[before:]
        await house.empty()

    run(play())


def test_members_take_turns_and_each_is_served_in_the_order_it_came():
    async def play():
        house = House()
        for who in ["first", "a1", "a2", "a3", "b1", "b2", "c1"]:
            asyncio.create_task(named(house, who))  # noqa: RUF006 (the queue keeps it)
            await settle()
        await house.empty()
        return house.entered

    async def named(house, who):
        await house.queue.enter(who[0])
        door = asyncio.Event()
        house.inside.append(door)
        house.entered.append(who)
        await door.wait()
        house.inside.remove(door)
        house.queue.leave()

    assert run(play()) == ["first", "a1", "b1", "c1", "a2", "b2", "a3"]


def test_one_waits_for_at_most_one_turn_of_each_other():
    async def play():
        house = House()
        for who in ["x", *"aaaa", *"bbbb", *"cccc"]:
            house.visit(who)
        await settle()
        await house.let_out(2)
        house.visit("late")
        await settle()
        before = len(house.entered)
        await house.let_out(4)
        turns = Counter(house.entered[before:])
        await house.empty()
        return turns

    assert run(play()) == {"a": 1, "b": 1, "c": 1, "late": 1}


def test_a_cancelled_request_takes_no_turn_of_its_member():
    async def play():
        queue, entered = FairQueue(1, 30.0), []

        async def visit(name):
            await queue.enter(name[0])
            entered.append(name)

        await visit("x")
        gone, *others = (asyncio.create_task(visit(name)) for name in ("a1", "a2", "b1"))
        await settle()
        gone.cancel()
        queue.leave()  # before the cancelled one has heard of it
        for _ in others:
            await settle()
            queue.leave()
        return entered, counts(queue)

    assert run(play()) == (["x", "a2", "b1"], (0, 0))


def test_a_newcomer_overtakes_nobody():
    """The place that was just given back belongs to who waits, though it does not know yet."""

    async def play():
        house = House()
        house.visit("in")
        house.visit("waiting")
        await settle()
        house.inside[0].set()
        house.visit("newcomer")
        await settle()
        await house.empty()
        return house.entered

    assert run(play()) == ["in", "waiting", "newcomer"]


def test_waiting_ends_in_time_and_says_when_to_come_back():
    async def play():
        queue = FairQueue(1, 12.5)
        await queue.enter("a")
        before = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamOverloaded, match="try again") as refused:
            await queue.enter("b")
        waited = asyncio.get_running_loop().time() - before
        assert counts(queue) == (1, 0)
        queue.leave()
        await queue.enter("c")
        assert counts(queue) == (1, 0)
        return waited, refused.value.retry_after_s

    waited, retry_after_s = run(play())

    assert abs(waited - 12.5) < 0.001
    assert retry_after_s == 13


def test_who_may_not_wait_is_refused_at_once():
    async def play():
        queue = FairQueue(1, 0.0)
        await queue.enter("a")
        with pytest.raises(UpstreamOverloaded, match="try again") as refused:
            await queue.enter("a")
        return counts(queue), refused.value.retry_after_s

    assert run(play()) == ((1, 0), 1)


def test_each_waits_for_its_own_time():
    async def play():
        house = House(wait_s=10.0)
        start = asyncio.get_running_loop().time()
        for _ in range(3):
            house.visit("a")
            await asyncio.sleep(4)
        await asyncio.sleep(60)
        assert counts(house.queue) == (1, 0)
        await house.empty()
        return [round(at - start) for _, at in house.turned_away]

    assert run(play()) == [14, 18]


def test_more_room_lets_in_at_once_and_less_room_throws_nobody_out():
    async def play():
        house = House(most=1)
        for who in range(5):
            house.visit(who)
        await settle()
        house.queue.resize(3, 30.0)
        await settle()
        assert counts(house.queue) == (3, 2)
        house.queue.resize(1, 5.0)
        await settle()
        assert counts(house.queue) == (3, 2)
        await house.let_out(2)
        assert counts(house.queue) == (1, 2)
        await house.let_out()
        assert counts(house.queue) == (1, 1)
        await house.empty()
        return house.entered, counts(house.queue)

    assert run(play()) == ([0, 1, 2, 3, 4], (0, 0))


def test_a_new_wait_holds_for_those_who_come_after():
    async def play():
        house = House(wait_s=10.0)
        start = asyncio.get_running_loop().time()
        house.visit("in")
        house.visit("old")
        await settle()
        house.queue.resize(1, 3.0)
        house.visit("new")
        await asyncio.sleep(20)
        await house.empty()
        return [(who, round(at - start)) for who, at in house.turned_away]

    assert run(play()) == [("new", 3), ("old", 10)]


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("ticks_between", range(4))
@pytest.mark.parametrize("ticks_before", range(4))
def test_a_cancel_at_any_step_loses_no_place(cancel_first, ticks_between, ticks_before):
    """One is let in and cancelled, in either order and any number of steps apart."""

    async def play():
        house = House()
        house.visit("in")
        await settle()
        victim, heir = house.visit("victim"), house.visit("heir")
        for _ in range(ticks_before):
            await asyncio.sleep(0)
        acts = [victim.cancel, house.inside[0].set]
        first, second = acts if cancel_first else reversed(acts)
        first()
        for _ in range(ticks_between):
            await asyncio.sleep(0)
        second()
        await settle()
        assert victim.cancelled()
        assert house.entered[-1] == "heir"
        assert counts(house.queue) == (1, 0)
        await house.empty()
        assert heir.done()
        assert counts(house.queue) == (0, 0)

    run(play())


def test_a_second_cancel_changes_nothing():
    async def play():
        queue = FairQueue(1, 30.0)
        await queue.enter("in")
        victim = asyncio.create_task(queue.enter("victim"))
        await settle()
        queue.leave()  # the victim is let in and has yet to hear of it
        assert counts(queue) == (1, 0)
        victim.cancel()
        victim.cancel()
        await settle()
        assert victim.cancelled()
        assert counts(queue) == (0, 0)

    run(play())


def test_a_cancel_in_the_moment_that_time_is_up_loses_nothing():
    async def play():
        house = House(wait_s=5.0)
        house.visit("in")
        await settle()
        victim = house.visit("victim")
        await settle()
        asyncio.get_running_loop().call_later(5.0, victim.cancel)
        await asyncio.sleep(10)
        assert victim.done()
        assert counts(house.queue) == (1, 0)
        await house.empty()
        assert counts(house.queue) == (0, 0)

    run(play())


@pytest.mark.parametrize("is_in_time", [True, False])
def test_a_place_that_comes_free_as_time_is_up_has_one_owner(is_in_time):
    """The place and the timeout come in the same step of the loop, in either order."""

    async def play():
        queue, loop, problems = FairQueue(1, 5.0), asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, problem: problems.append(problem))
        await queue.enter("in")
        waiting = asyncio.create_task(queue.enter("waiting"))
        if not is_in_time:
            await settle()
        loop.call_at(loop.time() + 5.0, queue.leave)
        await asyncio.wait([waiting])
        assert (waiting.exception() is None) == is_in_time
        assert counts(queue) == (is_in_time, 0)
        assert problems == []

    run(play())


def test_no_timer_outlives_the_wait():
    async def play():
        queue = FairQueue(1, 1000.0)
        await queue.enter("in")
        waiting = asyncio.create_task(queue.enter("waiting"))
        await settle()
        queue.leave()
        await waiting
        loops.append(asyncio.get_running_loop())
        await loops[0].create_future()

    loops = []
    with pytest.raises(Deadlock, match="play"):
        run(play())
    assert loops[0].time() == VirtualTimeLoop.START


def test_a_task_that_is_dropped_while_it_waits_leaves_the_line():
    async def play():
        queue = FairQueue(1, 30.0)
        await queue.enter("in")
        waiting = queue.enter("dropped")
        waiting.send(None)
        assert counts(queue) == (1, 1)
        waiting.close()
        assert counts(queue) == (1, 0)
        queue.leave()
        assert counts(queue) == (0, 0)

    run(play())


STEPS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(st.just("let out"), st.integers(0, 7)),
    st.tuples(st.just("cancel"), st.integers(0, 15)),
    st.tuples(st.just("tick"), st.integers(1, 3)),
    st.tuples(st.just("sleep"), st.sampled_from([1, 4, 11])),
    st.tuples(st.just("resize"), st.integers(0, 4)),
)


@given(st.lists(STEPS, max_size=50))
def test_whatever_happens_no_place_is_lost_or_given_twice(steps):
    async def play():
        house, tasks, most = House(most=2, wait_s=10.0), [], 2
        for what, number in steps:
            if what == "arrive":
                tasks.append(house.visit(number))
            elif what == "let out" and house.inside:
                house.inside[number % len(house.inside)].set()
            elif what == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif what == "tick":
                for _ in range(number):
                    await asyncio.sleep(0)
            elif what == "sleep":
                await asyncio.sleep(number)
            elif what == "resize":
                house.queue.resize(number, 10.0)
                most = max(most, number)
            assert len(house.inside) <= house.queue.inside <= most
            assert not house.queue.waiting or house.queue.inside >= house.queue._most
        await finish(house, tasks)

    async def finish(house, tasks):
        """The faults stop: everyone gets in or is turned away, and all places are free."""
        house.queue.resize(2, 10.0)
        await settle()
        assert len(house.inside) == house.queue.inside
        await house.empty()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 1)
        assert counts(house.queue) == (0, 0)
        assert not house.queue._lines

    run(play())


def test_an_uncontended_place_costs_next_to_nothing():
    async def play():
        queue, rounds = FairQueue(10, 30.0), 20_000
        began = time.process_time()
        for _ in range(rounds):
            await queue.enter("a")
            queue.leave()
        return (time.process_time() - began) / rounds * 1e6

    assert asyncio.run(play()) < 5  # 0.2 where nothing disturbs
