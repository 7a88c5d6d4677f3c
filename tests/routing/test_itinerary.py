"""The way of one request, told with `now` and chance passed in: no clock, no waiting."""

from collections import Counter
from random import Random

import pytest
from support.providers import DEMO, FREE, config_of, keys_of, target

from server.errors import UpstreamOverloaded
from server.protocols import Protocol
from server.routing.router import Router
from server.routing.verdict import Blame, Verdict

FAILED = Verdict(Blame.TARGET, may_repeat=True, may_move=True)
LIMITED = Verdict(Blame.RATE, may_repeat=True, may_move=True)
REFUSED = Verdict(Blame.KEY, may_repeat=False, may_move=True)
ELSEWHERE = Verdict(Blame.NOBODY, may_repeat=False, may_move=True)
FINAL = Verdict(Blame.NOBODY, may_repeat=False, may_move=False)
ONE = [target("one")]
TWO = [target("one"), target("two", order=2)]
ALIKE = [target("one"), target("two"), target("three")]
UPSTREAMS = dict.fromkeys(["one", "two", "three"], DEMO)


def router(targets, *, names=None, **routing):
    config = config_of({"smart": targets}, UPSTREAMS, routing=routing)
    return Router(config, keys_of(config, **(names or {})))


def way(known, now=0.0, conversation=b"c"):
    return known.itinerary("smart", Protocol.ANTHROPIC, lambda: conversation, now)


def named(place):
    return None if place is None else f"{place.target.upstream}{place.key or ''}"


def fail(itinerary, place, now=0.0, verdict=FAILED, wait_s=0.0):
    """Fail an attempt as a journey does: the place hears of it, then the itinerary."""
    place.begin(now).failed(verdict, now, reason="failed", retry_after_s=wait_s)
    itinerary.failed(place, verdict, now, wait_s)


def opened(place, now):
    """Open the breaker of a place's target."""
    for _ in range(5):
        place.begin(now).failed(FAILED, now, reason="failed", retry_after_s=0.0)
    return place


def tries(itinerary, now=0.0, verdict=FAILED, wait_s=0.0):
    """Name the places of a request that fails wherever it goes."""
    seen = []
    while (place := itinerary.choose(now)) is not None:
        seen.append(named(place))
        fail(itinerary, place, now, verdict, wait_s)
    return seen


def served(known, conversation, now=0.0):
    itinerary = way(known, now, conversation)
    place = itinerary.choose(now)
    itinerary.went(place, now)
    return named(place)


@pytest.mark.parametrize("most", [1, 2, 3, 7])
@pytest.mark.parametrize("targets", [ONE, TWO, ALIKE])
def test_a_request_is_tried_as_often_as_is_allowed_and_no_more(most, targets):
    known = router(targets, max_attempts=most, breaker_failures=99)

    assert len(tries(way(known))) == most


def test_places_that_were_not_tried_come_before_those_that_were():
    known = router(TWO, max_attempts=5, breaker_failures=99)

    assert tries(way(known)) == ["one", "two", "one", "two", "one"]


def test_another_target_comes_before_another_key_of_one_that_has_failed():
    known = router(TWO, names={"one": ["k1", "k2", "k3"]}, max_attempts=6, breaker_failures=99)
    seen = tries(way(known))

    assert seen[1] == "two"
    assert {seen[0], *seen[2:4]} == {"one", "one1", "one2"}


def test_another_key_of_a_target_that_has_failed_waits_as_the_first_would():
    known = router(ONE, names={"one": ["k1", "k2"]}, backoff_s=0.5)
    itinerary = way(known)
    first = itinerary.choose(0.0)
    fail(itinerary, first)
    second = itinerary.choose(0.0)

    assert second is not first
    assert itinerary.pause_s(second, 0.0, lambda: 1.0) == 0.5


@pytest.mark.parametrize("verdict", [LIMITED, REFUSED])
def test_another_key_is_asked_at_once_where_the_first_alone_was_refused(verdict):
    known = router(TWO, names={"one": ["k1", "k2"]})
    itinerary = way(known)
    fail(itinerary, itinerary.choose(0.0), verdict=verdict)
    second = itinerary.choose(0.0)

    assert second.target.upstream == "one"
    assert itinerary.pause_s(second, 0.0, lambda: 1.0) == 0.0


def test_every_failure_in_a_row_of_every_request_counts_for_the_breaker():
    known = router(ONE, max_attempts=99)

    assert tries(way(known)) == ["one"] * 5
    assert way(known).choose(0.0) is None


@pytest.mark.parametrize("luck", [0.0, 0.3, 1.0])
def test_the_backoff_doubles_up_to_its_bound_and_half_of_it_is_chance(luck):
    known = router(ONE, max_attempts=9, breaker_failures=99, backoff_s=0.5, longest_backoff_s=3)
    itinerary, waited = way(known), []
    for _ in range(6):
        place = itinerary.choose(0.0)
        waited.append(itinerary.pause_s(place, 0.0, lambda: luck))
        fail(itinerary, place)

    assert waited == [0.0, *(pytest.approx(s * (1 + luck) / 2) for s in (0.5, 1, 2, 3, 3))]


