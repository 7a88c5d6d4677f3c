"""The objects of API 2026-10-28.endive, as far as a client of ours can look at them.

Every field that the SDK knows is there: null where nothing is said of it, and left out where
Stripe gives it on demand only.
"""

import typing
from functools import cache

import stripe

ON_DEMAND = {
    "checkout.session": {"line_items"},
    "customer": {"subscriptions", "sources", "tax_ids", "tax", "cash_balance", "deleted"},
    "charge": {"refunds", "deleted"},
    "invoice": {"payments", "deleted"},
    "price": {"tiers", "currency_options", "deleted"},
}
CLASSES = {
    "billing_portal.session": stripe.billing_portal.Session,
    "checkout.session": stripe.checkout.Session,
    "balance_transaction": stripe.BalanceTransaction,
    "charge": stripe.Charge,
    "customer": stripe.Customer,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
    "invoice": stripe.Invoice,
    "invoice_payment": stripe.InvoicePayment,
    "item": stripe.LineItem,
    "payment_intent": stripe.PaymentIntent,
    "price": stripe.Price,
    "refund": stripe.Refund,
    "subscription": stripe.Subscription,
    "subscription_item": stripe.SubscriptionItem,
}


def shape(kind, **fields):
    """Make an object of `kind` out of the fields that matter."""
    return dict.fromkeys(_nullable(kind)) | {"object": kind} | fields


def listing(items, url, *, has_more=False):
    return {"object": "list", "data": items, "has_more": has_more, "url": url}


@cache
def _nullable(kind):
    hints = CLASSES[kind].__annotations__
    absent = ON_DEMAND.get(kind, {"deleted"}) | {"previous_attributes"}
    return [
        name
        for name, hint in hints.items()
        if type(None) in typing.get_args(hint) and name not in absent
    ]


def price(object_id, lookup_key, cents, created):
    return shape(
        "price",
        id=object_id,
        active=True,
        billing_scheme="per_unit",
        created=created,
        currency="usd",
        livemode=False,
        lookup_key=lookup_key,
        metadata={},
        product=f"prod_fake_{lookup_key}",
        recurring={
            "interval": "month",
            "interval_count": 1,
            "meter": None,
            "trial_period_days": None,
            "usage_type": "licensed",
        },
        tax_behavior="unspecified",
        type="recurring",
        unit_amount=cents,
        unit_amount_decimal=str(cents),
    )


def customer(object_id, created, asked):
    return shape(
        "customer",
        id=object_id,
        balance=0,
        created=created,
        delinquent=False,
        description=asked.get("description"),
        email=asked.get("email"),
        livemode=False,
        metadata=asked.get("metadata", {}),
        name=asked.get("name"),
        preferred_locales=[],
        tax_exempt="none",
    )


def checkout_session(object_id, created, asked, *, subtotal, currency):
    is_payment = asked["mode"] == "payment"
    return shape(
        "checkout.session",
        id=object_id,
        adaptive_pricing=_flag(asked.get("adaptive_pricing", {"enabled": "true"})),
        allowed_payment_method_types=asked.get("allowed_payment_method_types"),
        amount_subtotal=subtotal,
        amount_total=subtotal,
        automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
        cancel_url=asked.get("cancel_url"),
        client_reference_id=asked.get("client_reference_id"),
        created=created,
        currency=currency,
        custom_fields=[],
        custom_text={},
        customer=asked.get("customer"),
        customer_creation="if_required" if is_payment and "customer" not in asked else None,
        customer_email=asked.get("customer_email"),
        expires_at=int(asked.get("expires_at", created + 86_400)),
        livemode=False,
        metadata=asked.get("metadata", {}),
        mode=asked["mode"],
        payment_method_collection="if_required" if is_payment else "always",
        payment_method_types=asked.get("allowed_payment_method_types", ["card", "link"]),
        payment_status="unpaid",
        shipping_options=[],
        status="open",
        success_url=asked.get("success_url"),
        total_details={"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        ui_mode="hosted_page",
        url=f"https://checkout.stripe.test/c/pay/{object_id}",
    )


def _flag(asked):
    return {"enabled": asked["enabled"] == "true"}


def portal_session(object_id, created, asked):
    return shape(
        "billing_portal.session",
        id=object_id,
        configuration="bpc_fake",
        created=created,
        customer=asked["customer"],
        livemode=False,
        return_url=asked.get("return_url"),
        url=f"https://billing.stripe.test/p/session/{object_id}",
    )


def event(object_id, created, kind, obj, previous):
    data = {"object": obj} | ({"previous_attributes": previous} if previous else {})
    return {
        "id": object_id,
        "object": "event",
        "api_version": stripe.api_version,
        "created": created,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }


def line_item(object_id, line, *, amount, currency, price):
    quantity = int(line.get("quantity", 1))
    product = line.get("price_data", {}).get("product_data", {})
    return shape(
        "item",
        id=object_id,
        amount_discount=0,
        amount_subtotal=amount * quantity,
        amount_tax=0,
        amount_total=amount * quantity,
        currency=currency,
        description=product.get("name"),
        price=price,
        quantity=quantity,
    )
