"""The quota: a window of 24 hours that opens by first use, and belongs to the holds it gave."""

from datetime import UTC, datetime, timedelta

import pytest
from support.money import DAY, HOUR, NOW, TICK, run

from server import clock
from server.billing import quota, subscriptions
from server.billing.allowance import Limits
from server.errors import QuotaExceeded, SubscriptionInactive
from server.store.models import Subscription

TIERS = {
    "solo": Limits(1000, 3),
    "counted": Limits(None, 2),
    "tokens": Limits(1000, None),
    "team": Limits(None, None),
}
STATUSES = {
    "active": True,
    "trialing": True,
    "past_due": False,
    "unpaid": False,
    "paused": False,
    "canceled": False,
    "incomplete": False,
    "incomplete_expired": False,
    "a word of the future": False,
}


@pytest.fixture
def tenant(house):
    put(house.tenant_id)
    return house.tenant_id


def put(tenant, tier="solo", status="active", **told):
    run(subscriptions.put, tenant, tier, status=status, source="stripe", now=NOW, **told)


def take(tenant, tokens, now=NOW, tiers=TIERS):
    return run(quota.take, tenant, tokens, tiers, clock.to_ms(now))


def change(tenant, tokens, window, tiers=TIERS):
    return run(quota.change, tenant, tokens, window, tiers)


def settle(tenant, window, held, used, *, served=True):
    run(quota.settle, tenant, window, held=held, used=used, served=served)


def free(tenant, now=NOW, tiers=TIERS):
    return quota.free_tokens(tenant, tiers, clock.to_ms(now))


def state(tenant):
    """Give the window's number and start, and what is used, held and counted in it."""
    row = Subscription.get_by_id(tenant)
    counts = (row.used_tokens, row.held_tokens, row.used_requests)
    return row.quota_window, row.window_started_at, *counts


def refusal(tenant, tokens, now=NOW, tiers=TIERS):
    return quota.refusal(tenant, tokens, tiers, now)


def test_first_use_opens_the_first_window(tenant):
    assert state(tenant) == (0, None, 0, 0, 0)

    assert take(tenant, 300) == 1

    assert state(tenant) == (1, NOW, 0, 300, 1)


def test_what_follows_counts_in_the_same_window(tenant):
    take(tenant, 300)

    assert take(tenant, 200, NOW + HOUR) == 1

    assert state(tenant) == (1, NOW, 0, 500, 2)


def test_what_is_settled_is_used_and_no_longer_held(tenant):
    window = take(tenant, 300)

    settle(tenant, window, held=300, used=120)

    assert state(tenant) == (1, NOW, 120, 0, 1)
    assert free(tenant) == 880


def test_more_may_be_used_than_was_held(tenant):
    window = take(tenant, 1000)

    settle(tenant, window, held=1000, used=1400)

    assert (state(tenant), free(tenant)) == ((1, NOW, 1400, 0, 1), -400)
    assert take(tenant, 0) is None


def test_a_request_that_was_not_served_is_given_back(tenant):
    window = take(tenant, 300)

    settle(tenant, window, held=300, used=0, served=False)

    assert state(tenant) == (1, NOW, 0, 0, 0)


@pytest.mark.parametrize(("tokens", "window"), [(400, 1), (401, None)])
def test_tokens_are_given_to_the_last_one(tenant, tokens, window):
    settle(tenant, take(tenant, 500), held=500, used=350)
    take(tenant, 250)

    assert take(tenant, tokens) == window

    assert state(tenant)[2:4] == (350, 250 + (tokens if window else 0))


def test_nothing_more_can_be_held_of_a_quota_that_is_just_used_up_but_nothing_itself(tenant):
    put(tenant, "tokens")
    take(tenant, 1000)

    assert take(tenant, 1) is None
    assert take(tenant, 0) == 1


def test_requests_are_given_to_the_last_one(tenant):
    windows = [take(tenant, 1) for _ in range(4)]

    assert windows == [1, 1, 1, None]
    assert state(tenant) == (1, NOW, 0, 3, 3)


def test_a_request_given_back_lets_another_in(tenant):
    for _ in range(3):
        take(tenant, 1)
    settle(tenant, 1, held=1, used=0, served=False)

    assert (take(tenant, 1), take(tenant, 1)) == (1, None)


def test_a_tier_may_limit_requests_alone(tenant):
    put(tenant, "counted")

    assert [take(tenant, 10**15) for _ in range(3)] == [1, 1, None]
    assert change(tenant, 10**15, 1)


def test_a_tier_without_limits_is_counted_all_the_same(tenant):
    put(tenant, "team")

    for _ in range(100):
        take(tenant, 10**15)

    assert state(tenant) == (1, NOW, 0, 100 * 10**15, 100)
    assert free(tenant) == 2**62


