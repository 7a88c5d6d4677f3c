import itertools
from datetime import UTC, datetime, timedelta

import pytest

from server import clock
from server.billing import quota as quotas
from server.billing import subscriptions
from server.billing.allowance import limits_of
from server.config.schema import Tier
from server.errors import Conflict, NotFound
from server.store import models
from server.store.db import open_database
from server.store.migrate import migrate
from server.store.models import Subscription
from server.tenants import tenants

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
TICK = timedelta(milliseconds=1)
TIERS = {
    "team": Tier(name="Team", price_cents=2000),
    "solo": Tier(name="Solo", price_cents=500, quota_tokens=1000, quota_requests=50),
}
STATUSES = (
    *("active", "trialing", "past_due", "unpaid", "paused", "canceled", "incomplete"),
    *("incomplete_expired", "a word of the future", ""),
)


@pytest.fixture
def tenant(tmp_path):
    migrate(tmp_path / "gateway.db")
    database = open_database(tmp_path / "gateway.db")
    yield tenants.ensure_default(NOW).id
    database.close()


def put(tenant, tier="solo", status="active", source="stripe", now=NOW, **told):
    subscriptions.put(tenant, tier, status=status, source=source, now=now, **told)


def use(tenant, **columns):
    """Write what the quota's own statements would have."""
    Subscription.update(columns).where(Subscription.tenant == tenant).execute()


def quota(tenant, now=NOW):
    return subscriptions.view(tenant, TIERS, now)["quota"]


def test_a_tenant_without_a_subscription_has_none(tenant):
    assert subscriptions.find(tenant) is None
    assert subscriptions.view(tenant, TIERS, NOW) == {
        "object": "subscription",
        "tier": None,
        "status": "none",
        "quota": None,
    }


def test_what_is_put_replaces_what_was_told_before(tenant):
    put(tenant, stripe_id="sub_fake", cancel_at=NOW, current_period_end=NOW, grace_until=NOW)
    put(tenant, "team", status="past_due", source="cli", now=NOW + HOUR)

    row = subscriptions.find(tenant)
    assert (row.tier, row.status, row.source) == ("team", "past_due", "cli")
    told = (row.stripe_id, row.cancel_at, row.current_period_end, row.grace_until)
    assert told == (None, None, None, None)
    assert (row.created_at, row.updated_at) == (NOW, NOW + HOUR)


def test_what_is_used_of_the_quota_outlives_a_change_of_tier(tenant):
    """Cancelling and coming back must not fill the quota up again."""
    window = {
        "quota_window": 7,
        "window_started_at": NOW,
        "used_tokens": 600,
        "held_tokens": 50,
        "used_requests": 3,
    }
    subscriptions.subscribe(tenant, "solo", TIERS, NOW)
    use(tenant, **window)

    subscriptions.cancel(tenant, NOW)
    subscriptions.subscribe(tenant, "team", TIERS, NOW)

    row = subscriptions.find(tenant)
    assert {name: getattr(row, name) for name in window} == window


def test_a_tier_is_given_at_once_without_stripe(tenant):
    subscriptions.subscribe(tenant, "team", TIERS, NOW)

    row = subscriptions.find(tenant)
    assert (row.tier, row.status, row.source) == ("team", "active", "cli")
    assert subscriptions.is_entitled(row, NOW)


@pytest.mark.parametrize(
    ("tier", "tiers", "hint"),
    [
        ("taem", TIERS, "There is no tier 'taem'. Did you mean team?"),
        ("Team", TIERS, "There is no tier 'Team'. Did you mean team?"),
        ("enterprise", TIERS, "no tier 'enterprise'. `tiers` in the config has team, solo."),
        ("team", {}, "There is no tier 'team'. `tiers` in the config has none."),
    ],
)
def test_an_unknown_tier_is_refused_with_near_ones(tenant, tier, tiers, hint):
    with pytest.raises(NotFound, match=hint):
        subscriptions.subscribe(tenant, tier, tiers, NOW)

    assert subscriptions.find(tenant) is None


