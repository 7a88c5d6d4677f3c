"""A request's hold from admission to settlement: begun once, ended once, charged in truth."""

import pytest
from support import money
from support.money import (
    DAY,
    HOUR,
    NOW,
    TICK,
    VIOLATION,
    balance,
    closing,
    demand,
    entries,
    run,
    stored,
)

from server.billing import admission, subscriptions
from server.billing.allowance import Limits
from server.billing.holds import Grant, Money, Quota
from server.config.schema import Server
from server.errors import (
    InsufficientBalance,
    InvalidApiKey,
    KeyNotAllowed,
    QuotaExceeded,
    SubscriptionInactive,
)
from server.store.models import Key, Request, Subscription, Tenant
from server.tenants.caller import Billing, Caller, Scope
from server.usage.record import Outcome, Progress

TIERS = {"solo": Limits(1000, 2)}
NOTHING = Progress(0, 0, 0, 0, 0)


@pytest.fixture
def tenant(house):
    """A tenant with a balance of 1000 micros, and a quota of 1000 tokens and two requests."""
    Tenant.update(balance_micros=1000).where(Tenant.id == house.tenant_id).execute()
    subscriptions.put(house.tenant_id, "solo", status="active", source="cli", now=NOW)
    return house.tenant_id


def admit(house, wanted, billing=Billing.PAY_PER_TOKEN, *, least=0, now=NOW, **columns):
    """Admit a request; give its id and what was granted."""
    opening = house.opening(billing, started_at=now, **columns)
    pool = pool_of(house, billing, now)
    return opening.request_id, run(admission.admit, opening, pool, demand(wanted, least=least))


def pool_of(house, billing=Billing.PAY_PER_TOKEN, now=NOW):
    paid = billing is Billing.PAY_PER_TOKEN
    return Money(house.tenant_id) if paid else Quota(house.tenant_id, TIERS, now)


def adjust(house, request_id, wanted, grant, billing=Billing.PAY_PER_TOKEN, progress=NOTHING):
    pool = pool_of(house, billing)
    return run(admission.adjust, request_id, pool, demand(wanted), grant, progress)


def settle(request_id, at=NOW, **columns):
    return run(admission.settle, request_id, closing(**columns), at)


def quota(tenant):
    row = Subscription.get_by_id(tenant)
    return row.quota_window, row.used_tokens, row.held_tokens, row.used_requests


BILLINGS = pytest.mark.parametrize("billing", list(Billing))


def test_an_admitted_request_is_written_down_with_its_hold(house, tenant):
    request_id, grant = admit(house, 300)

    row = stored(request_id)
    assert grant == Grant(300, 300, 0)
    assert (row.state, row.billing, row.price_id) == ("open", "pay_per_token", house.price_number)
    assert (row.held_micros, row.held_tokens, row.quota_window) == (300, 0, None)
    assert balance(tenant) == (1000, 300)
    assert quota(tenant) == (0, 0, 0, 0)


def test_a_subscribed_request_holds_quota_and_no_money(house, tenant):
    request_id, grant = admit(house, 300, Billing.SUBSCRIPTION)

    row = stored(request_id)
    assert grant == Grant(300, 300, 1)
    assert (row.billing, row.price_id) == ("subscription", None)
    assert (row.held_micros, row.held_tokens, row.quota_window) == (0, 300, 1)
    assert balance(tenant) == (1000, 0)
    assert quota(tenant) == (1, 0, 300, 1)


def test_a_part_of_what_was_wanted_is_written_down_as_granted(house, tenant):
    request_id, grant = admit(house, 5000, least=200)

    assert (grant.held, grant.output_tokens) == (1000, 1000)
    assert stored(request_id).held_micros == 1000


def test_a_free_model_holds_nothing_and_costs_nothing(house, tenant):
    opening = house.opening(price_id=None)

    grant = run(admission.admit, opening, None, demand(10**9))
    run(admission.settle, opening.request_id, closing(input_tokens=5, output_tokens=7), NOW)

    assert grant == admission.FREE
    assert (balance(tenant), entries(tenant)) == ((1000, 0), [])
    row = stored(opening.request_id)
    assert (row.state, row.output_tokens, row.held_micros, row.cost_micros) == ("settled", 7, 0, 0)


@pytest.mark.parametrize(
    ("billing", "refusal"),
    [(Billing.PAY_PER_TOKEN, InsufficientBalance), (Billing.SUBSCRIPTION, QuotaExceeded)],
)
def test_a_refused_request_leaves_no_trace(house, tenant, billing, refusal):
    with pytest.raises(refusal, match="needs"):
        admit(house, 5000, billing, least=1001)

    assert Request.select().count() == 0
    assert (balance(tenant), quota(tenant)) == ((1000, 0), (0, 0, 0, 0))


@BILLINGS
@pytest.mark.parametrize("wanted", [10, 5000])
def test_a_key_that_ended_meanwhile_is_told_so_whatever_is_there(house, tenant, billing, wanted):
    """A revoked key learns neither the balance nor the quota."""
    with pytest.raises(InvalidApiKey, match="revoked or has expired"):
        admit(house, wanted, billing, least=wanted, key_id=house.dead_key)

    assert Request.select().count() == 0
    assert (balance(tenant), quota(tenant)) == ((1000, 0), (0, 0, 0, 0))


