"""Holds: as much as was wanted, or exactly as much as there is."""

from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.money import DAY, NOW, balance, demand, run

from server.billing import holds, ledger, subscriptions
from server.billing.allowance import Limits
from server.billing.holds import Demand, Grant, Money, Quota
from server.errors import InsufficientBalance, NotFound, QuotaExceeded, SubscriptionInactive
from server.store.models import Subscription, Tenant

TIERS = {
    "solo": Limits(1000, None),
    "counted": Limits(None, 2),
    "both": Limits(1000, 2),
    "team": Limits(None, None),
}


@pytest.fixture
def tenant(house):
    return house.tenant_id


@pytest.fixture(params=["money", "quota"])
def pool(request, tenant):
    """A pool with 1000 units in it."""
    if request.param == "quota":
        return subscribed(tenant, "solo")
    fund(tenant, 1000)
    return Money(tenant)


def fund(tenant, micros, held=0):
    Tenant.update(balance_micros=micros, held_micros=held).where(Tenant.id == tenant).execute()


def subscribed(tenant, tier):
    subscriptions.put(tenant, tier, status="active", source="cli", now=NOW)
    return Quota(tenant, TIERS, NOW)


def held(pool):
    if isinstance(pool, Money):
        return balance(pool.tenant_id)[1]
    return Subscription.get_by_id(pool.tenant_id).held_tokens


def test_all_that_is_wanted_is_held(pool):
    grant = run(holds.place, pool, demand(300, base=100, each=2))

    assert (grant.held, grant.output_tokens) == (700, 300)
    assert held(pool) == 700
    assert pool.free_units() == 300


def test_the_last_unit_can_be_held(pool):
    run(holds.place, pool, demand(450, base=100, each=2))

    assert (held(pool), pool.free_units()) == (1000, 0)


def test_less_is_granted_where_there_is_less(pool):
    grant = run(holds.place, pool, demand(451, least=300, base=100, each=2))

    assert (grant.held, grant.output_tokens) == (1000, 450)
    assert held(pool) == 1000


def test_a_grant_holds_what_its_output_needs_and_not_all_there_is(pool):
    grant = run(holds.place, pool, demand(1000, base=100, each=7))

    assert (grant.held, grant.output_tokens) == (100 + 128 * 7, 128)
    assert held(pool) == 996


@pytest.mark.parametrize(("least", "needs"), [(450, None), (451, 1002)])
def test_less_than_the_least_is_not_worth_having(pool, least, needs):
    asked = demand(2000, least=least, base=100, each=2)

    if needs is None:
        assert run(holds.place, pool, asked).output_tokens == 450
    else:
        with pytest.raises((InsufficientBalance, QuotaExceeded), match=r"0\.001002|needs 1,002"):
            run(holds.place, pool, asked)
        assert held(pool) == 0


def test_an_input_that_is_too_dear_alone_is_refused(pool):
    """Even where no output at all would do."""
    with pytest.raises((InsufficientBalance, QuotaExceeded)):
        run(holds.place, pool, demand(10, least=0, base=1001))

    assert held(pool) == 0


def test_an_input_that_takes_all_leaves_no_output(pool):
    grant = run(holds.place, pool, demand(10, least=0, base=1000))

    assert (grant.held, grant.output_tokens) == (1000, 0)


def test_output_that_costs_nothing_is_granted_whole(pool):
    assert run(holds.place, pool, demand(10**9, base=1000, each=0)).output_tokens == 10**9


def test_nothing_to_hold_is_held_even_of_an_empty_balance(tenant):
    fund(tenant, -5)

    assert run(holds.place, Money(tenant), demand(7, each=0)) == Grant(0, 7, 0)


def test_a_refusal_tells_what_is_needed_what_is_there_and_how_to_mend_it(tenant):
    fund(tenant, 12_340_000)
    run(holds.place, Money(tenant), demand(2_000_000))

    with pytest.raises(InsufficientBalance) as refused:
        run(holds.place, Money(tenant), demand(20_000_000, least=15_000_000))

    assert str(refused.value) == (
        "Insufficient balance: this request needs $15.00, and $10.34 is available ($2.00 is held "
        "by running requests). Top up with POST /tenant/billing/topup, or ask the operator to "
        "run `gatewayctl credits grant`."
    )
    assert refused.value.held == 2_000_000


