"""The fake Stripe, looked at through the real SDK: calls, objects, what happens to them."""

import asyncio
import contextlib
import typing

import httpx
import pytest
import stripe
from support.fake_stripe import fake_stripe
from support.fake_stripe.shapes import CLASSES

CREDITS = {"currency": "usd", "unit_amount": 2500, "product_data": {"name": "API credits"}}
RETURN = "http://gateway.test/billing/return?session_id={CHECKOUT_SESSION_ID}"


@pytest.fixture
def fake():
    with fake_stripe() as fake:
        yield fake


@pytest.fixture
def client(fake):
    with calling(fake) as client:
        yield client


@contextlib.contextmanager
def calling(fake, key=None, **options):
    """Give a client of the fake, which waits 1 s for an answer."""
    http_client = stripe.RequestsClient(timeout=1)
    addresses = {"api": fake.url}
    key = key or fake.key
    try:
        yield stripe.StripeClient(key, base_addresses=addresses, http_client=http_client, **options)
    finally:
        http_client.close()


def topup(client, *, key=None, **more):
    """Open a session for 25 dollars of credits."""
    asked = {
        "mode": "payment",
        "line_items": [{"quantity": 1, "price_data": CREDITS}],
        "success_url": RETURN,
        "metadata": {"kind": "topup"},
        "payment_intent_data": {"metadata": {"tenant": "default"}},
    }
    options = {"idempotency_key": key} if key else {}
    return client.v1.checkout.sessions.create(asked | more, options)


def tier(client, **more):
    """Open a session for the tier `team`, of a new customer."""
    price = client.v1.prices.list({"lookup_keys": ["team"], "active": True}).data[0]
    asked = {
        "mode": "subscription",
        "customer": client.v1.customers.create().id,
        "line_items": [{"quantity": 1, "price": price.id}],
        "success_url": RETURN,
        "subscription_data": {"metadata": {"tier": "team"}, "billing_mode": {"type": "flexible"}},
    }
    return client.v1.checkout.sessions.create(asked | more)


def happened(fake, since=0):
    return [event["type"] for event in fake.events[since:]]


