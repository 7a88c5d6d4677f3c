"""The breaker's states, told with `now` passed in: no clock, no waiting."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.routing.breaker import Breaker, State

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


def breaker(*, failures=3, open_s=10.0, longest_s=60.0, on_change=None):
    return Breaker(failures=failures, open_s=open_s, longest_s=longest_s, on_change=on_change)


def fail(each, now, times=1, **how):
    for _ in range(times):
        each.failed(each.begin(now), now, **how)


def opened(now=0.0, **settings):
    each = breaker(**settings)
    fail(each, now, times=3)
    return each


def test_a_new_breaker_lets_everything_through():
    each = breaker()

    assert each.state(0.0) is CLOSED
    assert each.may_try(0.0)
    assert [each.begin(0.0) is not None for _ in range(50)] == [True] * 50
    assert each.retry_at(0.0) is None
    assert (each.failures_in_a_row, each.opened_at, each.reason) == (0, None, "")


def test_it_opens_at_the_failure_that_makes_the_row_full():
    each = breaker(failures=3)

    fail(each, 1.0, times=2, reason="reset")
    assert (each.state(1.0), each.failures_in_a_row) == (CLOSED, 2)
    fail(each, 2.0, reason="503")

    assert each.state(2.0) is OPEN
    assert (each.opened_at, each.reason, each.failures_in_a_row) == (2.0, "503", 3)
    assert not each.may_try(2.0)
    assert each.begin(2.0) is None
    assert each.retry_at(2.0) == 12.0


def test_a_success_in_between_starts_the_row_anew():
    each = breaker(failures=3)

    for _ in range(20):
        fail(each, 0.0, times=2, reason="503")
        each.succeeded(each.begin(0.0), 0.0)

    assert (each.state(0.0), each.failures_in_a_row, each.reason) == (CLOSED, 0, "")


def test_one_failure_is_enough_where_it_says_so():
    each = breaker(failures=5)

    fail(each, 0.0, at_once=True, reason="401")

    assert (each.state(0.0), each.reason) == (OPEN, "401")


@pytest.mark.parametrize(("now", "state"), [(9.999, OPEN), (10.0, HALF_OPEN), (1e6, HALF_OPEN)])
def test_it_is_half_open_once_its_time_has_passed(now, state):
    each = opened()

    assert each.state(now) is state
    assert each.may_try(now) == (state is HALF_OPEN)
    assert (each.retry_at(now) is None) == (state is HALF_OPEN)
    assert (each.begin(now) is None) == (state is OPEN)


def test_asking_changes_nothing():
    told = []
    each = opened(on_change=told.append)
    told.clear()

    for _ in range(3):
        assert (each.state(10.0), each.may_try(10.0), each.retry_at(10.0)) == (
            HALF_OPEN,
            True,
            None,
        )

    assert told == []
    assert each.begin(10.0) is not None


def test_one_probe_goes_at_a_time():
    each = opened()

    probe = each.begin(10.0)

    assert probe is not None
    assert not each.may_try(11.0)
    assert each.begin(11.0) is None
    assert each.state(11.0) is HALF_OPEN
    assert each.retry_at(11.0) == 21.0


def test_a_probe_that_succeeds_closes_it():
    each = opened()

    each.succeeded(each.begin(10.0), 12.0)

    assert each.state(12.0) is CLOSED
    assert (each.opened_at, each.failures_in_a_row, each.reason) == (None, 0, "")
    fail(each, 13.0, times=2)
    assert each.state(13.0) is CLOSED


def test_a_probe_that_fails_opens_it_twice_as_long_up_to_the_longest():
    each = opened(open_s=10.0, longest_s=60.0)
    lengths, now = [], 0.0

    for _ in range(5):
        until = each.retry_at(now)
        lengths.append(until - now)
        now = until + 1.0  # the probe takes a second to fail
        each.failed(each.begin(until), now, reason="reset")

    assert lengths == [10.0, 20.0, 40.0, 60.0, 60.0]
    assert (each.opened_at, each.reason) == (now, "reset")


def test_after_it_has_closed_it_opens_as_short_as_at_first():
    each = opened(open_s=10.0)
    each.failed(each.begin(10.0), 10.0)
    each.succeeded(each.begin(30.0), 30.0)

    fail(each, 31.0, times=3)

    assert each.retry_at(31.0) == 41.0


def test_a_longest_time_below_the_first_does_not_lengthen_it():
    each = opened(open_s=10.0, longest_s=10.0)

    each.failed(each.begin(10.0), 10.0)

    assert each.retry_at(10.0) == 20.0


def test_a_probe_whose_client_left_is_given_back():
    each = opened()

    each.abandoned(each.begin(10.0), 11.0)

    assert (each.state(11.0), each.retry_at(11.0), each.opened_at) == (HALF_OPEN, None, 0.0)
    each.succeeded(each.begin(11.0), 12.0)
    assert each.state(12.0) is CLOSED


def test_an_abandoned_request_of_a_closed_breaker_counts_neither_way():
    each = breaker(failures=3)
    fail(each, 0.0, times=2, reason="503")

    each.abandoned(each.begin(0.0), 0.0)

    assert (each.failures_in_a_row, each.reason) == (2, "503")
    fail(each, 0.0)
    assert each.state(0.0) is OPEN


@pytest.mark.parametrize("when", [3.0, 9.0, 15.0])
def test_failures_that_began_before_it_opened_do_not_lengthen_the_opening(when):
    """A hundred requests under way when a provider dies are one opening."""
    told = []
    each = breaker(on_change=lambda b: told.append(b.opened_at))
    late = [each.begin(0.0) for _ in range(100)]
    fail(each, 2.0, times=3, reason="reset")

    for permit in late:
        each.failed(permit, when, at_once=True, reason="late")

    assert (each.opened_at, each.reason, each.failures_in_a_row) == (2.0, "reset", 3)
    assert each.state(11.999) is OPEN
    assert each.state(12.0) is HALF_OPEN
    assert told == [2.0]


@pytest.mark.parametrize("when", [5.0, 15.0])
def test_a_late_success_does_not_close_it(when):
    each = breaker()
    late = each.begin(0.0)
    fail(each, 0.0, times=3)

    each.succeeded(late, when)

    assert each.state(when) is not CLOSED
    assert each.failures_in_a_row == 3


@pytest.mark.parametrize("end", ["succeeded", "failed", "abandoned"])
def test_a_late_end_does_not_touch_the_probe_under_way(end):
    each = breaker()
    late = each.begin(0.0)
    fail(each, 0.0, times=3)
    probe = each.begin(10.0)

    getattr(each, end)(late, 11.0)

    assert (each.state(11.0), each.begin(11.0)) == (HALF_OPEN, None)
    each.succeeded(probe, 12.0)
    assert each.state(12.0) is CLOSED


def test_a_failure_from_before_the_opening_does_not_count_after_the_closing():
    each = breaker(failures=3)
    late = [each.begin(0.0) for _ in range(10)]
    fail(each, 0.0, times=3)
    each.succeeded(each.begin(10.0), 10.0)

    for permit in late:
        each.failed(permit, 11.0)

    assert (each.state(11.0), each.failures_in_a_row) == (CLOSED, 0)


def test_a_permit_counts_once():
    each = opened()
    probe = each.begin(10.0)
    each.abandoned(probe, 10.0)

    each.succeeded(probe, 11.0)
    each.failed(probe, 11.0)
    each.abandoned(probe, 11.0)

    assert (each.state(11.0), each.may_try(11.0), each.failures_in_a_row) == (HALF_OPEN, True, 3)


def test_a_probe_that_is_answered_closes_it_and_is_judged_by_its_end():
    each = opened()
    probe = each.begin(10.0)
    each.answers(probe)

    assert (each.state(10.0), each.may_try(10.0)) == (CLOSED, True)

    each.failed(probe, 11.0)
    assert (each.state(11.0), each.retry_at(11.0)) == (OPEN, 31.0)


@pytest.mark.parametrize(("is_served", "state"), [(True, CLOSED), (False, OPEN)])
def test_behind_a_probe_the_next_failure_opens_it_unless_one_was_served_to_its_end(
    is_served, state
):
    each = opened()
    each.answers(each.begin(10.0))
    if is_served:
        each.succeeded(each.begin(11.0), 11.0)
    fail(each, 12.0)

    assert each.state(12.0) is state


def test_an_answer_that_begins_says_nothing_of_a_breaker_that_is_closed():
    each = breaker()
    for _ in range(3):
        permit = each.begin(0.0)
        each.answers(permit)
        each.failed(permit, 1.0)

    assert each.state(1.0) is OPEN


def test_every_change_is_told_once():
    told = []
    each = breaker(on_change=lambda b: told.append((now, b.state(now), b.reason)))
    now = 0.0
    fail(each, now, times=3, reason="reset")
    now = 10.0
    each.abandoned(each.begin(now), now)
    now = 11.0
    each.failed(each.begin(now), now, reason="503")
    now = 31.0
    each.succeeded(each.begin(now), now)

    assert told == [
        (0.0, OPEN, "reset"),
        (10.0, HALF_OPEN, "reset"),
        (11.0, OPEN, "503"),
        (31.0, HALF_OPEN, "503"),
        (31.0, CLOSED, ""),
    ]


@pytest.mark.parametrize("end", ["failed", "succeeded", "abandoned", None])
@pytest.mark.parametrize("reloaded_at", [9.0, 11.0])
def test_where_none_is_to_open_any_more_one_that_is_open_closes(reloaded_at, end):
    """Its probe may be under way, and may fail: nothing is held off for ever."""
    each = opened()
    probe = each.begin(reloaded_at)

    each.adopt(None, 10.0, 60.0)
    if probe is not None and end is not None:
        getattr(each, end)(probe, 12.0)
    fail(each, 13.0, times=9)

    assert (each.state(13.0), each.may_try(13.0), each.opened_at) == (CLOSED, True, None)
    each.adopt(3, 10.0, 60.0)
    fail(each, 14.0)
    assert (each.state(14.0), each.retry_at(14.0)) == (OPEN, 24.0)


def test_resting_is_a_preference_and_refuses_nothing():
    each = breaker()
    assert not each.is_resting(0.0)

    each.rest(30.0)
    each.rest(20.0)

    assert each.rests_until == 30.0
    assert each.is_resting(29.9)
    assert not each.is_resting(30.0)
    assert (each.state(5.0), each.may_try(5.0), each.retry_at(5.0)) == (CLOSED, True, None)


class Model:
    """What the breaker must be, said with lists: the requests under way and when each began."""

    def __init__(self):
        self.told = []
        self.breaker = breaker(failures=2, open_s=4.0, longest_s=16.0, on_change=self.heard)
        self.now = 0.0
        self.under_way = []  # (permit, how many changes there had been, was it a probe)

    def heard(self, each):
        self.told.append(each.state(self.now))

    def act(self, what, which, wait):
        self.now += wait
        if what == "begin":
            before = self.breaker.state(self.now)
            allowed = self.breaker.may_try(self.now)
            permit = self.breaker.begin(self.now)
            assert (permit is not None) == allowed
            if permit is not None:
                self.under_way.append((permit, len(self.told), before is HALF_OPEN))
        elif self.under_way:
            permit, changes, _ = self.under_way.pop(which % len(self.under_way))
            was = self.facts()
            getattr(self.breaker, what)(permit, self.now)
            if changes != was[0]:
                assert self.facts() == was, "a request from before the last change counted"

    def facts(self):
        each = self.breaker
        return len(self.told), each.opened_at, each.failures_in_a_row, each.reason


STEPS = st.tuples(
    st.sampled_from(["begin", "begin", "succeeded", "failed", "failed", "abandoned"]),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.0, 1.0, 4.0, 20.0]),
)


@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_it_keeps_to_its_states(steps):
    model = Model()

    for step in steps:
        model.act(*step)
        each, now = model.breaker, model.now
        assert each.may_try(now) == (each.retry_at(now) is None)
        assert (each.opened_at is None) == (each.state(now) is CLOSED)
        probes = [p for p, changes, is_probe in model.under_way if is_probe and p == each._turn]
        assert each.may_try(now) or each.state(now) is OPEN or len(probes) == 1

    allowed = {CLOSED: {OPEN}, OPEN: {HALF_OPEN}, HALF_OPEN: {OPEN, CLOSED}}
    for before, after in zip([CLOSED, *model.told], model.told, strict=False):
        assert after in allowed[before]


def test_a_success_costs_next_to_nothing():
    each, rounds = breaker(), 20_000

    began = time.process_time()
    for _ in range(rounds):
        each.succeeded(each.begin(1.0), 1.0)
    cost_us = (time.process_time() - began) / rounds * 1e6

    assert cost_us < 2.0  # 0.1 where nothing disturbs