def test_many_that_failed_as_one_do_not_come_back_as_one():
    known, chance = router(ONE, breaker_failures=999), Random(1).random
    waits = []
    for _ in range(100):
        itinerary = way(known)
        fail(itinerary, itinerary.choose(0.0))
        waits.append(itinerary.pause_s(itinerary.choose(0.0), 0.0, chance))

    assert 0.25 <= min(waits) < 0.28 < 0.47 < max(waits) <= 0.5
    assert len(set(waits)) == 100


@pytest.mark.parametrize("verdict", [LIMITED, FAILED])
@pytest.mark.parametrize("wait_s", [1.0, 3.0, 8.0])
def test_a_provider_that_says_when_to_come_back_is_obeyed_to_the_second(verdict, wait_s):
    itinerary = way(router(ONE))
    fail(itinerary, itinerary.choose(10.0), 10.0, verdict, wait_s)
    place = itinerary.choose(10.0)

    assert itinerary.pause_s(place, 10.0, lambda: 1.0) == wait_s
    assert itinerary.pause_s(place, 10.4, lambda: 0.0) == pytest.approx(wait_s - 0.4)


@pytest.mark.parametrize("verdict", [LIMITED, FAILED])
def test_nobody_waits_longer_than_is_worth_it(verdict):
    """It goes elsewhere at once, and where there is nowhere else the client is told."""
    assert tries(way(router(ONE)), verdict=verdict, wait_s=9.0) == ["one"]
    assert tries(way(router(TWO)), verdict=verdict, wait_s=9.0) == ["one", "two"]


def test_elsewhere_there_is_no_wait():
    itinerary = way(router(TWO))
    fail(itinerary, itinerary.choose(0.0), 0.0, LIMITED, 3.0)
    place = itinerary.choose(0.0)

    assert (named(place), itinerary.pause_s(place, 0.0, lambda: 1.0)) == ("two", 0.0)


@pytest.mark.parametrize(
    ("at", "wait_s", "goes"),
    [(19.4, 0.0, True), (19.6, 0.0, False), (14.0, 5.0, True), (16.0, 5.0, False)],
)
def test_no_attempt_begins_after_the_time_for_it(at, wait_s, goes):
    """However chance has it: the longest pause that may come is reckoned with."""
    itinerary = way(router(ONE, retry_within_s=20))
    fail(itinerary, itinerary.choose(0.0), at, FAILED, wait_s)

    assert (itinerary.choose(at) is not None) is goes


def test_elsewhere_is_tried_up_to_the_last_moment():
    for at, expected in ((19.9, "two"), (20.0, None)):
        itinerary = way(router(TWO, retry_within_s=20))
        fail(itinerary, itinerary.choose(0.0), at)
        assert named(itinerary.choose(at)) == expected


def test_the_first_attempt_may_begin_however_late():
    """It may have waited in a queue, or for its hold."""
    assert named(way(router(ONE, retry_within_s=0)).choose(1_000.0)) == "one"


def test_with_no_time_for_another_nothing_is_tried_again():
    assert tries(way(router(TWO, retry_within_s=0))) == ["one"]


def test_a_refused_key_is_out_with_all_that_go_by_it():
    targets = [target("one", "a"), target("one", "b", order=2), target("two", order=3)]
    known = router(targets, names={"one": ["k1"]})

    assert tries(way(known), verdict=REFUSED) == ["one", "two"]


def test_the_other_keys_of_a_target_are_tried_where_one_is_refused():
    known = router(ONE, names={"one": ["k1", "k2", "k3"]}, max_attempts=9)

    assert sorted(tries(way(known), verdict=REFUSED)) == ["one", "one1", "one2"]


def test_what_a_target_does_not_take_is_not_repeated_with_its_other_keys():
    known = router(TWO, names={"one": ["k1", "k2"]}, max_attempts=9)

    assert [name[:3] for name in tries(way(known), verdict=ELSEWHERE)] == ["one", "two"]


def test_a_clients_own_mistake_ends_the_way():
    assert tries(way(router(ALIKE)), verdict=FINAL) == [named(way(router(ALIKE)).choose(0.0))]


def test_what_cannot_take_a_request_is_left_out_alone_or_with_its_like():
    targets = [target("one", "a"), target("one", "b", order=2), target("two", order=3)]
    known = router(targets, names={"one": ["k1", "k2"]}, max_attempts=9, breaker_failures=99)
    for alike, left in (
        (lambda each: each, 4),
        (lambda each: each.target, 3),
        (lambda each: each.target.upstream, 1),
    ):
        itinerary = way(known)
        itinerary.skip(itinerary.choose(0.0), alike)
        assert len(set(_places_of(itinerary))) == left


def _places_of(itinerary):
    """Name the places that are left, each as it is left out in its turn."""
    while (place := itinerary.choose(0.0)) is not None:
        yield place.ident
        itinerary.skip(place)