def test_a_paid_session_has_a_payment_and_its_charge(fake, client):
    session = topup(client)

    fake.pay(session.id)

    expand = ["payment_intent.latest_charge", "line_items"]
    paid = client.v1.checkout.sessions.retrieve(session.id, {"expand": expand})
    assert (paid.status, paid.payment_status, paid.amount_subtotal) == ("complete", "paid", 2500)
    assert paid.payment_intent.latest_charge.amount_captured == 2500
    assert paid.payment_intent.metadata.to_dict() == {"tenant": "default"}
    assert paid.line_items.data[0].description == "API credits"
    assert happened(fake) == [
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    fake.check_calls()


def test_a_payment_that_takes_its_time_comes_or_does_not(fake, client):
    comes, fails = topup(client).id, topup(client).id
    for each in (comes, fails):
        fake.pay_async(each)
        assert fake.events[-1]["data"]["object"]["payment_status"] == "unpaid"

    fake.async_succeeds(comes)
    fake.async_fails(fails)

    sessions = client.v1.checkout.sessions
    assert sessions.retrieve(comes).payment_status == "paid"
    assert sessions.retrieve(fails).payment_status == "unpaid"
    assert happened(fake).count("checkout.session.async_payment_succeeded") == 1
    assert happened(fake)[-1] == "checkout.session.async_payment_failed"


def test_a_session_expires_by_hand_by_call_and_by_the_clock(fake, client):
    by_hand, by_call, by_clock, paid = (topup(client).id for _ in range(4))
    fake.pay(paid)

    fake.expire(by_hand)
    client.v1.checkout.sessions.expire(by_call)
    fake.advance(86_400)

    found = client.v1.checkout.sessions.list({"status": "expired"}).data
    assert [each.id for each in found] == [by_clock, by_call, by_hand]
    assert happened(fake)[-3:] == ["checkout.session.expired"] * 3
    with pytest.raises(stripe.InvalidRequestError, match="open"):
        client.v1.checkout.sessions.expire(paid)


def test_a_failed_refund_counts_no_more(fake, client):
    payment = fake.pay(topup(client).id)
    kept, failed = fake.refund(payment, 500), fake.refund(payment, 300, status="pending")
    assert client.v1.charges.list({"payment_intent": payment}).data[0].amount_refunded == 800

    fake.fail_refund(failed)

    intent = client.v1.payment_intents.retrieve(payment, {"expand": ["latest_charge.refunds"]})
    assert intent.latest_charge.amount_refunded == 500
    assert [each.status for each in intent.latest_charge.refunds.data] == ["failed", "succeeded"]
    found = client.v1.refunds.list({"payment_intent": payment}).data
    assert [each.id for each in found] == [failed, kept]
    assert happened(fake)[-3:] == ["refund.updated", "refund.failed", "charge.refund.updated"]


def test_no_more_is_refunded_than_was_paid(fake, client):
    payment = fake.pay(topup(client).id)
    client.v1.refunds.create({"payment_intent": payment, "amount": 2000})

    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded"):
        client.v1.refunds.create({"payment_intent": payment, "amount": 501})
    client.v1.refunds.create({"payment_intent": payment})

    assert client.v1.charges.list({"payment_intent": payment}).data[0].refunded is True
    with pytest.raises(stripe.InvalidRequestError, match="already been refunded"):
        client.v1.refunds.create({"payment_intent": payment})


def test_a_dispute_moves_money_and_an_inquiry_does_not(fake, client):
    payments = [fake.pay(topup(client).id) for _ in range(3)]
    won, lost = fake.dispute(payments[0]), fake.dispute(payments[1], 700)
    asked = fake.warn(payments[2])

    fake.win_dispute(won)
    fake.lose_dispute(lost)
    fake.close_inquiry(asked)

    def moved(dispute):
        found = client.v1.disputes.retrieve(dispute)
        return found.status, [each.amount for each in found.balance_transactions]

    assert moved(won) == ("won", [-2500, 2500])
    assert moved(lost) == ("lost", [-700])
    assert moved(asked) == ("warning_closed", [])
    assert happened(fake).count("charge.dispute.closed") == 3
    assert client.v1.disputes.list({"payment_intent": payments[1]}).data[0].id == lost


def test_an_inquiry_may_become_a_dispute(fake, client):
    dispute = fake.warn(fake.pay(topup(client).id))

    fake.escalate(dispute)

    found = client.v1.disputes.retrieve(dispute)
    assert sum(each.amount for each in found.balance_transactions) == -2500
    assert happened(fake)[-2:] == ["charge.dispute.updated", "charge.dispute.funds_withdrawn"]


def test_a_subscription_is_paid_for_month_by_month(fake, client):
    session = tier(client)

    subscription = fake.subscribe(session.id)
    first = client.v1.subscriptions.retrieve(subscription)["items"].data[0]
    fake.renew(subscription)

    found = client.v1.subscriptions.retrieve(
        subscription, {"expand": ["latest_invoice.payments.data.payment.payment_intent"]}
    )
    item = found["items"].data[0]
    assert (found.status, found.metadata.to_dict()) == ("active", {"tier": "team"})
    assert item.current_period_start == first.current_period_end < item.current_period_end
    assert item.price.lookup_key == "team"
    invoice = found.latest_invoice
    assert invoice.parent.subscription_details.subscription == subscription
    assert invoice.payments.data[0].payment.payment_intent.amount_received == 2000
    assert happened(fake)[-3:-1] == ["invoice.paid", "invoice.payment_succeeded"]
    assert client.v1.checkout.sessions.retrieve(session.id).subscription == subscription


def test_a_subscription_changes_and_ends(fake, client):
    subscription = fake.subscribe(tier(client).id)
    customer = client.v1.subscriptions.retrieve(subscription).customer
    since = len(fake.events)

    fake.set_subscription(subscription, price="pro")
    fake.set_subscription(subscription, status="paused")
    fake.set_subscription(subscription, status="active")
    fake.set_subscription(subscription, cancel_at_period_end=True)
    fake.advance(31 * 86_400)

    assert fake.events[-2]["data"]["previous_attributes"] == {"cancel_at_period_end": False}
    assert happened(fake, since) == [
        "customer.subscription.updated",
        "customer.subscription.paused",
        "customer.subscription.resumed",
        "customer.subscription.updated",
        "customer.subscription.deleted",
    ]
    assert client.v1.subscriptions.list({"customer": customer}).data == []
    every = client.v1.subscriptions.list({"customer": customer, "status": "all"}).data
    assert [each["items"].data[0].price.lookup_key for each in every] == ["pro"]
    assert [each.status for each in every] == ["canceled"]


def test_a_renewal_may_fail(fake, client):
    subscription = fake.subscribe(tier(client).id)

    fake.fail_renewal(subscription)

    assert client.v1.subscriptions.retrieve(subscription).status == "past_due"
    assert happened(fake)[-2:] == ["invoice.payment_failed", "customer.subscription.updated"]


def test_a_lookup_key_moves_to_the_new_price(fake, client):
    subscription = fake.subscribe(tier(client).id)

    fake.set_price("team", 3000)

    assert client.v1.prices.list({"lookup_keys": ["team"]}).data[0].unit_amount == 3000
    old = client.v1.subscriptions.retrieve(subscription)["items"].data[0].price
    assert (old.lookup_key, old.unit_amount) == (None, 2000)


def test_a_deleted_customer_leaves_a_stub_and_no_subscription(fake, client):
    subscription = fake.subscribe(tier(client).id)
    customer = client.v1.subscriptions.retrieve(subscription).customer

    fake.delete_customer(customer)

    assert client.v1.customers.retrieve(customer).deleted is True
    assert client.v1.subscriptions.retrieve(subscription).status == "canceled"
    assert happened(fake)[-2:] == ["customer.subscription.deleted", "customer.deleted"]
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        client.v1.billing_portal.sessions.create({"customer": customer})


def test_events_are_listed_newest_first_in_pages(fake, client):
    fake.pay(topup(client).id)
    since = fake.now
    fake.advance(3600)
    fake.subscribe(tier(client).id)

    every = client.v1.events.list({"limit": 3}).auto_paging_iter()
    recent = client.v1.events.list({"created": {"gt": since}, "limit": 100})
    some = client.v1.events.list({"types": ["charge.succeeded", "invoice.*"], "limit": 2})

    assert [event.id for event in every] == [event["id"] for event in reversed(fake.events)]
    assert len(recent.data) == len(fake.events) - 4
    assert (some.has_more, [event.type for event in some.data]) == (
        True,
        ["invoice.payment_succeeded", "invoice.paid"],
    )
    assert client.v1.events.retrieve(fake.events[0]["id"]).api_version == "2026-10-28.endive"


def test_events_are_snapshots(fake, client):
    session = topup(client)
    fake.pay_async(session.id)

    fake.async_succeeds(session.id)

    states = [
        event["data"]["object"]["payment_status"]
        for event in fake.events
        if event["type"].startswith("checkout.session")
    ]
    assert states == ["unpaid", "paid"]


def test_events_are_kept_for_thirty_days(fake, client):
    fake.pay(topup(client).id)

    fake.advance(31 * 86_400)

    assert client.v1.events.list().data == []


def test_the_clock_may_stand_still():
    with fake_stripe(now=1_800_000_000) as fake, calling(fake) as client:
        fake.advance(60)

        assert client.v1.customers.create().created == 1_800_000_060


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"customer": "cus_nobody"}, "No such customer: 'cus_nobody'"),
        ({"line_items": [{"quantity": 1, "price": "price_none"}]}, "No such price"),
        ({"line_items": [{"quantity": 1}]}, "price_data"),
        ({"line_items": [{"price_data": CREDITS | {"unit_amount": 49}}]}, "at least"),
        ({"mode": "subscription"}, "do not fit the `mode`"),
        ({"subscription_data": {"metadata": {}, "description": "x"}}, "subscription_data"),
        ({"success_url": "/billing/return"}, "Not a valid URL"),
        ({"expires_at": 1}, "between 30 minutes and 24 hours"),
    ],
)
def test_a_session_that_stripe_would_refuse_is_refused(client, changes, message):
    with pytest.raises(stripe.InvalidRequestError, match=message):
        topup(client, **changes)