@pytest.mark.parametrize("status", [s for s in STATUSES if s not in subscriptions.ENDED])
def test_what_stripe_still_manages_is_left_to_the_portal(tenant, status):
    put(tenant, status=status, stripe_id="sub_fake")

    with pytest.raises(Conflict, match=r"managed by Stripe: .* in the billing portal"):
        subscriptions.subscribe(tenant, "team", TIERS, NOW)
    with pytest.raises(Conflict, match=r"managed by Stripe: .* in the billing portal"):
        subscriptions.cancel(tenant, NOW)

    row = subscriptions.find(tenant)
    assert (row.tier, row.status, row.stripe_id) == ("solo", status, "sub_fake")


@pytest.mark.parametrize("status", subscriptions.ENDED)
def test_what_stripe_has_ended_can_be_given_without_it(tenant, status):
    put(tenant, status=status, stripe_id="sub_fake")

    subscriptions.cancel(tenant, NOW)
    ended = subscriptions.find(tenant)
    subscriptions.subscribe(tenant, "team", TIERS, NOW)

    assert (ended.status, ended.source) == (status, "stripe")
    assert subscriptions.find(tenant).source == "cli"


def test_cancelling_ends_it_at_once_and_twice_is_harmless(tenant):
    subscriptions.subscribe(tenant, "team", TIERS, NOW)

    subscriptions.cancel(tenant, NOW + HOUR)
    subscriptions.cancel(tenant, NOW + 2 * HOUR)

    row = subscriptions.find(tenant)
    assert (row.status, row.updated_at) == ("canceled", NOW + HOUR)
    assert not subscriptions.is_entitled(row, NOW + HOUR)


def test_nothing_to_cancel_is_not_found(tenant):
    with pytest.raises(NotFound, match="no subscription to cancel"):
        subscriptions.cancel(tenant, NOW)


@pytest.mark.parametrize(
    ("status", "entitled"), [(s, s in ("active", "trialing")) for s in STATUSES]
)
def test_only_words_that_are_known_to_count_do(tenant, status, entitled):
    put(tenant, status=status)

    assert subscriptions.is_entitled(subscriptions.find(tenant), NOW) is entitled


def test_a_late_payment_counts_until_its_grace_has_passed(tenant):
    put(tenant, status="past_due", grace_until=NOW)
    row = subscriptions.find(tenant)

    assert subscriptions.is_entitled(row, NOW - TICK)
    assert not subscriptions.is_entitled(row, NOW)


def test_a_subscription_counts_until_its_last_moment(tenant):
    put(tenant, cancel_at=NOW)
    row = subscriptions.find(tenant)

    assert subscriptions.is_entitled(row, NOW - TICK)
    assert not subscriptions.is_entitled(row, NOW)


def test_the_statement_says_the_same_as_the_function(tenant):
    """One decides requests, the other what people are told."""
    moments = (None, NOW - TICK, NOW, NOW + TICK)
    seen = set()
    for status, grace, cancel in itertools.product(STATUSES, moments, moments):
        put(tenant, status=status, grace_until=grace, cancel_at=cancel)
        entitled = subscriptions.is_entitled(subscriptions.find(tenant), NOW)

        told = models.database.execute_sql(
            f"SELECT {subscriptions.ENTITLED} FROM subscription",
            {"now": clock.to_ms(NOW)},
        ).fetchone()

        assert told == (int(entitled),), (status, grace, cancel)
        seen.add(entitled)
    assert seen == {True, False}


