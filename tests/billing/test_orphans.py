"""What killed processes left open is settled at what was known of it, once."""

import pytest
from support import money
from support.money import NOW, balance, closing, demand, entries, run, stored

from server.billing import admission, orphans, prices, subscriptions
from server.billing.allowance import Limits, Weights
from server.billing.holds import Money, Quota
from server.config import schema
from server.store import instances
from server.store.models import Entry, Request, Subscription, Tenant
from server.tenants.caller import Billing
from server.usage.record import Progress

WEIGHTS = Weights.of(schema.QuotaWeights())
TIERS = {"team": Limits(None, None)}
RICH = schema.Price(
    input="4.00", output="20.00", per_request=schema.PerRequest(speed={"fast": "6"})
)


@pytest.fixture
def tenant(house):
    """A tenant with a dollar and a subscription."""
    Tenant.update(balance_micros=1_000_000).where(Tenant.id == house.tenant_id).execute()
    subscriptions.put(house.tenant_id, "team", status="active", source="cli", now=NOW)
    return house.tenant_id


def admit(house, wanted=10_000, billing=Billing.PAY_PER_TOKEN, **columns):
    opening = house.opening(billing, **columns)
    paid = billing is Billing.PAY_PER_TOKEN
    pool = Money(house.tenant_id) if paid else Quota(house.tenant_id, TIERS, NOW)
    grant = run(admission.admit, opening, pool, demand(wanted))
    return opening.request_id, pool, grant


def settle_orphans(*dead):
    return run(orphans.settle_some, dead, WEIGHTS, NOW)


def test_a_request_that_had_not_got_far_is_charged_its_estimated_input(house, tenant):
    request_id, _, _ = admit(house, input_estimate=100)

    assert settle_orphans(house.instance_id) == 1

    assert entries(tenant) == [("charge", request_id, -400, 999_600)]
    assert balance(tenant) == (999_600, 0)
    row = stored(request_id)
    assert (row.state, row.outcome, row.duration_ms) == ("settled", "interrupted", None)
    assert (row.input_tokens, row.output_tokens, row.estimated, row.cost_micros) == (
        *(100, 0, True, 400),
    )


def test_a_request_is_charged_what_its_last_checkpoint_says(house, tenant):
    request_id, pool, grant = admit(house)
    wanted = demand(20_000)
    run(admission.adjust, request_id, pool, wanted, grant, Progress(10, 100, 20, 30, 40))

    settle_orphans(house.instance_id)

    cost = 10 * 4 + 100 * 4 // 10 + 20 * 5 + 30 * 8 + 40 * 20
    assert entries(tenant) == [("charge", request_id, -cost, 1_000_000 - cost)]
    assert balance(tenant) == (1_000_000 - cost, 0)
    charge = Entry.get()
    assert (charge.input_tokens, charge.cache_write_1h_tokens, charge.output_tokens) == (10, 30, 40)


def test_a_request_is_charged_at_the_price_it_came_in_at(house, tenant):
    request_id, _, _ = admit(house, input_estimate=100)
    dearer = schema.Price(input="40.00", output="200.00")
    run(prices.in_force, money.config({"smart": dearer}), NOW)

    settle_orphans(house.instance_id)

    assert stored(request_id).cost_micros == 400
    assert Entry.get().price_id == house.price_number


def test_a_setting_that_was_asked_for_is_billed(house, tenant):
    number = run(prices.in_force, money.config({"rich": RICH}), NOW)["rich"].number
    request_id, _, _ = admit(house, input_estimate=100, price_id=number, extras='{"speed":"fast"}')

    settle_orphans(house.instance_id)

    assert entries(tenant) == [("charge", request_id, -2400, 997_600)]
    assert Entry.get().extras == stored(request_id).extras == '{"speed":"fast"}'


def test_a_subscribed_request_uses_quota_and_counts(house, tenant):
    request_id, pool, grant = admit(house, 500, Billing.SUBSCRIPTION)
    run(admission.adjust, request_id, pool, demand(900), grant, Progress(10, 100, 20, 0, 40))

    settle_orphans(house.instance_id)

    row = Subscription.get()
    assert (row.used_tokens, row.held_tokens, row.used_requests) == (10 + 10 + 25 + 40, 0, 1)
    assert stored(request_id).quota_tokens == 85
    assert (balance(tenant), entries(tenant)) == ((1_000_000, 0), [])


def test_a_free_request_is_closed_and_costs_nothing(house, tenant):
    opening = house.opening(price_id=None)
    run(admission.admit, opening, None, demand(0))

    assert settle_orphans(house.instance_id) == 1

    assert (stored(opening.request_id).state, entries(tenant)) == ("settled", [])


def test_a_balance_may_be_overdrawn_by_what_was_under_way(house, tenant):
    admit(house, input_estimate=10_000_000)

    settle_orphans(house.instance_id)

    assert balance(tenant) == (1_000_000 - 40_000_000, 0)


def test_what_living_processes_serve_is_left_alone(house, tenant):
    alive = run(instances.begin, 2, "here", "0", NOW)
    admit(house)
    running, _, _ = admit(house, instance_id=alive)

    assert settle_orphans(house.instance_id) == 1
    assert settle_orphans() == 0

    assert stored(running).state == "open"
    assert balance(tenant) == (1_000_000 - 400, 10_000)


def test_what_was_settled_is_left_alone(house, tenant):
    request_id, _, _ = admit(house)
    run(admission.settle, request_id, closing(cost_micros=7), NOW)

    assert settle_orphans(house.instance_id) == 0

    assert entries(tenant) == [("charge", request_id, -7, 999_993)]
    assert stored(request_id).outcome == "completed"


def test_a_second_run_finds_nothing(house, tenant):
    admit(house)
    settle_orphans(house.instance_id)
    before = (balance(tenant), entries(tenant))

    assert settle_orphans(house.instance_id) == 0

    assert (balance(tenant), entries(tenant)) == before


def test_a_settlement_that_comes_after_all_changes_nothing(house, tenant):
    request_id, _, _ = admit(house)
    settle_orphans(house.instance_id)

    assert not run(admission.settle, request_id, closing(cost_micros=7), NOW)

    assert balance(tenant) == (999_600, 0)


def test_many_are_settled_some_at_a_time(house, tenant):
    """The command line waits for no transaction of thousands."""
    with money.transaction():
        for _ in range(orphans.AT_ONCE + 1):
            admission.admit(house.opening(input_estimate=1), Money(tenant), demand(10))

    counts = [settle_orphans(house.instance_id) for _ in range(3)]

    assert counts == [500, 1, 0]
    assert Request.select().where(Request.state == "open").count() == 0
    assert balance(tenant) == (1_000_000 - 501 * 4, 0)
