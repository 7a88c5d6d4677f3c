"""Limits of keys: kept as they were set, shared by children, handed to successors."""

from datetime import timedelta

import pytest

from server.config.schema import UsageLimits
from server.errors import Conflict, InvalidRequest
from server.tenants import keys, secrets
from server.tenants.keys import authenticate

LIMITED = UsageLimits(requests_per_minute=5, models=("smart",))


@pytest.fixture
def mint(tenant, now):
    def mint(**attributes):
        known = {
            "billing": keys.Billing.PAY_PER_TOKEN,
            "scope": keys.Scope.MANAGE,
            "member": None,
            "expires_at": None,
            "created_by": "cli",
            "now": now,
            "secret": secrets.generate(),
        }
        return keys.mint(tenant.id, "ci", **known | attributes)

    return mint


@pytest.fixture
def child_of(now):
    def make(minted):
        parent = authenticate([minted.secret], now)
        fields = {"name": "child", "scope": "manage"}
        return keys.mint_child(parent, fields, now=now, secret=secrets.generate())

    return make


def limit(minted, now, **changes):
    return keys.limit(minted.key.public_id, changes, actor="cli", now=now)


def test_a_caller_has_the_limits_of_its_key(mint, now):
    minted = mint(limited=LIMITED)

    caller = authenticate([minted.secret], now)

    assert (caller.limits, caller.limits_id) == (LIMITED, minted.key.public_id)
    assert caller.limits_text == '{"models":["smart"],"requests_per_minute":5}'
    assert caller.limits_key_id is None


def test_children_and_their_children_share_the_limits_of_the_first(mint, child_of, now):
    first = mint(limited=LIMITED)
    child = child_of(first)
    grandchild = child_of(child)

    for each in (child, grandchild):
        caller = authenticate([each.secret], now)
        assert (caller.limits, caller.limits_id) == (LIMITED, first.key.public_id)
        assert keys.as_json(each.key, now)["limits"] == {
            "models": ("smart",),
            "requests_per_minute": 5,
        }
    limit(first, now, models=None, concurrent_requests=2)
    assert authenticate([grandchild.secret], now).limits == UsageLimits(
        requests_per_minute=5, concurrent_requests=2
    )


def test_children_of_a_key_without_limits_have_their_own(mint, child_of, now):
    child = child_of(mint())

    limit(child, now, requests_per_minute=1)

    caller = authenticate([child.secret], now)
    assert (caller.limits_id, caller.limits_key_id) == (child.key.public_id, None)


def test_shared_limits_are_changed_where_they_are(mint, child_of, now):
    first = mint(limited=LIMITED)

    with pytest.raises(Conflict, match=f"shares the limits of {first.key.public_id}"):
        limit(child_of(first), now, requests_per_minute=None)


def test_a_successor_takes_over_the_limits_and_all_who_share_them(mint, child_of, now):
    old = mint(limited=LIMITED)
    child = child_of(old)
    grace = {"grace": timedelta(hours=1), "created_by": "cli", "now": now}

    heir = keys.rotate(None, old.key.public_id, secret=secrets.generate(), **grace)

    for each in (old, child, heir):
        caller = authenticate([each.secret], now)
        assert (caller.limits, caller.limits_id) == (LIMITED, heir.key.public_id)


def test_the_successor_of_a_child_shares_what_the_child_shared(mint, child_of, now):
    first = mint(limited=LIMITED)
    child = child_of(first)
    grace = {"grace": timedelta(0), "created_by": "cli", "now": now}

    heir = keys.rotate(None, child.key.public_id, secret=secrets.generate(), **grace)

    assert authenticate([heir.secret], now).limits_id == first.key.public_id


def test_what_is_used_is_counted_in_one_place_however_often_keys_are_rotated(mint, child_of, now):
    """Or each rotation would give a second minute's worth."""
    first, other = mint(limited=LIMITED), mint(limited=LIMITED)
    alive = [first, child_of(first)]
    grace = {"grace": timedelta(hours=1), "created_by": "cli", "now": now}

    for place in (0, 1, 2, 3, 0):
        rotated = alive[place].key.public_id
        alive.append(keys.rotate(None, rotated, secret=secrets.generate(), **grace))
        alive.append(child_of(alive[-1]))

    counters = {authenticate([each.secret], now).counter_id for each in alive}
    assert counters == {first.key.id}
    assert authenticate([other.secret], now).counter_id == other.key.id


def test_what_is_lifted_leaves_no_trace(mint, now):
    minted = mint(limited=LIMITED)

    key = limit(minted, now, requests_per_minute=None, models=None)

    assert key.limits is None
    assert authenticate([minted.secret], now).limits == UsageLimits()


def test_a_key_that_spends_no_money_has_no_cap_of_it(mint, now):
    subscribed = mint(billing=keys.Billing.SUBSCRIPTION)

    with pytest.raises(InvalidRequest, match="cannot have a monthly cap") as refused:
        limit(subscribed, now, monthly_usd="1")

    assert refused.value.param == "monthly_usd"