@pytest.mark.parametrize("ends", [{"expires_at": NOW}, {"revoked_at": NOW - TICK}])
def test_a_key_serves_no_request_from_the_moment_it_ends(house, tenant, ends):
    key_id = house.keys[Billing.PAY_PER_TOKEN]
    Key.update(ends).where(Key.id == key_id).execute()

    with pytest.raises(InvalidApiKey):
        admit(house, 10)

    assert balance(tenant) == (1000, 0)


def test_a_request_id_is_admitted_once(house, tenant):
    request_id, _ = admit(house, 300)

    with pytest.raises(VIOLATION, match=r"UNIQUE constraint failed: request\.request_id"):
        admit(house, 200, request_id=request_id)

    assert balance(tenant) == (1000, 300)


def test_a_settled_request_is_charged_what_it_cost_and_holds_no_more(house, tenant):
    request_id, _ = admit(house, 300)

    assert settle(request_id, cost_micros=250, input_tokens=10, output_tokens=9, extras='{"a":1}')

    row = stored(request_id)
    assert (row.state, row.outcome, row.cost_micros, row.held_micros) == (
        *("settled", "completed", 250, 300),
    )
    assert (row.input_tokens, row.output_tokens, row.extras) == (10, 9, '{"a":1}')
    assert balance(tenant) == (750, 0)
    assert entries(tenant) == [("charge", request_id, -250, 750)]


@BILLINGS
def test_a_settlement_that_is_repeated_changes_nothing(house, tenant, billing):
    """Neither charged nor released twice, and the first account of it stands."""
    request_id, _ = admit(house, 300, billing)
    other, _ = admit(house, 300, billing)
    paid = billing is Billing.PAY_PER_TOKEN
    spent = {"cost_micros": 250} if paid else {"quota_tokens": 250}
    assert settle(request_id, **spent)
    before = (balance(tenant), quota(tenant), entries(tenant), stored(request_id).__data__)

    assert not settle(request_id, **spent)
    assert not settle(request_id, outcome=Outcome.CANCELLED, output_tokens=99)

    after = (balance(tenant), quota(tenant), entries(tenant), stored(request_id).__data__)
    assert after == before
    assert stored(other).state == "open"


def test_settling_what_never_began_changes_nothing(house, tenant):
    """A client may be gone before its request was admitted; its end is reported all the same."""
    assert not settle("req_unknown", cost_micros=250, quota_tokens=250)

    assert (balance(tenant), entries(tenant), quota(tenant)) == ((1000, 0), [], (0, 0, 0, 0))


def test_what_exceeds_a_hold_is_charged_all_the_same(house, tenant):
    request_id, _ = admit(house, 1000)

    settle(request_id, cost_micros=1300)

    assert balance(tenant) == (-300, 0)
    with pytest.raises(InsufficientBalance):
        admit(house, 1, least=1)


@BILLINGS
def test_a_key_revoked_meanwhile_changes_nothing_for_what_runs(house, tenant, billing):
    request_id, grant = admit(house, 300, billing)
    Key.update(revoked_at=NOW).execute()

    grown = adjust(house, request_id, 400, grant, billing)
    assert settle(request_id, cost_micros=0 if grown.window else 350, quota_tokens=350)

    assert grown.held == 400
    if billing is Billing.PAY_PER_TOKEN:
        assert balance(tenant) == (650, 0)
    else:
        assert quota(tenant) == (1, 350, 0, 1)


@BILLINGS
def test_an_adjusted_hold_is_what_its_row_says(house, tenant, billing):
    request_id, grant = admit(house, 300, billing)

    grown = adjust(house, request_id, 500, grant, billing, Progress(1, 2, 3, 4, 5))
    more = adjust(house, request_id, 5000, grown, billing, Progress(1, 2, 3, 4, 6))
    less = adjust(house, request_id, 40, more, billing, Progress(11, 12, 13, 14, 16))

    assert [each.held for each in (grown, more, less)] == [500, 1000, 40]
    row = stored(request_id)
    assert (row.held_micros, row.held_tokens) == ((40, 0) if less.window == 0 else (0, 40))
    assert (row.input_tokens, row.cache_read_input_tokens) == (11, 12)
    assert (row.cache_write_5m_tokens, row.cache_write_1h_tokens, row.output_tokens) == (13, 14, 16)
    assert balance(tenant)[1] + quota(tenant)[2] == 40


@BILLINGS
def test_a_settlement_ends_all_that_a_hold_has_grown_to(house, tenant, billing):
    request_id, grant = admit(house, 300, billing)
    adjust(house, request_id, 700, grant, billing)

    settle(request_id)

    assert balance(tenant) == (1000, 0)
    assert quota(tenant)[1:3] == (0, 0)


