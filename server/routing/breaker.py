"""A circuit breaker: keeps requests from what has been failing.

`begin` gives a permit, which goes back once with how the request ended:

    permit = breaker.begin(now)          # None: it may not go
    breaker.answers(permit)              # once its answer has begun
    breaker.succeeded(permit, now)       # or failed(permit, now, …), or abandoned(permit, now)

Every opening and every probe starts a new turn, and a permit is the turn that it was given in.
So a request that began before the breaker opened and ends later is told by its permit, and
changes nothing.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import NewType

Permit = NewType("Permit", int)


class State(StrEnum):
    """What happens to the next request: it goes, is refused, or is tried with."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Keeps requests from what fails; `now` is in seconds on any monotonic clock.

    It opens after `failures` failures in a row, or never where that is None. Once `open_s` have
    passed it lets one probe through at a time; it closes when a probe is answered, and opens again,
    twice as long but at most `longest_s`, when that fails, or the next one before any has come to
    its end. A permit must come back in every case: a lost probe stays under way for ever.

    `on_change` is called after each change of state; to half-open when the first probe begins.
    `reason` is the last failure's, `rests_until` what `rest` was told.
    """

    __slots__ = (
        "_failures",
        "_is_on_trial",
        "_is_probing",
        "_longest_s",
        "_open_for_s",
        "_open_s",
        "_state",
        "_turn",
        "failures_in_a_row",
        "on_change",
        "opened_at",
        "reason",
        "rests_until",
    )

    def __init__(
        self,
        *,
        failures: int | None,
        open_s: float,
        longest_s: float,
        on_change: "Callable[[Breaker], None] | None" = None,
    ) -> None:
        self._failures = failures
        self._open_s = self._open_for_s = open_s
        self._longest_s = longest_s
        self._state = State.CLOSED
        self._turn = Permit(1)
        self._is_probing = self._is_on_trial = False
        self.failures_in_a_row = 0
        self.opened_at: float | None = None
        self.reason = ""
        self.rests_until = float("-inf")
        self.on_change = on_change

    def adopt(self, failures: int | None, open_s: float, longest_s: float) -> None:
        """Go by other bounds from now on; one that is open stays so for as long as it was to.

        Where none is to open any more it is closed, and nobody is told of that.
        """
        self._failures, self._open_s, self._longest_s = failures, open_s, longest_s
        if failures is None and self.opened_at is not None:
            # Its probe, if one is under way, is of an earlier turn: a failure would not end it.
            self.opened_at, self._is_probing, self._state = None, False, State.CLOSED
            self._is_on_trial = False
            self._turn = Permit(self._turn + 1)
        if self.opened_at is None:
            self._open_for_s = open_s

    def state(self, now: float) -> State:
        """Tell the state: half-open once its time has passed, with a probe or without."""
        if self._state is State.OPEN and now >= self._ends_at:
            return State.HALF_OPEN
        return self._state

    def may_try(self, now: float) -> bool:
        """Tell whether `begin` would give a permit; changes nothing."""
        return self.opened_at is None or (not self._is_probing and now >= self._ends_at)

    def retry_at(self, now: float) -> float | None:
        """Tell when it may be tried next, None for now; a guess while a probe is under way."""
        if self.may_try(now):
            return None
        return now + self._open_s if self._is_probing else self._ends_at

    def begin(self, now: float) -> Permit | None:
        """Let a request go, as the probe where the breaker is half-open; None: it may not."""
        if self.opened_at is not None:
            if not self.may_try(now):
                return None
            self._is_probing = True
            self._start_turn(State.HALF_OPEN)
        return self._turn

    def answers(self, permit: Permit) -> None:
        """Note that an answer has begun: a probe's lets others follow, for it may take long."""
        if permit == self._turn and self._is_probing:
            self.opened_at, self._is_probing, self._is_on_trial = None, False, True
            self._enter(State.CLOSED)

    def succeeded(self, permit: Permit, now: float) -> None:  # noqa: ARG002 (as its siblings)
        """Note that a request was served to the end."""
        if permit != self._turn or not self.failures_in_a_row:
            return
        self.failures_in_a_row, self.reason = 0, ""
        self.answers(permit)
        self._is_on_trial, self._open_for_s = False, self._open_s

    def failed(
        self, permit: Permit, now: float, *, at_once: bool = False, reason: str = ""
    ) -> None:
        """Note that a request failed; `at_once`: one failure is enough (a refused key)."""
        if permit != self._turn:
            return
        self.failures_in_a_row += 1
        self.reason = reason
        if self._failures is None:
            return
        if self._is_probing or self._is_on_trial:
            self._open_for_s = min(2 * self._open_for_s, self._longest_s)
        elif not at_once and self.failures_in_a_row < self._failures:
            return
        self.opened_at, self._is_probing, self._is_on_trial = now, False, False
        self._start_turn(State.OPEN)

    def abandoned(self, permit: Permit, now: float) -> None:  # noqa: ARG002 (as its siblings)
        """Note that a request ended without telling (the client left): its probe is given back."""
        if permit == self._turn and self._is_probing:
            self._is_probing = False
            self._start_turn(State.HALF_OPEN)

    def rest(self, until: float) -> None:
        """Prefer others until then (a 429 with `retry-after`); nothing is refused."""
        self.rests_until = max(self.rests_until, until)

    def is_resting(self, now: float) -> bool:
        """Tell whether others are preferred just now."""
        return now < self.rests_until

    @property
    def _ends_at(self) -> float:
        return (self.opened_at or 0.0) + self._open_for_s

    def _start_turn(self, state: State) -> None:
        self._turn = Permit(self._turn + 1)
        self._enter(state)

    def _enter(self, state: State) -> None:
        was, self._state = self._state, state
        if was is not state and self.on_change is not None:
            self.on_change(self)