def test_a_window_lasts_a_day_to_the_millisecond(tenant):
    take(tenant, 1000)

    assert take(tenant, 1, NOW + DAY - TICK) is None
    assert take(tenant, 900, NOW + DAY) == 2
    assert state(tenant) == (2, NOW + DAY, 0, 900, 1)


def test_a_window_opens_when_it_is_used_and_not_when_the_last_has_ended(tenant):
    take(tenant, 1000)

    take(tenant, 900, NOW + 9 * DAY + TICK)

    # On a whole second: what a tenant is shown is cut to that, and must be exact.
    assert state(tenant) == (2, NOW + 9 * DAY, 0, 900, 1)


def test_a_refused_use_opens_no_window(tenant):
    take(tenant, 1000)

    assert take(tenant, 1001, NOW + DAY) is None

    assert state(tenant) == (1, NOW, 0, 1000, 1)


def test_what_ends_after_its_window_touches_neither(tenant):
    old = take(tenant, 300)
    new = take(tenant, 50, NOW + DAY)

    assert change(tenant, 10**12, old)
    assert change(tenant, -200, old)
    settle(tenant, old, held=300, used=700, served=False)

    assert state(tenant) == (new, NOW + DAY, 0, 50, 1)


def test_what_ends_late_belongs_to_its_window_until_another_opens(tenant):
    window = take(tenant, 300)

    settle(tenant, window, held=300, used=200)
    assert state(tenant) == (1, NOW, 200, 0, 1)

    assert free(tenant, NOW + DAY) == 1000


def test_a_hold_grows_to_the_limit_and_no_further(tenant):
    window = take(tenant, 300)
    settle(tenant, take(tenant, 100), held=100, used=100)

    assert not change(tenant, 601, window)
    assert change(tenant, 600, window)
    assert change(tenant, 0, window)
    assert not change(tenant, 1, window)
    assert state(tenant) == (1, NOW, 100, 900, 2)


def test_a_hold_shrinks_even_where_too_much_is_used(tenant):
    window = take(tenant, 300)
    put(tenant, "tiny")

    assert change(tenant, -100, window, {"tiny": Limits(10, 1)})

    assert state(tenant)[3] == 200


@pytest.mark.parametrize("back", [TICK, HOUR, timedelta(days=365), timedelta(days=20_000)])
def test_a_clock_that_was_set_back_neither_fills_the_quota_nor_withholds_it(tenant, back):
    settle(tenant, take(tenant, 600), held=600, used=600)

    assert take(tenant, 401, NOW - back) is None
    assert state(tenant) == (1, NOW, 600, 0, 1)
    assert take(tenant, 400, NOW - back) == 1

    begun = (NOW - back).replace(microsecond=0)
    assert state(tenant) == (1, begun, 600, 400, 2)
    assert take(tenant, 1, begun + DAY - TICK) is None
    assert take(tenant, 1000, begun + DAY) == 2


def test_a_hold_from_before_the_clock_was_set_back_ends_as_any_other(tenant):
    window = take(tenant, 600)
    take(tenant, 100, NOW - HOUR)

    settle(tenant, window, held=600, used=250)

    assert state(tenant) == (1, NOW - HOUR, 250, 100, 2)


@pytest.mark.parametrize(
    "begun",
    [
        datetime(2026, 3, 28, 22, 30, tzinfo=UTC),  # Europe's clocks go forward
        datetime(2026, 10, 24, 22, 30, tzinfo=UTC),  # and back
        datetime(2026, 12, 31, 12, 0, tzinfo=UTC),
        datetime(2028, 2, 28, 12, 0, tzinfo=UTC),  # a leap year
        datetime(1969, 12, 31, 12, 0, tzinfo=UTC),
    ],
)
def test_a_day_is_24_hours_whatever_the_calendar_says(tenant, begun):
    take(tenant, 1000, begun)

    assert take(tenant, 1, begun + DAY - TICK) is None
    assert refusal(tenant, 1, begun + TICK).retry_after_s == 86_400
    assert take(tenant, 1, begun + DAY) == 2


def test_times_of_any_zone_are_the_same_moments(tenant):
    tokyo = datetime(2026, 11, 22, 22, 0, tzinfo=UTC).astimezone(
        tz=datetime.fromisoformat("2026-01-01T00:00:00+09:00").tzinfo
    )
    take(tenant, 1000, tokyo)

    assert state(tenant)[1] == datetime(2026, 11, 22, 22, 0, tzinfo=UTC)