def test_an_archived_price_is_not_sold(fake, client):
    fake.archive_price("team")

    assert client.v1.prices.list({"lookup_keys": ["team"], "active": True}).data == []
    archived = client.v1.prices.list({"lookup_keys": ["team"]}).data[0]
    with pytest.raises(stripe.InvalidRequestError, match="inactive"):
        topup(client, mode="subscription", line_items=[{"quantity": 1, "price": archived.id}])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda v1: v1.customers.retrieve("cus_none"), stripe.InvalidRequestError, "No such"),
        (lambda v1: v1.coupons.list(), stripe.InvalidRequestError, "Unrecognized request URL"),
        (lambda v1: v1.prices.list({"currency": "usd"}), stripe.APIError, "does not filter"),
        (lambda v1: v1.events.list({"limit": 0}), stripe.InvalidRequestError, "limit"),
        (
            lambda v1: v1.prices.list({"expand": ["data.seller"]}),
            stripe.InvalidRequestError,
            "cannot be expanded",
        ),
    ],
)
def test_what_is_not_there_is_an_error_of_stripes(client, call, error, message):
    with pytest.raises(error, match=message) as raised:
        call(client.v1)

    assert raised.value.request_id.startswith("req_fake")


def test_only_the_right_key_and_version_may_call(fake):
    with calling(fake, key="sk_other") as other, calling(fake, stripe_version="2020-08-27") as old:
        with pytest.raises(stripe.AuthenticationError, match="Invalid API Key"):
            other.v1.customers.create()
        with pytest.raises(stripe.InvalidRequestError, match="Invalid Stripe API version"):
            old.v1.customers.create()

    assert [call.status for call in fake.calls] == [401, 400]


