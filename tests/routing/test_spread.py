"""Where conversations go: the same place for each, and fair shares for the places."""

import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.routing.spread import Pins, ranked


@dataclass(frozen=True)
class Place:
    ident: str
    weight: int = 1


A, B, C = Place("claude/one"), Place("claude/two"), Place("other/one")
WEIGHTS = [(1, 1), (1, 1, 1), (3, 1), (5, 3, 2), (8, 1, 1), (9, 1), (2, 3, 5, 7), (1,) * 8]


def places(weights):
    return [Place(f"place-{number}", weight) for number, weight in enumerate(weights)]


def conversations(count, seed=0):
    random = Random(seed)
    return [random.randbytes(16) for _ in range(count)]


def idents(order):
    return [each.ident for each in order]


def first_choices(pins, names, candidates):
    return Counter(pins.choose(each, candidates, 0.0)[0].ident for each in names)


def assert_fair(counts, candidates, total):
    """Every place has its weight's part of `total`, give or take a tenth of that part."""
    weights = sum(each.weight for each in candidates)
    for each in candidates:
        fair = total * each.weight / weights
        assert abs(counts[each.ident] - fair) <= 0.1 * fair, (each, counts)


def test_the_order_is_the_same_for_ever():
    """These orders are written down: a change of the hash would move every conversation."""
    orders = ["".join(e.ident[-1] for e in ranked(b"c%d" % n, places((1, 2, 3)))) for n in range(8)]

    assert orders == ["210", "201", "210", "021", "210", "201", "201", "201"]


def test_another_process_ranks_alike():
    code = (
        "from collections import namedtuple; from server.routing.spread import ranked;"
        "P = namedtuple('P', 'ident weight');"
        "print([p.ident for p in ranked(b'conversation', [P(f'p{n}', 1) for n in range(9)])])"
    )

    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(answers) == 1


@given(st.binary(max_size=80), st.permutations(places((0, 1, 2, 3, 0))))
def test_the_order_of_the_candidates_does_not_matter(conversation, shuffled):
    assert ranked(conversation, shuffled) == ranked(conversation, places((0, 1, 2, 3, 0)))


@given(st.binary(max_size=80), st.integers(0, 4))
def test_a_missing_candidate_moves_only_its_own(conversation, missing):
    everyone = places((3, 1, 4, 1, 5))
    others = [each for each in everyone if each != everyone[missing]]

    whole = ranked(conversation, everyone)

    assert ranked(conversation, others) == [e for e in whole if e != everyone[missing]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_ranks_follow_the_weights(weights):
    everyone, count = places(weights), 20_000
    firsts = Counter(ranked(each, everyone)[0].ident for each in conversations(count))

    for each in everyone:
        part = each.weight / sum(weights)
        # Four standard deviations; the seed is fixed.
        assert abs(firsts[each.ident] - part * count) < 4 * (count * part * (1 - part)) ** 0.5


def test_weight_nought_comes_after_all_others():
    spare, other_spare = Place("a-spare", 0), Place("b-spare", 0)

    for each in conversations(200):
        order = ranked(each, [spare, A, other_spare, B])
        assert {*order[:2]} == {A, B}
        assert {*order[2:]} == {spare, other_spare}
        assert Pins().choose(each, [spare, A, other_spare, B], 0.0)[2:] == order[2:]


def test_spares_serve_when_all_others_are_gone():
    spares = places((0, 0))

    assert {*first_choices(Pins(), conversations(200), spares)} == {"place-0", "place-1"}


def test_no_candidates_give_no_order():
    assert ranked(b"c", []) == Pins().choose(b"c", [], 0.0) == []


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_conversations_spread_within_a_tenth_of_the_weights(weights, seed):
    everyone = places(weights)

    counts = first_choices(Pins(), conversations(1000, seed), everyone)

    assert_fair(counts, everyone, 1000)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("favourite", [0, -1])
def test_they_do_so_though_all_of_them_would_go_to_one(weights, favourite):
    everyone = places(weights)
    favoured = everyone[favourite]
    stream = conversations(20_000)
    names = [each for each in stream if ranked(each, everyone)[0] == favoured][:1000]

    counts = first_choices(Pins(), names, everyone)

    assert_fair(counts, everyone, len(names))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_they_do_so_in_the_worst_order(weights):
    everyone = places(weights)
    names = sorted(conversations(1000), key=lambda each: idents(ranked(each, everyone)))

    assert_fair(first_choices(Pins(), names, everyone), everyone, 1000)


def test_most_conversations_go_by_rank_and_so_find_back_after_a_restart():
    everyone, names = places((1, 1, 1)), conversations(300)
    before = {each: Pins().choose(each, everyone, 0.0)[0] for each in names}
    random, pins = Random(1), Pins()

    after = {e: pins.choose(e, everyone, 0.0)[0] for e in random.sample(names, len(names))}

    assert sum(before[each] == after[each] for each in names) > 240


def test_the_rest_of_the_order_is_by_rank():
    pins, everyone = Pins(), places((1, 1, 1, 1))
    pins.went(b"c", "place-2", 0.0)

    order = pins.choose(b"c", everyone, 1.0)

    assert order[0].ident == "place-2"
    assert order[1:] == [e for e in ranked(b"c", everyone) if e.ident != "place-2"]


def test_a_conversation_stays_where_it_had_to_move_to():
    """Its first place is back, but its prompt cache is where it was served last."""
    pins, everyone = Pins(), [A, B, C]
    first, second, third = pins.choose(b"c", everyone, 0.0)

    moved = pins.choose(b"c", [second, third], 1.0)[0]
    pins.went(b"c", moved.ident, 1.0)

    for now in range(2, 50):
        assert pins.choose(b"c", everyone, float(now))[0] == moved
    assert first in pins.choose(b"c", everyone, 60.0)[1:]


def test_where_it_was_served_counts_and_not_where_it_was_to_go():
    """All candidates are offered, the caller passes over the first and says where it went."""
    pins, everyone = Pins(), [A, B, C]
    _, second, _ = pins.choose(b"c", everyone, 0.0)

    pins.went(b"c", second.ident, 0.5)

    assert pins.choose(b"c", everyone, 1.0)[0] == second


def test_it_goes_home_when_its_place_was_missing_for_a_moment_and_nobody_served_it():
    pins, everyone = Pins(), [A, B, C]
    first, *others = pins.choose(b"c", everyone, 0.0)

    pins.choose(b"c", others, 1.0)

    assert pins.choose(b"c", everyone, 2.0)[0] == first


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (2, 3, 5, 7)])
def test_only_those_of_a_failed_place_move_and_nobody_when_it_is_back(weights):
    pins, everyone, names = Pins(), places(weights), conversations(1000)
    before = {each: pins.choose(each, everyone, 0.0)[0] for each in names}
    left = everyone[1:]

    during = {}
    for each in names:
        during[each] = pins.choose(each, left, 1.0)[0]
        pins.went(each, during[each].ident, 1.0)
    after = {each: pins.choose(each, everyone, 2.0)[0] for each in names}

    stayed = {each: place for each, place in before.items() if place in left}
    assert {each: during[each] for each in stayed} == stayed
    assert after == during
    assert_fair(Counter(place.ident for place in during.values()), left, 1000)