def test_a_resting_key_comes_last_and_is_never_refused():
    known = router(ALIKE, names={"one": ["k1", "k2"]}, max_attempts=9)
    resting = way(known).choose(0.0)
    resting.of_key.rest(30.0)

    order = []
    itinerary = way(known)
    while (place := itinerary.choose(0.0)) is not None:
        order.append(place)
        itinerary.skip(place)
    assert (order[-1], len(order)) == (resting, 4)
    assert way(known).choose(30.0) is resting

    for place in order:
        place.of_key.rest(60.0)
    assert way(known).choose(31.0) is resting


def test_an_open_breaker_is_gone_round_at_once():
    known = router(TWO)
    opened(way(known).choose(0.0), 0.0)

    assert named(way(known, 4.9).choose(4.9)) == "two"
    assert named(way(known, 5.0).choose(5.0)) == "one"


@pytest.mark.parametrize(("now", "wait_s"), [(2.0, 3), (2.5, 3), (3.0, 2), (4.5, 1), (4.99, 1)])
def test_where_all_have_been_failing_the_refusal_says_when_the_first_is_tried_again(now, wait_s):
    known = router(TWO)
    one = opened(way(known).choose(0.0), 0.0)
    two = opened(way(known).choose(0.0), 2.0)
    itinerary = way(known, now)

    assert (named(one), named(two)) == ("one", "two")
    assert itinerary.choose(now) is None
    error = itinerary.refusal(now)
    assert isinstance(error, UpstreamOverloaded)
    assert error.retry_after_s == wait_s
    assert str(error).endswith(f"tries again in {wait_s} s.")


def test_a_conversation_stays_where_it_is():
    known = router(ALIKE)
    first = {name: served(known, name) for name in _conversations(50)}

    for turn in range(10):
        assert {name: served(known, name, float(turn)) for name in first} == first
    assert len(set(first.values())) == 3


def test_a_conversation_that_had_to_move_stays_where_it_went():
    known = router(ALIKE)
    itinerary = way(known)
    first = itinerary.choose(0.0)
    fail(itinerary, first)
    second = itinerary.choose(0.0)
    itinerary.went(second, 0.0)

    assert second is not first
    assert {served(known, b"c", now) for now in (1.0, 100.0, 3_000.0)} == {named(second)}


def test_a_conversation_comes_back_from_another_group_with_its_first_target():
    """A target of a higher order, and a fallback, are for as long as there is need."""
    known = router(TWO)
    itinerary = way(known)
    fail(itinerary, itinerary.choose(0.0))
    itinerary.went(itinerary.choose(0.0), 0.0)

    assert served(known, b"c", 1.0) == "one"


def test_a_model_with_one_place_does_not_ask_for_the_conversation():
    asked = []

    itinerary = router(ONE).itinerary("smart", Protocol.ANTHROPIC, lambda: asked.append(1), 0.0)
    itinerary.went(itinerary.choose(0.0), 0.0)

    assert asked == []


@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1), (5, 3, 2), (8, 1, 1)])
@pytest.mark.parametrize("keys", [1, 2])
def test_a_thousand_conversations_spread_by_weight(weights, keys):
    targets = [target(up, weight=w) for up, w in zip(UPSTREAMS, weights, strict=False)]
    names = {upstream: [f"k{n}" for n in range(keys)] for upstream in UPSTREAMS}
    known = router(targets, names=names)
    firsts = (way(known, 0.0, name).choose(0.0) for name in _conversations(1000))
    counts = Counter(place.target.upstream for place in firsts)

    for upstream, weight in zip(UPSTREAMS, weights, strict=False):
        fair = 1000 * weight / sum(weights)
        assert abs(counts[upstream] - fair) <= 0.1 * fair, counts


def test_those_that_must_move_spread_by_weight_too():
    """Else the first of the second group would have them all, and fail as well."""
    targets = [target("one"), target("two", order=2), target("three", order=2, weight=3)]
    known = router(targets, breaker_failures=9_999)
    counts = Counter()
    for name in _conversations(1000):
        itinerary = way(known, 0.0, name)
        fail(itinerary, itinerary.choose(0.0))
        counts[named(itinerary.choose(0.0))] += 1

    assert counts["three"] == pytest.approx(750, abs=60)


def test_a_weight_of_nothing_is_for_when_no_other_is_there():
    targets = [target("one", order=2, weight=0), target("two"), target("three", order=2)]

    for name in _conversations(20):
        assert tries(way(router(targets), 0.0, name)) == ["two", "three", "one"]


def test_what_the_router_learned_outlives_a_reload():
    known = router(ALIKE)
    first = {name: served(known, name) for name in _conversations(50)}
    config = config_of({"smart": ALIKE}, UPSTREAMS)
    known.adopt(config, keys_of(config))

    assert {name: served(known, name) for name in first} == first


def test_a_fallback_is_the_last_to_be_tried():
    models = {
        "smart": {"targets": ONE, "fallback": "fast", **FREE},
        "fast": [target("two")],
    }
    config = config_of(models, UPSTREAMS)
    itinerary = way(Router(config, keys_of(config)))
    first = itinerary.choose(0.0)
    fail(itinerary, first)

    assert (first.model, itinerary.choose(0.0).model) == ("smart", "fast")


def _conversations(count):
    random = Random(3)
    return [random.randbytes(16) for _ in range(count)]
