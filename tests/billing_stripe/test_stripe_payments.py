"""Top-ups, refunds and disputes: the ledger ends where Stripe is, however it was told."""

import asyncio

import pytest
from support.wires import until

from server import clock
from server.billing import ledger
from server.billing.stripe import payments, sessions
from server.billing.stripe.topups import check_amount
from server.errors import InvalidRequest, UpstreamError
from server.store.models import Checkout, Payment, Tenant, Topup
from server.tenants import tenants

USD = 1_000_000
_ODD = "Stripe showed something odd (TypeError: an amount is not a whole number)"


def _posts(fake, path):
    return [call for call in fake.calls if call.name == f"POST {path}"]


async def _has_asked(fake, name):
    return [call for call in fake.calls if call.name == name]


async def _state(shop):
    return [(row["state"], row["problem"]) for row in await shop.rows(Topup)]


def test_a_paid_topup_is_credited_once_however_often_it_is_told(in_shop):
    async def scenario(shop):
        payment = await shop.paid(2500)
        for _ in range(3):
            await shop.tell_all()
        await shop.reconcile()
        return payment, await shop.entries(), await shop.rows(Payment), await _state(shop)

    payment, entries, (row,), states = in_shop(scenario)

    assert entries == [("topup", 25 * USD)]
    assert (row["ref"], row["credited_micros"], row["version"]) == (payment, 25 * USD, 1)
    assert states == [("paid", None)]


def test_a_session_says_whose_it_is_and_leads_back_to_the_public_url(in_shop, fake):
    topup = in_shop(lambda shop: shop.topup(500))

    (customer,), (session,) = _posts(fake, "/v1/customers"), _posts(fake, "/v1/checkout/sessions")
    tenant = customer.params["metadata"]["tenant"]
    assert customer.idempotency_key == f"customer:{tenant}"
    assert session.idempotency_key == f"topup:{topup.public_id}"
    assert session.params["client_reference_id"] == tenant
    back = "https://gateway.example/billing/return"
    assert session.params["cancel_url"] == back
    assert session.params["success_url"] == back + "?session_id={CHECKOUT_SESSION_ID}"
    assert session.params["line_items"][0]["price_data"]["unit_amount"] == "500"
    assert topup.url.startswith("https://")


@pytest.mark.parametrize("cents", [500, 501, 100_000])
def test_five_to_a_thousand_dollars_can_be_bought(cents):
    assert check_amount(cents) == cents


@pytest.mark.parametrize(
    "cents", [None, True, 499, 100_001, -500, 0, 10**30, 500.0, "500", [500], {"cents": 500}]
)
def test_other_amounts_are_refused(cents):
    with pytest.raises(InvalidRequest, match="whole number from 500 to 100000") as refused:
        check_amount(cents)

    assert refused.value.param == "amount_cents"


def test_first_purchases_at_once_make_one_customer(in_shop, fake):
    async def scenario(shop):
        await asyncio.gather(*(shop.topup() for _ in range(4)))
        return await shop.rows(Tenant)

    (tenant,) = in_shop(scenario)

    assert [each["id"] for each in fake.all("customer")] == [tenant["stripe_customer_id"]]


def test_a_lost_answer_leaves_one_session(in_shop, fake):
    """What Stripe did without our hearing of it is not done a second time."""

    async def scenario(shop):
        fake.lose_reply(times=2, on="POST /v1/checkout/sessions")
        await shop.topup()

    in_shop(scenario)

    assert len(_posts(fake, "/v1/checkout/sessions")) == 3
    assert len(fake.all("checkout.session")) == 1


def test_a_crash_between_the_call_and_the_commit_leaves_one_session_that_is_still_credited(
    in_shop, fake
):
    async def scenario(shop):
        fake.lose_reply(times=3, on="POST /v1/checkout/sessions")
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await shop.topup(1000)
        (row,) = await shop.rows(Topup)
        (session,) = fake.all("checkout.session")
        fake.pay(session["id"])
        await shop.tell_all()
        return row["session_id"], await shop.entries(), await _state(shop)

    session_id, entries, states = in_shop(scenario)

    assert session_id is None
    assert entries == [("topup", 10 * USD)]
    assert states == [("paid", None)]
    assert len(fake.all("checkout.session")) == 1


def test_a_row_without_a_session_gets_it_later_or_expires(in_shop, fake):
    async def scenario(shop):
        fake.fail(503, times=6, on="POST /v1/checkout/sessions")
        for _ in range(2):
            with pytest.raises(UpstreamError, match="cannot be reached"):
                await shop.topup(1000)

        def age():
            Topup.update(expires_at=clock.now()).where(Topup.id == 2).execute()

        await shop.store.write(age)
        await shop.reconcile()
        return await shop.rows(Topup)

    first, second = in_shop(scenario)

    (session,) = fake.all("checkout.session")
    assert (first["session_id"], first["state"]) == (session["id"], "open")
    assert (second["session_id"], second["state"]) == (None, "expired")


