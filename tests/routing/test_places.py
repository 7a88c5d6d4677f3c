"""Where a model can be served: the order of its places, their weights, their breakers."""

import pytest
from support.providers import ANTHROPIC, DEMO, FREE, OPENAI, config_of, laid_out, target

from server.errors import UpstreamRefused
from server.protocols import Protocol
from server.routing.breaker import State
from server.routing.places import Breakers
from server.routing.verdict import Blame, Verdict, judge

UPSTREAMS = {"claude": ANTHROPIC, "gpt": OPENAI, "demo": DEMO}
REFUSED = Verdict(Blame.KEY, may_repeat=False, may_move=True)
FAILED = Verdict(Blame.TARGET, may_repeat=True, may_move=True)
LIMITED = Verdict(Blame.RATE, may_repeat=True, may_move=True)


def places(targets, protocol=Protocol.ANTHROPIC, **names):
    return laid_out(config_of({"smart": targets}, UPSTREAMS), **names).of("smart", protocol)


def order(found):
    return [(each.target.model, each.group) for each in found]


def fail(place, verdict=FAILED, times=1):
    for _ in range(times):
        place.begin(0.0).failed(verdict, 0.0, reason="failed", retry_after_s=3.0)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (Protocol.ANTHROPIC, [("c1", 0), ("d1", 0), ("g1", 1), ("g2", 1)]),
        (Protocol.OPENAI, [("g1", 0), ("d1", 0), ("g2", 0), ("c1", 1)]),
    ],
)
def test_targets_that_speak_the_callers_protocol_come_first(protocol, expected):
    targets = [target("gpt", "g1"), target("claude", "c1"), target("demo", "d1")]

    assert order(places([*targets, target("gpt", "g2")], protocol)) == expected


def test_the_order_that_the_config_says_stands_above_the_protocol():
    targets = [target("claude", "c2", order=2), target("gpt", "g1"), target("gpt", "g2", order=2)]

    assert order(places(targets)) == [("g1", 0), ("c2", 1), ("g2", 2)]


@pytest.mark.parametrize("protocol", [Protocol.ANTHROPIC, Protocol.OPENAI])
def test_a_model_without_a_target_for_the_protocol_is_served_by_those_it_has(protocol):
    assert order(places([target("gpt", "g1")], protocol)) == [("g1", 0)]
    assert order(places([target("claude", "c1")], protocol)) == [("c1", 0)]


@pytest.mark.parametrize("count", range(1, 11))
def test_the_keys_of_a_target_share_its_weight(count):
    names = [f"k{number}" for number in range(count)]
    found = places([target("claude", weight=3), target("demo")], claude=names)
    of_claude = [each for each in found if each.target.upstream == "claude"]
    (of_demo,) = (each for each in found if each.target.upstream == "demo")

    assert [each.key for each in of_claude] == list(range(count))
    assert len({each.weight for each in of_claude}) == 1
    assert sum(each.weight for each in of_claude) == 3 * of_demo.weight
    assert len({each.ident for each in found}) == len(found)


def test_a_weight_of_nothing_stays_nothing_for_each_key():
    assert [each.weight for each in places([target("claude", weight=0)], claude="ab")] == [0, 0]


def test_fallbacks_stand_behind_all_targets_one_behind_the_other():
    models = {
        "smart": {
            "targets": [target("gpt", "s2"), target("claude", "s1")],
            "fallback": "fast",
            **FREE,
        },
        "fast": {"targets": [target("claude", "f1")], "fallback": "cheap", **FREE},
        "cheap": [target("gpt", "c2"), target("demo", "c1")],
    }
    found = laid_out(config_of(models, UPSTREAMS)).of("smart", Protocol.ANTHROPIC)

    assert [(each.model, each.target.model, each.group) for each in found] == [
        ("smart", "s1", 0), ("smart", "s2", 1), ("fast", "f1", 2),
        ("cheap", "c1", 3), ("cheap", "c2", 4),
    ]  # fmt: skip