@BILLINGS
@pytest.mark.parametrize("balance_then", [1000, -5])
@pytest.mark.parametrize("wanted", [0, 100, 299, 300, 301, 500, 5000])
def test_nothing_is_held_for_what_was_settled_meanwhile(
    house, tenant, billing, balance_then, wanted
):
    request_id, grant = admit(house, 300, billing)
    admit(house, 200, billing)
    settle(request_id, cost_micros=0, quota_tokens=7, output_tokens=3)
    Tenant.update(balance_micros=balance_then).where(Tenant.id == tenant).execute()
    before = (balance(tenant), quota(tenant))

    assert adjust(house, request_id, wanted, grant, billing, Progress(9, 9, 9, 9, 9)) == grant

    assert (balance(tenant), quota(tenant)) == before
    assert stored(request_id).output_tokens == 3


@BILLINGS
def test_the_last_hold_of_all_can_be_too_late_as_well(house, tenant, billing):
    request_id, grant = admit(house, 300, billing)
    settle(request_id)

    assert adjust(house, request_id, 100, grant, billing) == grant

    assert (balance(tenant), quota(tenant)[2]) == ((1000, 0), 0)


def test_a_served_request_counts_and_one_that_was_not_does_not(house, tenant):
    first, _ = admit(house, 300, Billing.SUBSCRIPTION)
    second, _ = admit(house, 300, Billing.SUBSCRIPTION)

    settle(first, quota_tokens=120)
    settle(second, outcome=Outcome.UPSTREAM_ERROR)

    assert quota(tenant) == (1, 120, 0, 1)
    assert stored(first).quota_tokens == 120


@pytest.mark.parametrize(
    ("outcome", "tokens", "counted"),
    [
        (Outcome.COMPLETED, 0, 1),
        (Outcome.COMPLETED, 5, 1),
        (Outcome.CANCELLED, 0, 0),
        (Outcome.CANCELLED, 5, 1),
        (Outcome.UPSTREAM_ERROR, 0, 0),
        (Outcome.UPSTREAM_ERROR, 5, 1),
        (Outcome.INTERRUPTED, 0, 0),
        (Outcome.CUT, 5, 1),
    ],
)
def test_what_was_served_counts_however_it_ended(house, tenant, outcome, tokens, counted):
    request_id, _ = admit(house, 300, Billing.SUBSCRIPTION)

    settle(request_id, outcome=outcome, quota_tokens=tokens)

    assert quota(tenant) == (1, tokens, 0, counted)


def test_a_request_that_outlives_its_window_touches_neither(house, tenant):
    old, grant = admit(house, 300, Billing.SUBSCRIPTION)
    admit(house, 50, Billing.SUBSCRIPTION, now=NOW + DAY)

    grown = adjust(house, old, 900_000, grant, Billing.SUBSCRIPTION)
    settle(old, quota_tokens=700, at=NOW + DAY)

    assert (grown.held, grown.window) == (900_000, 1)
    assert quota(tenant) == (2, 0, 50, 1)
    row = stored(old)
    assert (row.quota_window, row.held_tokens, row.quota_tokens) == (1, 900_000, 700)


def test_a_request_that_ends_late_still_belongs_to_a_window_that_nothing_followed(house, tenant):
    request_id, _ = admit(house, 300, Billing.SUBSCRIPTION)

    settle(request_id, quota_tokens=120, at=NOW + 2 * DAY)

    assert quota(tenant) == (1, 120, 0, 1)


def test_a_request_outlives_its_subscription(house, tenant):
    request_id, _ = admit(house, 300, Billing.SUBSCRIPTION)
    subscriptions.cancel(tenant, NOW)

    settle(request_id, quota_tokens=120)

    assert quota(tenant) == (1, 120, 0, 1)
    with pytest.raises(SubscriptionInactive):
        admit(house, 1, Billing.SUBSCRIPTION)


def test_the_clock_may_go_back_while_a_request_runs(house, tenant):
    request_id, _ = admit(house, 300)
    second, _ = admit(house, 100)

    settle(request_id, at=NOW, cost_micros=20)
    settle(second, at=NOW - HOUR, cost_micros=10)

    assert entries(tenant) == [("charge", request_id, -20, 980), ("charge", second, -10, 970)]


def test_tenants_do_not_share(house, tenant):
    other = money.house("other")
    request_id, _ = admit(house, 1000)

    with pytest.raises(InsufficientBalance):
        admit(other, 1, least=1, request_id="req_other")
    settle(request_id, cost_micros=400)

    assert (balance(tenant), balance(other.tenant_id)) == ((600, 0), (0, 0))


@pytest.mark.parametrize("tool", [None, "cursor"])
@BILLINGS
def test_a_subscription_key_works_on_the_tool_routes_alone(billing, tool):
    config = money.config(server=Server(public_url="https://gateway.example"))
    caller = Caller(1, "key_1", 1, None, billing, Scope.INFERENCE, None)

    if billing is Billing.SUBSCRIPTION and tool is None:
        with pytest.raises(KeyNotAllowed, match=r"one of: https://gateway.example/claudecode, .*"):
            admission.check_route(caller, tool, config)
    else:
        admission.check_route(caller, tool, config)