def test_what_stripe_refuses_to_sell_has_failed_and_is_not_asked_again(in_shop, fake):
    async def scenario(shop):
        fake.fail(400, on="POST /v1/checkout/sessions", code="parameter_invalid")
        with pytest.raises(Exception, match="refused what the gateway asked"):
            await shop.topup()
        await shop.reconcile()
        return await _state(shop)

    assert in_shop(scenario) == [("failed", "Stripe refused it (parameter_invalid)")]
    assert len(_posts(fake, "/v1/checkout/sessions")) == 1


def test_an_unpaid_session_expires_and_credits_nothing(in_shop, fake):
    async def scenario(shop):
        await shop.topup()
        fake.advance(24 * 3600)
        await shop.tell_all()
        return await shop.entries(), await _state(shop)

    assert in_shop(scenario) == ([], [("expired", None)])


def test_money_that_comes_later_is_credited_when_it_comes(in_shop, fake):
    async def scenario(shop):
        seen = []
        for ending in (fake.async_succeeds, fake.async_fails):
            topup = await shop.topup(1000)
            fake.pay_async(topup.session_id)
            await shop.tell_all()
            seen.append((await _state(shop))[-1][0])
            ending(topup.session_id)
            await shop.tell_all()
            seen.append((await _state(shop))[-1][0])
        return seen, await shop.entries()

    seen, entries = in_shop(scenario)

    assert seen == ["processing", "paid", "processing", "failed"]
    assert entries == [("topup", 10 * USD)]


def test_a_free_session_is_known_by_its_own_id(in_shop, fake):
    async def scenario(shop):
        topup = await shop.topup(1000)
        fake.pay_nothing(topup.session_id)
        await shop.tell_all()
        return topup, await shop.rows(Payment), await shop.balance()

    topup, (payment,), balance = in_shop(scenario)

    assert (payment["ref"], balance) == (topup.session_id, 10 * USD)


def test_refunds_debit_and_a_failed_one_credits_again(in_shop, fake):
    async def scenario(shop):
        payment = await shop.paid(2500)
        first = fake.refund(payment, 1000)
        await shop.tell_all()
        fake.refund(payment, 500, status="pending")
        await shop.tell_all()
        fake.fail_refund(first)
        await shop.tell_all()
        return await shop.entries(), await shop.balance()

    entries, balance = in_shop(scenario)

    assert entries == [
        ("topup", 25 * USD),
        ("refund", -10 * USD),
        ("refund", -5 * USD),
        ("refund", 10 * USD),
    ]
    assert balance == 20 * USD


def test_a_dispute_takes_the_money_and_gives_it_back_when_won(in_shop, fake):
    async def scenario(shop):
        balances, payment = [], await shop.paid(2500)
        inquiry = fake.warn(payment)
        await shop.tell_all()
        balances.append(await shop.balance())
        fake.escalate(inquiry)
        await shop.tell_all()
        balances.append(await shop.balance())
        fake.win_dispute(inquiry)
        await shop.tell_all()
        balances.append(await shop.balance())
        fake.lose_dispute(fake.dispute(payment, 700))
        await shop.tell_all()
        balances.append(await shop.balance())
        return balances

    assert in_shop(scenario) == [25 * USD, 0, 25 * USD, 18 * USD]


def test_a_dispute_in_the_money_of_the_account_takes_what_was_paid(in_shop, fake):
    """Where Stripe pays out in euro, a dispute's moves are euro; the balance is in dollars."""

    async def scenario(shop):
        payment = await shop.paid(2500)
        dispute = fake.find("dispute", fake.dispute(payment))
        for move in dispute["balance_transactions"]:
            move.update(currency="eur", amount=-2300)
        await shop.tell_all()
        return await shop.entries()

    assert in_shop(scenario) == [("topup", 25 * USD), ("dispute", -25 * USD)]


def test_a_refund_may_overdraw(in_shop, fake):
    async def scenario(shop):
        payment = await shop.paid(1000)
        await shop.tell_all()

        def spend():
            ledger.post(
                *(shop.tenant_id, ledger.Kind.ADJUSTMENT, -8 * USD),
                ref="spent",
                at=clock.now(),
                created_by="cli",
            )

        await shop.store.write(spend)
        fake.refund(payment)
        await shop.tell_all()
        return await shop.balance()

    assert in_shop(scenario) == -8 * USD


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"currency": "eur"}, "another currency"),
        ({"amount_subtotal": 1}, "another amount_subtotal"),
        ({"client_reference_id": "tnt_other"}, "another client_reference_id"),
        ({"customer": "cus_other"}, "another customer"),
        ({"amount_subtotal": 10**18, "currency": "jpy"}, "another currency and amount_subtotal"),
    ],
)
def test_a_session_that_is_not_as_asked_credits_nothing_and_says_why(
    in_shop, fake, changes, problem
):
    async def scenario(shop):
        topup = await shop.topup(1000)
        fake.pay(topup.session_id, **changes)
        await shop.tell_all()
        await shop.reconcile()
        return await shop.entries(), await _state(shop), await shop.event_states()

    entries, ((state, why),), told = in_shop(scenario)

    assert entries == []
    assert (state, why) == ("quarantined", f"Stripe's session has {problem}")
    assert ("quarantined", why) in told.values()


