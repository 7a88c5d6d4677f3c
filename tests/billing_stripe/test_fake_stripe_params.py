"""Calls held to the SDK's own types, and the forms that they travel in."""

import pytest
import stripe
from support.fake_stripe import fake_stripe, forms
from support.fake_stripe.params import violations

SESSION = {
    "mode": "payment",
    "customer": "cus_fake",
    "client_reference_id": "default",
    "success_url": "https://gateway.test/return?session_id={CHECKOUT_SESSION_ID}",
    "line_items": [
        {
            "quantity": 1,
            "price_data": {
                "currency": "usd",
                "unit_amount": 2500,
                "product_data": {"name": "API credits"},
            },
        }
    ],
    "allowed_payment_method_types": ["card", "link"],
    "adaptive_pricing": {"enabled": False},
    "metadata": {"tenant": "default"},
    "payment_intent_data": {"metadata": {"tenant": "default"}},
    "expires_at": 1_800_000_000,
}
PRICE = SESSION["line_items"][0]["price_data"]


def lines(**changes):
    return {"line_items": [{"quantity": 1, "price_data": PRICE | changes}]}


def wrong(asked):
    return list(violations(asked, stripe.params.checkout.SessionCreateParams, wire=False))


def test_a_sound_call_has_nothing_against_it():
    assert wrong(SESSION) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"payment_method_types": ["card"]}, "payment_method_types: unknown parameter"),
        ({"idempotency_key": "k"}, "idempotency_key: unknown parameter"),
        ({"mode": "paymnet"}, "mode: 'paymnet' is none of 'payment', 'setup', 'subscription'"),
        ({"ui_mode": "hosted"}, "ui_mode: 'hosted' is none of"),
        ({"metadata": {"tenant": 1}}, "metadata.tenant: 1 is not str"),
        ({"metadata": {"tenant": None}}, "metadata.tenant: None is not str"),
        ({"metadata": [1]}, "metadata: [1] is not an object"),
        ({"line_items": {"quantity": 1}}, "line_items: {'quantity': 1} is not a list"),
        ({"line_items": [{"lookup_key": "team"}]}, "line_items[0].lookup_key: unknown parameter"),
        (lines(unit_amount=25.0), "line_items[0].price_data.unit_amount: 25.0 is not int"),
        (lines(unit_amount=True), "line_items[0].price_data.unit_amount: True is not int"),
        (lines(unit_amount="2500"), "line_items[0].price_data.unit_amount: '2500' is not int"),
        (lines(product_data={}), "line_items[0].price_data.product_data.name: missing"),
        ({"adaptive_pricing": {"enabled": 1}}, "adaptive_pricing.enabled: 1 is not bool"),
        ({"allowed_payment_method_types": ["cash"]}, "allowed_payment_method_types[0]: 'cash'"),
    ],
)
def test_what_stripe_would_refuse_is_found(changes, found):
    assert [line[: len(found)] for line in wrong(SESSION | changes)] == [found]


def test_a_missing_currency_is_found():
    bare = {name: value for name, value in PRICE.items() if name != "currency"}

    found = wrong(SESSION | {"line_items": [{"price_data": bare}]})

    assert found == ["line_items[0].price_data.currency: missing"]


@pytest.mark.parametrize("cents", ["1.5", "1e3", "", " 1", "0x1", "true"])
def test_what_arrives_as_no_whole_number_is_found(cents):
    sent = forms.decode(f"created[gte]={cents}")

    assert list(violations(sent, stripe.params.EventListParams)) != []


def test_what_the_sdk_sends_is_read_back_whole(fake, client):
    """None is left out, what is nested stays nested, and every leaf is a string."""
    metadata = {"a.b": "c", "d": "é&= +%\n", "e": ""}
    client.v1.customers.create({"metadata": metadata, "name": None, "preferred_locales": ["en"]})

    assert fake.calls[0].params == {"metadata": metadata, "preferred_locales": ["en"]}


def test_a_form_may_count_its_lists_or_not():
    assert forms.decode("a[]=1&a[]=2&b[0][c]=3&b[1][c]=4&d[1]=5") == {
        "a": ["1", "2"],
        "b": [{"c": "3"}, {"c": "4"}],
        "d": {"1": "5"},
    }


def test_the_check_of_calls_names_each_wrong_one(fake, client):
    client.v1.customers.create({"metadata": {"tenant": 7}})
    with pytest.raises(stripe.InvalidRequestError, match="limit"):
        client.v1.events.list({"limit": 1.5})
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized"):
        client.v1.coupons.list()

    with pytest.raises(AssertionError) as raised:
        fake.check_calls()

    assert str(raised.value).splitlines() == [
        "GET /v1/events: limit: '1.5' is not int",
        "Unrecognized request URL (GET: /v1/coupons).",
        "POST /v1/customers: metadata.tenant: 7 is not str",
        "GET /v1/events: limit: 1.5 is not int",
    ]


@pytest.fixture
def fake():
    with fake_stripe() as fake:
        yield fake


@pytest.fixture
def client(fake):
    http_client = stripe.RequestsClient(timeout=2)
    yield stripe.StripeClient(fake.key, base_addresses={"api": fake.url}, http_client=http_client)
    http_client.close()
