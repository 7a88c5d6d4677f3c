"""Monthly caps: held, grown, settled and derived in the transactions of the money itself."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from support.money import DAY, NOW, TICK, balance, closing, demand, run, stored

from server.billing import admission, caps, ledger, orphans, verify
from server.billing.allowance import Weights
from server.billing.chain import Disagreement
from server.billing.holds import Money
from server.billing.ledger import Kind
from server.config.schema import QuotaWeights
from server.errors import InsufficientBalance, KeyChanged, SpendCapReached
from server.store.models import Key, Request, Spend, Tenant
from server.tenants import keys, secrets, spend
from server.tenants.keys import Billing
from server.usage.record import Progress

NOTHING = Progress(0, 0, 0, 0, 0)
NOVEMBER = "2026-11"
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


@pytest.fixture
def tenant(house):
    """A tenant with a balance of 5000 micros, whose paying key may spend 1000 in a month."""
    options = {"ref": "start", "at": NOW, "created_by": "cli"}
    run(ledger.post, house.tenant_id, Kind.GRANT, 5000, **options)
    cap(house, 1000)
    return house.tenant_id


def key_of(house):
    return Key.get_by_id(house.keys[Billing.PAY_PER_TOKEN])


def cap(house, micros):
    usd = None if micros is None else f"{micros // 10**6}.{micros % 10**6:06d}"
    changes = {"monthly_usd": usd}
    run(keys.limit, key_of(house).public_id, changes, actor="cli", now=NOW)


def admit(house, wanted, *, least=None, now=NOW, **columns):
    """Admit a request as its key is now; give its id and what was granted."""
    known = {
        "started_at": now,
        "limits_text": key_of(house).limits,
        "spend_month": spend.month_of(now) if key_of(house).limits else None,
    }
    opening = house.opening(**known | columns)
    asked = demand(wanted, least=wanted if least is None else least)
    return opening.request_id, run(admission.admit, opening, Money(house.tenant_id), asked)


def adjust(house, request_id, wanted, grant):
    pool = Money(house.tenant_id)
    return run(admission.adjust, request_id, pool, demand(wanted), grant, NOTHING)


def settle(request_id, cost):
    """End a request that cost so much: of the input alone, at four micros a token."""
    ended = closing(cost_micros=cost, input_tokens=cost // 4)
    return run(admission.settle, request_id, ended, NOW)


def kept():
    return {row.month: (row.charged_micros, row.held_micros) for row in Spend.select()}


def prove():
    verify.verify(list(Tenant.select()), {}, lambda rows: None)


def test_what_is_held_and_charged_counts_under_the_cap(house, tenant):
    first, _ = admit(house, 600)
    assert kept() == {NOVEMBER: (0, 600)}
    settle(first, 452)

    assert kept() == {NOVEMBER: (452, 0)}
    assert balance(tenant) == (4548, 0)
    prove()


def test_the_last_micro_can_be_spent_and_no_other(house, tenant):
    admit(house, 600)
    admit(house, 400)

    with pytest.raises(SpendCapReached, match="no room for this request"):
        admit(house, 1)

    assert kept() == {NOVEMBER: (0, 1000)}
    assert balance(tenant) == (5000, 1000)


def test_what_was_charged_leaves_no_room_either(house, tenant):
    first, _ = admit(house, 600)
    settle(first, 600)

    with pytest.raises(SpendCapReached):
        admit(house, 401)

    assert admit(house, 5000, least=1)[1].held == 400


def test_a_refusal_by_the_cap_holds_nothing_of_the_balance(house, tenant):
    admit(house, 600)

    with pytest.raises(SpendCapReached) as refused:
        admit(house, 401)

    assert balance(tenant) == (5000, 600)
    assert str(refused.value) == (
        "The monthly cap of $0.001 has no room for this request: $0.00 is spent, $0.0006 is held "
        "by running requests, and it needs $0.000401. The next month begins on 1 December 2026, "
        "00:00 UTC; the operator can raise the cap with `gatewayctl keys limit`."
    )
    assert refused.value.held == 600


def test_where_the_balance_is_too_low_too_that_is_told(house, tenant):
    Tenant.update(balance_micros=100).where(Tenant.id == tenant).execute()

    with pytest.raises(InsufficientBalance, match="Insufficient balance: this request needs"):
        admit(house, 2000)

    assert kept() == {NOVEMBER: (0, 0)}


def test_a_hold_grows_as_far_as_the_cap_goes_and_shrinks_again(house, tenant):
    request_id, grant = admit(house, 300)

    grown = adjust(house, request_id, 5000, grant)
    assert (grown.held, kept()[NOVEMBER]) == (1000, (0, 1000))
    refusal = run(admission.why_not, request_id, Money(tenant), grown, 1001)
    assert isinstance(refusal, SpendCapReached)

    less = adjust(house, request_id, 40, grown)
    assert (less.held, kept()[NOVEMBER]) == (40, (0, 40))
    prove()


def test_what_exceeds_a_hold_is_charged_in_truth(house, tenant):
    request_id, _ = admit(house, 1000)
    settle(request_id, 1300)

    assert kept() == {NOVEMBER: (1300, 0)}
    with pytest.raises(SpendCapReached):
        admit(house, 1)
    prove()


def test_a_request_counts_in_the_month_it_began_in(house, tenant):
    request_id, grant = admit(house, 900, now=DECEMBER - TICK)
    admit(house, 900, now=DECEMBER)

    adjust(house, request_id, 950, grant)
    settle(request_id, 920)

    assert kept() == {NOVEMBER: (920, 0), "2026-12": (0, 900)}
    prove()


def test_an_orphan_is_settled_under_its_cap(house, tenant):
    admit(house, 900)

    weights = Weights.of(QuotaWeights())
    assert run(orphans.settle_some, [house.instance_id], weights, NOW + DAY) == 1

    assert kept() == {NOVEMBER: (400, 0)}  # the input's estimate
    prove()


def test_a_cap_in_mid_month_begins_with_what_the_month_has_come_to(house, tenant):
    cap(house, None)
    assert kept() == {}
    done, _ = admit(house, 300)
    settle(done, 252)
    running, grant = admit(house, 200)

    cap(house, 1000)
    assert kept() == {NOVEMBER: (252, 200)}
    grown = adjust(house, running, 900, grant)
    settle(running, 712)

    assert grown.held == 748
    assert kept() == {NOVEMBER: (964, 0)}
    prove()


def test_a_cap_that_is_lifted_leaves_nothing_behind(house, tenant):
    running, grant = admit(house, 900)

    cap(house, None)
    assert kept() == {}
    assert adjust(house, running, 3000, grant).held == 3000
    settle(running, 2500)
    admit(house, 2000)

    assert stored(running).spend_month is None
    assert kept() == {}
    prove()


def test_a_cap_below_what_was_spent_refuses_and_takes_nothing_back(house, tenant):
    running, grant = admit(house, 900)

    cap(house, 500)
    assert adjust(house, running, 950, grant).held == 900
    settle(running, 880)

    with pytest.raises(SpendCapReached):
        admit(house, 1)
    assert kept() == {NOVEMBER: (880, 0)}


def test_a_request_that_costs_nothing_needs_no_room(house, tenant):
    cap(house, 0)

    assert admit(house, 0)[1].held == 0
    run(admission.admit, house.opening(price_id=None, limits_text=key_of(house).limits), None, None)


@pytest.mark.parametrize("wanted", [10, 5000])
def test_a_request_with_the_limits_of_a_moment_ago_is_looked_up_again(house, tenant, wanted):
    """Whether or not it could be paid for, it is told neither."""
    before = key_of(house).limits
    cap(house, 700)

    with pytest.raises(KeyChanged, match="changed just now"):
        admit(house, wanted, limits_text=before)

    assert Request.select().count() == 0
    assert (balance(tenant), kept()) == ((5000, 0), {NOVEMBER: (0, 0)})


def test_a_key_of_another_head_is_looked_up_again(house, tenant):
    """Its limits may read the same, and be counted elsewhere."""
    key = key_of(house)
    grace = {"grace": timedelta(hours=1), "created_by": "cli", "now": NOW}
    text = key.limits
    heir = run(keys.rotate, None, key.public_id, secret=secrets.generate(), **grace).key

    with pytest.raises(KeyChanged):
        admit(house, 10, limits_text=text)
    admit(house, 10, limits_text=text, limits_key_id=heir.id, spend_month=NOVEMBER)

    assert [(row.key_id, row.held_micros) for row in Spend.select()] == [(heir.id, 10)]
    prove()


@pytest.mark.parametrize("column", ["charged_micros", "held_micros"])
def test_the_proof_derives_what_was_spent(house, tenant, column):
    admit(house, 300)
    Spend.update({column: 7}).execute()

    with pytest.raises(Disagreement, match=f"{column} of its spend in 2026-11 is 7, its requests"):
        prove()


def test_what_a_month_came_to_is_shown(house, tenant):
    admit(house, 300)

    assert caps.standing(key_of(house).id, NOW) == {
        "month": NOVEMBER,
        "spent_micros": 0,
        "held_micros": 300,
        "cap_micros": 1000,
        "resets_at": "2026-12-01T00:00:00Z",
    }
    assert caps.standing(house.keys[Billing.SUBSCRIPTION], NOW) is None
    assert msgspec.json.decode(key_of(house).limits) == {"monthly_usd": "0.001000"}