def test_an_amount_of_an_odd_kind_credits_nothing(in_shop, fake):
    async def scenario(shop):
        payment = await shop.paid(1000)
        refund = fake.find("refund", fake.refund(payment, 100))
        refund["amount"] = "100"
        await shop.tell_all()
        return await shop.entries(), await shop.event_states()

    entries, told = in_shop(scenario)

    assert entries == []
    assert ("quarantined", _ODD) in told.values()


def test_sessions_of_others_are_left_alone(in_shop, fake):
    """The same Stripe account may sell other things; and a row may be lost to an old backup."""

    async def scenario(shop):
        await shop.paid(1000)
        (session,) = fake.all("checkout.session")
        (intent,) = fake.all("payment_intent")
        forget = [Topup.delete().execute, Tenant.update(stripe_customer_id=None).execute]
        for each in forget:
            await shop.store.write(each)
        await shop.tell_all()
        before = set((await shop.event_states()).values())
        session["metadata"], intent["metadata"] = {}, {}
        for event in fake.events:
            event["id"] += "_again"
        await shop.tell_all()
        return before, set((await shop.event_states()).values()) - before, await shop.entries()

    before, after, entries = in_shop(scenario)

    assert entries == []
    assert ("quarantined", "it names a purchase that is not known here") in before
    assert ("ignored", "not made by this gateway") in after
    assert "quarantined" not in {state for state, _ in after}


def test_a_payment_is_credited_to_one_topup_only(in_shop, fake):
    """Two sessions that name the same payment: the second credits nothing."""

    async def scenario(shop):
        payment = await shop.paid(1000)
        await shop.tell_all()
        other = await shop.topup(1000)
        fake.pay(other.session_id)
        fake.find("checkout.session", other.session_id)["payment_intent"] = payment
        await shop.reconcile()
        return await shop.entries(), await _state(shop)

    entries, states = in_shop(scenario)

    assert entries == [("topup", 10 * USD)]
    assert [state for state, _ in states] == ["paid", "quarantined"]


def test_a_topup_belongs_to_the_tenant_that_asked(in_shop, fake):
    async def scenario(shop):
        other = await shop.store.write(tenants.create, "other", clock.now())
        await shop.paid(1000)
        topup = await shop.topup(2000, tenant_id=other.id)
        fake.pay(topup.session_id)
        await shop.tell_all()
        return {row["name"]: row["balance_micros"] for row in await shop.rows(Tenant)}

    assert in_shop(scenario) == {"default": 10 * USD, "other": 20 * USD}
    assert len(fake.all("customer")) == 2


def test_a_stale_answer_is_not_posted_over_a_newer_one(in_shop, fake):
    """Two who compare the same payment at once, as server and command line may."""

    async def scenario(shop):
        payment = await shop.paid(1000)
        await shop.tell_all()
        fake.hang(0.3, on="GET /v1/disputes")
        (row,) = await shop.store.read(sessions.in_states, Topup, ["paid"], 1)
        fake.calls.clear()
        slow = asyncio.create_task(payments.converge(shop.account, row))
        await until(lambda: _has_asked(fake, "GET /v1/disputes"))
        fake.refund(payment, 400)
        await payments.converge(shop.account, row)
        between = await shop.balance()
        await slow
        return between, await shop.balance(), await shop.entries()

    between, after, entries = in_shop(scenario)

    assert (between, after) == (6 * USD, 6 * USD)
    assert entries == [("topup", 10 * USD), ("refund", -4 * USD)]


def test_what_was_paid_stays_paid(in_shop, fake):
    """Whatever Stripe may show of the session later."""

    async def scenario(shop):
        await shop.paid(1000)
        await shop.tell_all()
        (session,) = fake.all("checkout.session")
        session.update(status="expired", payment_status="unpaid")
        (row,) = await shop.store.read(sessions.in_states, Topup, ["paid"], 1)
        await payments.converge(shop.account, row)
        return await shop.entries(), await _state(shop)

    assert in_shop(scenario) == ([("topup", 10 * USD)], [("paid", None)])


def test_no_checkout_row_is_made_for_a_topup(in_shop):
    async def scenario(shop):
        await shop.paid()
        await shop.tell_all()
        return await shop.rows(Checkout)

    assert in_shop(scenario) == []