def test_a_refusal_speaks_of_no_holds_where_there_are_none(tenant):
    fund(tenant, -700)

    with pytest.raises(InsufficientBalance, match=r"needs \$0\.0001, and \$0\.00 is available\. "):
        run(holds.place, Money(tenant), demand(100, least=100))


def test_a_tenant_that_is_not_there_has_nothing(tenant):
    with pytest.raises(NotFound, match="no such tenant"):
        run(holds.place, Money(tenant + 1), demand(1))


def test_a_hold_grows_to_what_is_wanted(pool):
    before = run(holds.place, pool, demand(100, base=50))

    grown = run(holds.adjust, pool, demand(300, base=50), before.held, before.window)

    assert (grown.held, grown.output_tokens, grown.window) == (350, 300, before.window)
    assert held(pool) == 350


def test_a_hold_grows_by_what_there_is(pool):
    before = run(holds.place, pool, demand(100, base=50))

    grown = run(holds.adjust, pool, demand(5000, base=50, each=7), before.held, before.window)

    assert (grown.held, grown.output_tokens) == (50 + 135 * 7, 135)
    assert held(pool) == 995


def test_a_hold_shrinks_whatever_is_left(pool):
    before = run(holds.place, pool, demand(900, base=100))

    shrunk = run(holds.adjust, pool, demand(100, base=20), before.held, before.window)

    assert (shrunk.held, shrunk.output_tokens) == (120, 100)
    assert held(pool) == 120


def test_a_hold_keeps_what_it_has_where_more_is_needed_for_less(pool):
    """The provider counts more input than was estimated: the same units buy less output."""
    before = run(holds.place, pool, demand(600, base=100))
    run(holds.place, pool, demand(300))

    kept = run(holds.adjust, pool, demand(600, base=500), before.held, before.window)

    assert (kept.held, kept.output_tokens) == (700, 200)
    assert held(pool) == 1000


def test_a_hold_that_does_not_even_cover_its_input_covers_no_output(pool):
    before = run(holds.place, pool, demand(600, base=100))

    kept = run(holds.adjust, pool, demand(600, base=2000), before.held, before.window)

    assert (kept.held, kept.output_tokens) == (700, 0)
    assert held(pool) == 700


def test_an_overdrawn_balance_takes_nothing_from_a_running_hold(tenant):
    """A refund of money that was spent ends new requests, not what was already set aside."""
    fund(tenant, 1000)
    pool = Money(tenant)
    before = run(holds.place, pool, demand(500))
    options = {"ref": "re_1", "at": NOW, "created_by": "stripe"}
    run(ledger.post, tenant, ledger.Kind.REFUND, -900, **options)

    same = run(holds.adjust, pool, demand(500), before.held, before.window)
    more = run(holds.adjust, pool, demand(501), before.held, before.window)
    less = run(holds.adjust, pool, demand(400), before.held, before.window)

    assert (same.held, more.held, less.held) == (500, 500, 400)
    assert (same.output_tokens, more.output_tokens, less.output_tokens) == (500, 500, 400)
    assert balance(tenant) == (100, 400)


def test_a_request_that_is_the_last_of_a_quota_grows_all_the_same(tenant):
    """It was counted already: that there is no room for another says nothing of its tokens."""
    pool = subscribed(tenant, "both")
    run(holds.place, pool, demand(100))
    before = run(holds.place, pool, demand(300))

    grown = run(holds.adjust, pool, demand(5000), before.held, before.window)

    assert (grown.held, grown.output_tokens) == (900, 900)
    assert held(pool) == 1000


@pytest.mark.parametrize("wanted", [500, 5000])
def test_a_request_outlives_the_end_of_its_subscription(tenant, wanted):
    """What it holds stays its own, and what the window has left is still the tenant's."""
    pool = subscribed(tenant, "solo")
    before = run(holds.place, pool, demand(300))
    subscriptions.cancel(tenant, NOW)

    grown = run(holds.adjust, pool, demand(wanted), before.held, before.window)

    assert grown.output_tokens == grown.held == min(wanted, 1000)


