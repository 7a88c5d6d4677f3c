"""The order in which one request may try its places: sticky, by weight, around what fails."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from math import ceil

from server.config.schema import Routing
from server.errors import UpstreamOverloaded
from server.routing.breaker import Breaker
from server.routing.places import Place
from server.routing.spread import Pins, ranked
from server.routing.verdict import Blame, Verdict

PATIENCE_S = 8.0  # how long a request waits for a provider that says when to come back
Chance = Callable[[], float]  # from 0 up to 1


class Itinerary:
    """The places of one request, the best first; `now` is in seconds on a monotonic clock.

    A place that was not tried comes before one that was, and one of another target before another
    key of a target that has failed. A failed one is tried again only where that may help, after a
    pause. `conversation` is asked for only where there is a choice.
    """

    def __init__(
        self,
        places: Sequence[Place],
        routing: Routing,
        pins: Pins,
        conversation: Callable[[], bytes],
        now: float,
    ) -> None:
        self._routing, self._pins, self._begun = routing, pins, now
        self._conversation: bytes | None = None
        self._places: Sequence[Place] = places
        if len(places) > 1:
            self._conversation = conversation()
            self._places = self._in_order(places, now)
        self._tries: dict[Place, int] = {}
        self._failures: Counter[Breaker] = Counter()  # of targets, whatever the key
        self._wait_until: dict[Place, float] = {}
        self._out: set[Place] = set()
        self._count = 0

    def choose(self, now: float) -> Place | None:
        """Give the place to try next; None where none is left, or the bounds are reached."""
        if not self._count and len(self._places) == 1:  # as almost always
            only = self._places[0]
            return only if only.may_try(now) and only not in self._out else None
        if self._count >= self._routing.max_attempts:
            return None
        open_ones = [each for each in self._places if self._is_open(each, now)]
        fresh = [each for each in open_ones if not self._tried(each)]
        if not fresh:
            return self._least_tried(open_ones)
        awake = (each for each in fresh if not each.of_key.is_resting(now))
        first = next(awake, fresh[0])
        # Another key is as good; another model, at its own price, is for when this one fails.
        return first if first.model == fresh[0].model else fresh[0]

    @property
    def left(self) -> list[Place]:
        """List the places that were not left out, whether or not they have been failing."""
        return [each for each in self._places if each not in self._out]

    def pause_s(self, place: Place, now: float, chance: Chance) -> float:
        """Tell how long to wait before a place is tried: not at all the first time.

        Half of the back-off is left to chance, so that many do not come back as one.
        """
        if not self._tried(place):
            return 0.0
        wait_s = self._wait_until.get(place, now) - now
        return max(self._backoff_s(place) * (0.5 + 0.5 * chance()), wait_s)

    def went(self, place: Place, now: float) -> None:
        """Note that a place answers: the conversation stays there."""
        if self._conversation is not None:
            self._pins.went(self._conversation, place.ident, now)

    def skip(self, place: Place, alike: Callable[[Place], object] = lambda each: each) -> None:
        """Leave a place out, and all that are `alike`: they cannot take this request."""
        self._out |= {each for each in self._places if alike(each) == alike(place)}

    def failed(self, place: Place, verdict: Verdict, now: float, retry_after_s: float) -> None:
        """Note a failure, and leave out what would only repeat it."""
        self._count += 1
        self._tries[place] = self._tries.get(place, 0) + 1
        self._failures[place.of_target] += verdict.blame is Blame.TARGET
        self._wait_until[place] = now + retry_after_s
        if not verdict.may_repeat or retry_after_s > PATIENCE_S:
            self._out |= {each for each in self._places if self._is_alike(each, place, verdict)}
        if not verdict.may_move:
            self._out.update(self._places)

    def refusal(self, now: float) -> UpstreamOverloaded:
        """Make the error for when every place has been failing: when the first may be tried."""
        left = self.left or self._places
        wait_s = max(1, ceil(min(each.retry_at(now) for each in left) - now))
        return UpstreamOverloaded(
            f'The providers of "{left[0].model}" have been failing; the gateway tries again in '
            f"{wait_s} s.",
            retry_after_s=wait_s,
        )

    def _in_order(self, places: Sequence[Place], now: float) -> list[Place]:
        assert self._conversation is not None  # noqa: S101 - there is a choice
        order: list[Place] = []
        healthy = [each for each in places if each.may_try(now)]
        first = next(iter(healthy), None)
        for group, members in groupby(places, key=lambda each: each.group):
            alike = [each for each in members if each.may_try(now)]
            if first is not None and group == first.group:
                order += self._pins.choose(self._conversation, alike, now)
            else:
                order += ranked(self._conversation, alike)
        return [*order, *(each for each in places if each not in healthy)]

    def _is_open(self, place: Place, now: float) -> bool:
        if place in self._out or not place.may_try(now):
            return False
        # However long its pause comes to be: no attempt begins later than that.
        pause_s = self.pause_s(place, now, _the_longest)
        return not self._count or now + pause_s - self._begun < self._routing.retry_within_s

    def _tried(self, place: Place) -> int:
        """Count how often that place was tried, or its target failed."""
        return max(self._tries.get(place, 0), self._failures[place.of_target])

    def _backoff_s(self, place: Place) -> float:
        routing, doublings = self._routing, self._tried(place) - 1
        return min(routing.longest_backoff_s, routing.backoff_s * 2.0**doublings)

    def _least_tried(self, places: Sequence[Place]) -> Place | None:
        return min(places, key=lambda each: self._tries.get(each, 0), default=None)

    @staticmethod
    def _is_alike(other: Place, place: Place, verdict: Verdict) -> bool:
        """Tell whether another place would fail in the same way: same key, same target, or both."""
        if verdict.blame in (Blame.KEY, Blame.RATE):
            return other.of_key is place.of_key
        is_alike = other.of_target is place.of_target
        return is_alike and (not verdict.may_rekey or other.of_key is place.of_key)


def _the_longest() -> float:
    return 1.0