def test_a_view_has_the_shape_of_the_api(tenant):
    put(tenant, cancel_at=NOW + 10 * DAY, current_period_end=NOW + 10 * DAY)
    use(tenant, window_started_at=NOW - HOUR, used_tokens=600, held_tokens=50, used_requests=3)

    assert subscriptions.view(tenant, TIERS, NOW) == {
        "object": "subscription",
        "tier": "solo",
        "status": "active",
        "cancel_at": "2026-12-02T13:00:00Z",
        "current_period_end": "2026-12-02T13:00:00Z",
        "quota": {
            "window_seconds": 86400,
            "limit_tokens": 1000,
            "used_tokens": 600,
            "held_tokens": 50,
            "remaining_tokens": 350,
            "limit_requests": 50,
            "used_requests": 3,
            "window_started_at": "2026-11-22T12:00:00Z",
            "resets_at": "2026-11-23T12:00:00Z",
        },
    }


def test_without_a_limit_nothing_remains_to_be_told(tenant):
    put(tenant, "team")
    use(tenant, window_started_at=NOW, used_tokens=12, used_requests=3)

    shown = quota(tenant)
    assert (shown["limit_tokens"], shown["remaining_tokens"]) == (None, None)
    assert (shown["limit_requests"], shown["used_requests"]) == (None, 3)
    assert shown["used_tokens"] == 12


def test_a_window_is_used_until_it_ends_and_then_is_none(tenant):
    put(tenant)
    use(tenant, window_started_at=NOW, used_tokens=600, held_tokens=50, used_requests=3)

    last, ended = quota(tenant, NOW + DAY - TICK), quota(tenant, NOW + DAY)

    assert (last["used_tokens"], last["resets_at"]) == (600, "2026-11-23T13:00:00Z")
    assert (ended["used_tokens"], ended["held_tokens"], ended["used_requests"]) == (0, 0, 0)
    assert ended["remaining_tokens"] == 1000
    assert (ended["window_started_at"], ended["resets_at"]) == (None, None)


@pytest.mark.parametrize("ahead", [TICK, 3 * HOUR, 400 * DAY])
def test_a_window_that_begins_after_now_is_open(tenant, ahead):
    """A clock that was set back neither gives a second quota nor withholds one for long."""
    put(tenant)
    use(tenant, window_started_at=NOW + ahead, used_tokens=600)

    assert quota(tenant)["remaining_tokens"] == 400
    assert quota(tenant)["window_started_at"] == "2026-11-22T13:00:00Z"
    assert quota(tenant)["resets_at"] == "2026-11-23T13:00:00Z"


def test_less_than_nothing_never_remains(tenant):
    """A smaller tier, or a request larger than its hold, may leave more used than allowed."""
    put(tenant)
    use(tenant, window_started_at=NOW, used_tokens=1200, held_tokens=50)

    assert quota(tenant)["remaining_tokens"] == 0


def test_a_tier_that_is_gone_from_the_config_has_no_quota_to_show(tenant):
    put(tenant, "legacy")

    shown = subscriptions.view(tenant, TIERS, NOW)
    assert (shown["tier"], shown["status"], shown["quota"]) == ("legacy", "active", None)


def test_a_view_follows_the_quotas_own_statements(tenant):
    """What is held, used and given back shows at once, and a new window begins at nothing."""
    put(tenant)
    limits = limits_of(TIERS)

    def figures(now):
        shown = quota(tenant, now)
        names = ("used_tokens", "held_tokens", "remaining_tokens", "used_requests")
        return tuple(shown[name] for name in names)

    window = quotas.take(tenant, 300, limits, clock.to_ms(NOW))
    running = figures(NOW)
    quotas.settle(tenant, window, held=300, used=120, served=True)
    ended = figures(NOW)
    quotas.take(tenant, 40, limits, clock.to_ms(NOW + DAY))

    assert running == (0, 300, 700, 1)
    assert ended == (120, 0, 880, 1)
    assert figures(NOW + DAY) == (0, 40, 960, 1)
    assert quota(tenant, NOW + DAY)["window_started_at"] == "2026-11-23T13:00:00Z"