def test_new_conversations_fill_the_place_that_is_back():
    pins, everyone = Pins(), places((1, 1))
    for each in conversations(100):
        pins.went(each, "place-1", 0.0)

    counts = first_choices(pins, conversations(80, seed=9), everyone)

    assert counts == {"place-0": 80}


def test_it_is_forgotten_when_it_was_silent_for_too_long():
    pins, everyone = Pins(keep_s=100.0), [A, B, C]
    first, second, _ = ranked(b"c", everyone)
    pins.went(b"c", second.ident, 0.0)

    assert pins.choose(b"c", everyone, 99.0)[0] == second
    assert pins.choose(b"c", everyone, 198.0)[0] == second
    assert pins.choose(b"c", everyone, 298.0)[0] == first


def test_the_forgotten_do_not_count_as_known():
    pins, everyone = Pins(keep_s=100.0), places((1, 1))
    for each in conversations(500):
        pins.went(each, "place-1", 0.0)

    pins.choose(b"later", everyone, 100.0)

    assert len(pins) == 1
    assert_fair(first_choices(pins, conversations(1000, seed=3), everyone), everyone, 1000)


def test_the_longest_silent_makes_room():
    pins, everyone = Pins(most=3), [A, B, C]
    moved = {name: ranked(name, everyone)[-1].ident for name in (b"1", b"2", b"3", b"4")}
    for name in (b"1", b"2", b"3"):
        pins.went(name, moved[name], 0.0)
    pins.choose(b"1", everyone, 1.0)

    pins.went(b"4", moved[b"4"], 2.0)

    assert len(pins) == 3
    stays = {n: pins.choose(n, everyone, 3.0)[0].ident == moved[n] for n in (b"1", b"3", b"4")}
    assert stays == {b"1": True, b"3": True, b"4": True}
    assert pins.choose(b"2", everyone, 3.0)[0] == ranked(b"2", everyone)[0]


def test_memory_is_bounded_however_many_and_long_the_names_are():
    pins, everyone = Pins(most=50), [A, B, C]

    for number in range(500):
        name = b"%d" % number + b"x" * 10_000
        order = pins.choose(name, everyone, 0.0)
        pins.went(name, order[number % 3].ident, 0.0)

    assert len(pins) == sum(pins._counts.values()) == 50
    assert max(len(name) for name in pins._pins) < 50


def test_places_that_are_gone_for_good_leave_nothing_behind():
    pins = Pins(most=10)

    for number in range(500):
        pins.went(b"%d" % number, f"place-{number}", 0.0)

    assert len(pins._counts) == 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["choose", "went"]),
            st.integers(0, 6),
            st.lists(st.sampled_from([A, B, C]), min_size=1, unique=True),
            st.sampled_from([0.0, 1.0, 60.0]),
        ),
        max_size=60,
    )
)
def test_whatever_happens_all_are_offered_and_the_counts_are_right(steps):
    pins, now = Pins(most=5, keep_s=50.0), 0.0

    for what, number, candidates, wait in steps:
        now, name = now + wait, b"%d" % number
        if what == "went":
            pins.went(name, candidates[0].ident, now)
        else:
            order = pins.choose(name, candidates, now)
            assert sorted(idents(order)) == sorted(idents(candidates))
        assert len(pins) <= 5
        assert pins._counts == Counter(ident for ident, _ in pins._pins.values())


@pytest.mark.parametrize("shuffled", list(permutations([A, B, C])))
def test_a_known_conversation_does_not_care_for_the_order_of_the_candidates(shuffled):
    pins = Pins()
    pins.went(b"c", B.ident, 0.0)

    assert pins.choose(b"c", shuffled, 0.0)[0] == B


def test_choosing_costs_a_few_microseconds():
    pins, everyone, names = Pins(), [A, B, C], conversations(2000)
    for each in names:
        pins.choose(each, everyone, 0.0)

    began = time.process_time()
    for each in names:
        pins.choose(each, everyone, 1.0)
    cost_us = (time.process_time() - began) / len(names) * 1e6

    assert cost_us < 50  # 5 where nothing disturbs