def test_models_share_the_breakers_of_a_target_and_of_a_key():
    models = {
        "smart": [target("claude", "same")],
        "also": [target("claude", "same")],
        "other": [target("claude", "another")],
    }
    of = laid_out(config_of(models, UPSTREAMS)).of
    smart, also, other = (of(name, Protocol.ANTHROPIC)[0] for name in models)

    assert smart.of_target is also.of_target
    assert smart.of_target is not other.of_target
    assert smart.of_key is also.of_key is other.of_key


def test_breakers_outlive_a_reload_and_are_forgotten_with_what_they_stand_for():
    breakers = Breakers()
    both = config_of({"smart": [target("claude"), target("demo")]}, UPSTREAMS)
    one = config_of({"smart": [target("demo")]}, UPSTREAMS)
    claude, demo = laid_out(both, breakers).of("smart", Protocol.ANTHROPIC)
    fail(claude, times=5)
    fail(demo, times=5)

    again = laid_out(both, breakers).of("smart", Protocol.ANTHROPIC)
    assert [each.of_target for each in again] == [claude.of_target, demo.of_target]
    assert [each.may_try(0.0) for each in again] == [False, False]

    laid_out(one, breakers)
    assert {str(part) for part, _ in breakers.items()} == {"demo/m", "demo key 1"}
    fresh, kept = laid_out(both, breakers).of("smart", Protocol.ANTHROPIC)
    assert (fresh.may_try(0.0), kept.may_try(0.0)) == (True, False)


def test_a_key_that_replaces_a_refused_one_is_tried_at_once():
    breakers = Breakers()
    config = config_of({"smart": [target("claude")]}, UPSTREAMS)
    old, other = laid_out(config, breakers, claude=["old", "other"]).of("smart", Protocol.ANTHROPIC)
    fail(old, REFUSED)
    assert (old.may_try(0.0), other.may_try(0.0)) == (False, True)

    new, same = laid_out(config, breakers, claude=["new", "other"]).of("smart", Protocol.ANTHROPIC)

    assert new.may_try(0.0)
    assert same.of_key is other.of_key


def test_a_refused_key_is_left_alone_and_its_target_is_not():
    first, second = places([target("claude")], claude=["k1", "k2"])
    fail(first, REFUSED)

    assert (first.may_try(0.0), second.may_try(0.0)) == (False, True)
    assert first.of_target.state(0.0) is State.CLOSED
    assert first.begin(0.0) is None


def test_a_limited_key_rests_and_is_not_refused():
    (place,) = places([target("claude")])
    fail(place, LIMITED)

    assert place.may_try(0.0)
    assert [place.of_key.is_resting(now) for now in (2.9, 3.0)] == [True, False]


def test_a_failing_target_is_left_alone_with_every_key():
    first, second = places([target("claude")], claude=["k1", "k2"])
    fail(first, times=5)

    assert not second.may_try(0.0)
    assert second.retry_at(0.0) == 5.0
    assert second.of_key.state(0.0) is State.CLOSED


def test_a_probe_of_the_target_is_given_back_where_the_key_is_refused():
    first, _ = places([target("claude")], claude=["k1", "k2"])
    fail(first, times=5)
    first.of_key.failed(first.of_key.begin(5.0), 5.0, at_once=True)

    assert first.begin(5.0) is None
    assert first.of_target.may_try(5.0)


def test_an_abandoned_leave_gives_back_the_probes_of_both():
    (place,) = places([target("claude")])
    fail(place, REFUSED)
    for _ in range(3):
        place.begin(5.0).abandoned(5.0)

    place.begin(5.0).served(5.0)
    assert place.of_key.state(5.0) is State.CLOSED


def test_any_answer_at_all_shows_that_a_target_works():
    (place,) = places([target("claude")])
    fail(place, times=5)
    verdict = judge(UpstreamRefused("too long", upstream_status=400), 400)
    place.begin(5.0).failed(verdict, 5.0, reason="invalid_request", retry_after_s=0.0)

    assert place.of_target.state(5.0) is State.CLOSED