def test_a_hold_grows_in_its_window_whatever_the_clock_says_since(tenant):
    """Set back a year and used again, the window is over by the time that a request began at."""
    pool = subscribed(tenant, "solo")
    before = run(holds.place, pool, demand(300))
    run(holds.place, Quota(tenant, TIERS, NOW - 400 * DAY), demand(600))

    grown = run(holds.adjust, pool, demand(5000), before.held, before.window)

    assert (grown.held, grown.output_tokens) == (400, 400)
    assert held(pool) == 1000


def test_what_was_given_back_meanwhile_is_no_reason_to_end(pool):
    """Between a hold that could not grow and the question why, others may settle."""
    grant = run(holds.place, pool, demand(300))
    run(holds.place, pool, demand(600))

    assert holds.why_not(pool, grant, 400) is None
    assert holds.why_not(pool, grant, 401).held == 900


def test_a_quota_that_is_gone_is_a_reason_to_end(tenant):
    pool = subscribed(tenant, "solo")
    grant = run(holds.place, pool, demand(300))
    Subscription.delete().execute()

    assert isinstance(holds.why_not(pool, grant, 1), SubscriptionInactive)


@pytest.mark.parametrize("tier", ["team", "counted"])
def test_a_quota_without_a_limit_of_tokens_gives_all_that_is_wanted(tenant, tier):
    pool = subscribed(tenant, tier)

    grant = run(holds.place, pool, demand(10**12))
    grown = run(holds.adjust, pool, demand(10**13), grant.held, grant.window)

    assert (grant.output_tokens, grown.output_tokens) == (10**12, 10**13)


def test_a_quota_of_requests_refuses_the_next(tenant):
    pool = subscribed(tenant, "counted")
    run(holds.place, pool, demand(1))
    run(holds.place, pool, demand(1))

    with pytest.raises(QuotaExceeded, match=r"^The quota of 2 requests in 24 hours is used up"):
        run(holds.place, pool, demand(1))

    assert Subscription.get_by_id(tenant).used_requests == 2


@pytest.mark.parametrize("tiers", [{}, TIERS])
def test_without_a_subscription_that_counts_nothing_can_be_held(tenant, tiers):
    subscribed(tenant, "team")
    if tiers:
        subscriptions.cancel(tenant, NOW)

    with pytest.raises(SubscriptionInactive):
        run(holds.place, Quota(tenant, tiers, NOW), demand(0))


RISING = st.builds(
    lambda base, steps: list(accumulate(steps, initial=base)),
    st.integers(0, 60),
    st.lists(st.integers(0, 60), max_size=25),
)
SOME = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def longest(units, budget):
    """Try every length; -1 if not even none can be paid for."""
    return max((n for n, needed in enumerate(units) if needed <= budget), default=-1)


@given(units=RISING, free=st.integers(-20, 400), least=st.integers(0, 25))
@SOME
def test_a_grant_is_the_longest_output_that_can_be_paid_for(tenant, units, free, least):
    fund(tenant, free)
    wanted = len(units) - 1
    asked = Demand(units.__getitem__, wanted, min(least, wanted))
    output = wanted if units[wanted] == 0 else longest(units, free)

    if output < asked.least_output or output < 0:
        with pytest.raises(InsufficientBalance):
            run(holds.place, Money(tenant), asked)
        assert balance(tenant) == (free, 0)
    else:
        assert run(holds.place, Money(tenant), asked) == Grant(units[output], output, 0)
        assert balance(tenant) == (free, units[output])


@given(units=RISING, free=st.integers(-20, 400), before=st.integers(0, 200))
@SOME
def test_a_hold_becomes_the_longest_output_that_can_be_paid_for(tenant, units, free, before):
    """Or stays what it is, and tells what that pays for."""
    fund(tenant, free + before, held=before)
    wanted = len(units) - 1
    output = longest(units, max(0, free) + before)
    more = units[wanted] if output == wanted else max(before, units[output])

    grant = run(holds.adjust, Money(tenant), Demand(units.__getitem__, wanted, wanted), before, 0)

    assert grant.output_tokens == max(0, output)
    assert grant.held == (before if output < 0 else more)
    assert balance(tenant) == (free + before, grant.held)
