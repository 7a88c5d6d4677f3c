"""The fake Stripe, looked at through the real SDK."""

import contextlib

import pytest
import stripe
from support.fake_stripe import fake_stripe

CREDITS = {"currency": "usd", "unit_amount": 2500, "product_data": {"name": "API credits"}}


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
    """Give a client of the fake, which may wait 2 s for an answer."""
    http_client = stripe.RequestsClient(timeout=2)
    addresses = {"api": fake.url}
    client = stripe.StripeClient(
        key or fake.key, base_addresses=addresses, http_client=http_client, **options
    )
    try:
        yield client
    finally:
        http_client.close()


def topup(client, **more):
    """Open a session for 25 dollars of a new customer."""
    customer = client.v1.customers.create({"metadata": {"tenant": "default"}})
    asked = {
        "mode": "payment",
        "customer": customer.id,
        "line_items": [{"quantity": 1, "price_data": CREDITS}],
        "success_url": "http://gateway.test/billing/return?session_id={CHECKOUT_SESSION_ID}",
        "metadata": {"kind": "topup"},
        "payment_intent_data": {"metadata": {"tenant": "default"}},
    }
    return client.v1.checkout.sessions.create(asked | more)


def happened(fake):
    return [event["type"] for event in fake.events]


def test_a_paid_session_has_a_payment_and_its_charge(fake, client):
    session = topup(client)

    fake.pay(session.id)

    paid = client.v1.checkout.sessions.retrieve(
        session.id, {"expand": ["payment_intent.latest_charge"]}
    )
    assert (paid.status, paid.payment_status, paid.amount_subtotal) == ("complete", "paid", 2500)
    assert paid.payment_intent.latest_charge.amount_captured == 2500
    assert paid.payment_intent.metadata.to_dict() == {"tenant": "default"}
    assert happened(fake) == [
        "customer.created",
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "checkout.session.completed",
    ]
    fake.check_calls()
