"""Whose limits a caller meets."""

from server.config.schema import Config, Tier, UsageLimits
from server.limits.bounds import bounds_of, has_tier_bounds
from server.tenants.caller import Billing, Caller, Scope

SOME = UsageLimits(requests_per_minute=5)
TIERS = {
    "team": Tier(name="Team", price_cents=0, limits=SOME),
    "free": Tier(name="Free", price_cents=0),
}
CONFIG = Config(upstreams={}, models={}, tiers=TIERS)
WITHOUT = Config(upstreams={}, models={}, tiers={"free": TIERS["free"]})


def caller(billing=Billing.SUBSCRIPTION, **more):
    return Caller(1, "key_1", 7, None, billing, Scope.MANAGE, None, "ten_7", **more)


def test_a_key_without_limits_meets_none():
    assert bounds_of(caller(limits_id="key_1"), None, CONFIG) == ()
    assert bounds_of(caller(), "free", CONFIG) == ()
    assert bounds_of(caller(), "gone", CONFIG) == ()


def test_limits_go_by_the_key_that_has_them_and_by_the_tenant():
    own, tier = bounds_of(caller(limits=SOME, limits_id="key_1", counter_id=1), "team", CONFIG)

    assert (own.owner, own.whose, own.limits) == (("key", 1), "this key", SOME)
    assert tier.owner == ("tenant", 7)
    assert tier.whose == "all subscription keys in the tier team together"


def test_a_child_shares_the_counters_of_the_key_whose_limits_it_has():
    (shared,) = bounds_of(caller(limits=SOME, limits_id="key_0", counter_id=3), None, CONFIG)

    assert shared.owner == ("key", 3)
    assert shared.whose == "this key and key_0 together"


def test_a_tier_matters_to_subscription_keys_where_one_has_limits():
    assert has_tier_bounds(caller(), CONFIG)
    assert not has_tier_bounds(caller(), WITHOUT)
    assert not has_tier_bounds(caller(Billing.PAY_PER_TOKEN), CONFIG)