@pytest.mark.parametrize(("status", "counts"), STATUSES.items())
def test_only_a_subscription_that_counts_can_be_used(tenant, status, counts):
    put(tenant, status=status)

    assert take(tenant, 1) == (1 if counts else None)

    if not counts:
        assert state(tenant) == (0, None, 0, 0, 0)
        assert isinstance(refusal(tenant, 1), SubscriptionInactive)


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ({"status": "past_due", "grace_until": NOW + TICK}, True),
        ({"status": "past_due", "grace_until": NOW}, False),
        ({"cancel_at": NOW + TICK}, True),
        ({"cancel_at": NOW}, False),
        ({"status": "past_due", "grace_until": NOW + DAY, "cancel_at": NOW}, False),
    ],
)
def test_a_subscription_counts_until_its_last_millisecond(tenant, told, counts):
    put(tenant, **told)

    assert take(tenant, 1) == (1 if counts else None)


def test_without_a_subscription_there_is_no_quota(tenant):
    nobody = tenant + 1

    assert take(nobody, 0) is None
    assert free(nobody) is None
    assert not change(nobody, 1, 1)
    assert str(refusal(nobody, 1)) == (
        "There is no subscription. Subscribe with POST /tenant/billing/checkout, or ask the "
        "operator to run `gatewayctl subscription set`."
    )


def test_a_tier_that_is_gone_serves_nothing_more_and_lets_what_runs_go_on(tenant):
    window = take(tenant, 300)

    assert take(tenant, 0, tiers={}) is None
    assert free(tenant, tiers={}) is None
    assert change(tenant, 10**9, window, tiers={})
    assert str(refusal(tenant, 1, tiers={})).startswith("The tier solo is not offered any more. ")
    settle(tenant, window, held=300 + 10**9, used=50)

    assert state(tenant) == (1, NOW, 50, 0, 1)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"cancel_at": NOW}, "The subscription is over. "),
        ({"status": "trialing", "cancel_at": NOW}, "The subscription is over. "),
        ({"status": "unpaid"}, "The subscription is unpaid. "),
        ({"status": "past_due"}, "The subscription is past_due. "),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_subscription(tenant, told, words):
    put(tenant, **told)

    err = refusal(tenant, 1)

    assert isinstance(err, SubscriptionInactive)
    assert str(err).startswith(words)


def test_a_refusal_says_what_is_used_and_when_it_comes_back(tenant):
    settle(tenant, take(tenant, 600), held=600, used=600)
    take(tenant, 300)

    err = refusal(tenant, 1500, NOW + HOUR + timedelta(seconds=1, milliseconds=1))

    assert isinstance(err, QuotaExceeded)
    assert str(err) == (
        "The quota of 1,000 tokens in 24 hours has no room for this request: 600 are used, 300 "
        "are held by running requests, and it needs 1,500. It resets in 23 h 0 min, at "
        "2026-11-23T13:00:00Z."
    )
    assert (err.retry_after_s, err.held) == (82_799, 300)


def test_a_refusal_of_requests_says_so(tenant):
    for _ in range(3):
        take(tenant, 1)

    err = refusal(tenant, 1, NOW + DAY - TICK)

    assert str(err) == (
        "The quota of 3 requests in 24 hours is used up. It resets in 1 min, at "
        "2026-11-23T13:00:00Z."
    )
    assert (err.retry_after_s, err.held) == (1, 3)


@pytest.mark.parametrize("used_before", [False, True])
def test_a_request_too_large_for_a_whole_window_is_told_so(tenant, used_before):
    """What an earlier window held is no reason."""
    if used_before:
        take(tenant, 900, NOW - DAY)

    err = refusal(tenant, 1001)

    assert "0 are used, 0 are held by running requests, and it needs 1,001." in str(err)
    assert (err.retry_after_s, err.held) == (86_400, 0)


def test_a_refusal_after_the_clock_was_set_back_waits_a_day_at_most(tenant):
    take(tenant, 1000)

    err = refusal(tenant, 1, NOW - 400 * DAY)

    assert err.retry_after_s == 86_400
    assert "at 2025-10-19T13:00:00Z" in str(err)


@pytest.mark.parametrize("tier", ["team", "counted"])
def test_a_refusal_can_be_asked_for_after_its_reason_has_gone(tenant, tier):
    """Between a hold that failed and its refusal, the tenant may have been given another tier."""
    put(tenant, tier)
    take(tenant, 1)

    err = refusal(tenant, 700)

    assert isinstance(err, QuotaExceeded)
    assert str(err).startswith("The quota has changed just now. It resets in 24 h 0 min")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(0, "1 min"), (1, "1 min"), (60, "1 min"), (61, "2 min"), (3599, "1 h 0 min")],
        *[(3600, "1 h 0 min"), (18_720, "5 h 12 min"), (86_400, "24 h 0 min")],
    ],
)
def test_a_wait_is_told_to_the_minute_and_never_too_short(seconds, words):
    assert quota.in_words(seconds) == words
