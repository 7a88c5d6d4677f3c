"""The bucket against an exact replay: what is out, had every request taken what it came to."""

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from server.limits.bucket import MINUTE_NS, SECOND_NS, Bucket

LIMITS = st.integers(1, 400)
TOKENS = st.integers(0, 900)
PAUSES = st.integers(0, 90 * SECOND_NS) | st.sampled_from([0, 1, SECOND_NS, MINUTE_NS])


def out_after(log, limit, now_ns):
    """Replay a log of (time, tokens) from the start, in fractions; give the tokens that are out."""
    out, at = Fraction(0), 0
    for time_ns, tokens in [*log, (now_ns, 0)]:
        out = max(Fraction(0), out - Fraction((time_ns - at) * limit, MINUTE_NS)) + tokens
        at = time_ns
    return out


def out_of(bucket, limit, now_ns):
    """Read what is out of a bucket, in tokens: nothing else shows it exactly."""
    bucket.wait_s(0, limit, now_ns)
    return Fraction(bucket._out, MINUTE_NS)


@given(LIMITS, st.lists(st.tuples(PAUSES, st.integers(1, 900)), max_size=30))
def test_the_wait_is_the_first_whole_second_at_which_the_same_request_passes(limit, asked):
    bucket, log, now = Bucket(), [], 0

    for pause, tokens in asked:
        now += pause
        wait_s = bucket.wait_s(tokens, limit, now)
        room = limit - min(tokens, limit)

        assert out_after(log, limit, now + wait_s * SECOND_NS) <= room
        if wait_s:
            assert out_after(log, limit, now + (wait_s - 1) * SECOND_NS) > room
        else:
            bucket.spend(tokens, now)
            log.append((now, tokens))


@given(
    st.sampled_from([7, 60, 120]),
    st.lists(
        st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 5), st.integers(0, 20)),
        max_size=25,
    ),
)
@example(60, [(0, True, 0, 20), (1, True, 0, 10), (25, True, 0, 20), *[(0, False, 0, 0)] * 2])
@example(60, [(0, True, 0, 20), (9, True, 0, 20), (9, True, 0, 9), *[(0, False, 0, 0)] * 3])
@example(60, [(0, True, 0, 9), (5, True, 0, 9), (5, False, 1, 0), (1, False, 0, 0)])
def test_what_is_out_is_as_if_nobody_had_ever_taken_too_much(limit, events):
    """However requests overlap: a correction counts from when its request began.

    What a request came to beyond its estimate counts from its end.
    """
    bucket, now, log, open_ = Bucket(), 0, [], []

    for pause_s, begins, which, tokens in events:
        now += pause_s * SECOND_NS
        if begins or not open_:
            open_.append((bucket.take(tokens, now), len(log)))
            log.append((now, tokens))
        else:
            taken, at = open_.pop(which % len(open_))
            begun, estimate = log[at]
            bucket.settle(taken, tokens, now)
            log[at] = (begun, min(estimate, tokens))
            log.append((now, max(0, tokens - estimate)))

        assert out_of(bucket, limit, now) == out_after(log, limit, now)
        now += 1
        assert out_of(bucket, limit, now) == out_after(log, limit, now)


@given(LIMITS, st.lists(st.tuples(PAUSES, TOKENS), min_size=1, max_size=30))
def test_no_minute_lets_more_pass_than_a_bucket_and_what_flows_back(limit, asked):
    bucket, log, now = Bucket(), [], 0
    for pause, tokens in asked:
        now += pause
        if tokens <= limit and not bucket.wait_s(tokens, limit, now):
            bucket.spend(tokens, now)
            log.append((now, tokens))

    for begin, _ in log:
        passed = sum(tokens for at, tokens in log if begin <= at < begin + MINUTE_NS)
        assert passed <= 2 * limit


def test_a_minutes_worth_is_there_at_once_and_then_flows_back_evenly():
    bucket = Bucket()
    passed = []
    for second in range(61):
        while not bucket.wait_s(1, 6, second * SECOND_NS):
            bucket.spend(1, second * SECOND_NS)
            passed.append(second)

    assert passed == [0] * 6 + [10, 20, 30, 40, 50, 60]


def test_a_request_larger_than_the_bucket_passes_when_it_is_full_and_leaves_a_debt():
    bucket = Bucket()

    assert bucket.wait_s(250, 100, 0) == 0
    bucket.spend(250, 0)

    assert bucket.wait_s(1, 100, 0) == 91  # 151 tokens have to flow back: 90.6 s
    assert bucket.wait_s(250, 100, 0) == 150
    assert bucket.wait_s(250, 100, 150 * SECOND_NS) == 0


def test_what_flowed_back_of_an_estimate_is_not_given_twice():
    bucket = Bucket()
    taken = bucket.take(100, 0)
    bucket.take(100, MINUTE_NS)  # the first hundred have flowed back by now

    bucket.settle(taken, 0, MINUTE_NS)

    assert bucket.wait_s(100, 100, MINUTE_NS) == 60


def test_a_raised_limit_counts_from_then_on():
    bucket = Bucket()
    assert bucket.wait_s(60, 60, 0) == 0
    bucket.spend(60, 0)

    assert bucket.wait_s(600, 600, 30 * SECOND_NS) == 3  # 30 were out, and 10 flow in a second


def test_a_lowered_limit_locks_nobody_out_for_longer_than_the_former():
    """A minute's worth of a million tokens is back within that minute, at ten thousand too."""
    bucket = Bucket()
    assert bucket.wait_s(1_000_000, 1_000_000, 0) == 0
    taken = bucket.take(1_000_000, 0)

    assert bucket.wait_s(10_000, 10_000, 0) == 60
    assert bucket.wait_s(10_000, 10_000, 45 * SECOND_NS) == 15
    assert bucket.wait_s(1_000, 1_000, 45 * SECOND_NS) == 15
    bucket.settle(taken, 0, 45 * SECOND_NS)
    assert bucket.wait_s(1_000, 1_000, 45 * SECOND_NS) == 0