def test_it_serves_the_asynchronous_client_too(fake):
    async def run():
        http_client = stripe.HTTPXClient(timeout=httpx.Timeout(5))
        addresses = {"api": fake.url}
        client = stripe.StripeClient(
            fake.key, base_addresses=addresses, http_client=http_client, max_network_retries=2
        )
        fake.fail(503, times=2)
        try:
            made = await asyncio.gather(*(client.v1.customers.create_async() for _ in range(5)))
            listed = await client.v1.customers.list_async({"limit": 2})
            return made, [each.id async for each in listed.auto_paging_iter()]
        finally:
            await http_client.close_async()

    made, found = asyncio.run(run())

    assert sorted(each.id for each in made) == sorted(found)
    fake.check_calls()


def test_objects_have_the_fields_that_the_sdk_knows(fake, client):
    """A fake that makes up a field, or forgets one, lets through what Stripe would not."""
    payment = fake.pay(topup(client).id)
    fake.refund(payment, 500)
    fake.win_dispute(fake.dispute(payment))
    subscription = client.v1.subscriptions.retrieve(fake.subscribe(tier(client).id))
    client.v1.billing_portal.sessions.create({"customer": subscription.customer})
    seen = [*fake.objects.values(), *subscription.to_dict()["items"]["data"], *fake.events]

    assert {each["object"] for each in seen} == CLASSES.keys() - {"item"}
    for each in seen:
        fields = CLASSES[each["object"]].__annotations__
        needed = {name for name, hint in fields.items() if type(None) not in _choices(hint)}
        assert each.keys() - fields.keys() == set(), each["object"]
        assert needed - each.keys() - {"OBJECT_NAME"} == set(), each["object"]
        assert [name for name in each if not _may_be(each[name], fields[name])] == []


def _choices(hint):
    return typing.get_args(hint) or (hint,)


def _may_be(value, hint):
    """Tell whether `value` is one of the plain types or words that `hint` names, if any."""
    if typing.get_origin(hint) is typing.Literal:
        return value in typing.get_args(hint)
    words = [word for each in _choices(hint) for word in typing.get_args(each)]
    enums = [each for each in _choices(hint) if typing.get_origin(each) is typing.Literal]
    if enums and value is not None:
        return value in words
    return hint not in (int, str, bool) or type(value) is hint
