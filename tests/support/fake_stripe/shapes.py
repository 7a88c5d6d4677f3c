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
_CLASSES = {
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
    hints = _CLASSES[kind].__annotations__
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


def payment_intent(object_id, created, *, amount, currency, customer, metadata):
    return shape(
        "payment_intent",
        id=object_id,
        amount=amount,
        amount_capturable=0,
        amount_received=0,
        capture_method="automatic_async",
        confirmation_method="automatic",
        created=created,
        currency=currency,
        customer=customer,
        livemode=False,
        metadata=dict(metadata),
        payment_method_types=["card"],
        status="requires_payment_method",
    )


def charge(object_id, created, intent):
    return shape(
        "charge",
        id=object_id,
        amount=intent["amount"],
        amount_captured=0,
        amount_refunded=0,
        billing_details={"address": None, "email": None, "name": None, "phone": None},
        captured=False,
        created=created,
        currency=intent["currency"],
        customer=intent["customer"],
        disputed=False,
        livemode=False,
        metadata=dict(intent["metadata"]),
        paid=False,
        payment_intent=intent["id"],
        refunded=False,
        status="pending",
    )


def balance_transaction(object_id, created, *, kind, amount, fee, currency, source):
    return shape(
        "balance_transaction",
        id=object_id,
        amount=amount,
        available_on=created + 172_800,
        balance_type="payments",
        created=created,
        currency=currency,
        fee=fee,
        fee_details=[],
        net=amount - fee,
        reporting_category="charge" if kind == "charge" else kind,
        source=source,
        status="pending",
        type=kind,
    )


def refund(object_id, created, charge, *, amount, status, reason, metadata):
    return shape(
        "refund",
        id=object_id,
        amount=amount,
        charge=charge["id"],
        created=created,
        currency=charge["currency"],
        customer=charge["customer"],
        metadata=dict(metadata),
        payment_intent=charge["payment_intent"],
        reason=reason,
        status=status,
    )


def dispute(object_id, created, charge, *, amount, status):
    return shape(
        "dispute",
        id=object_id,
        amount=amount,
        balance_transactions=[],
        charge=charge["id"],
        created=created,
        currency=charge["currency"],
        enhanced_eligibility_types=[],
        evidence={},
        evidence_details={
            "due_by": created + 7 * 86_400,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        is_charge_refundable=status.startswith("warning"),
        livemode=False,
        metadata={},
        payment_intent=charge["payment_intent"],
        reason="fraudulent",
        status=status,
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


def subscription(object_id, created, *, customer, billing_mode, metadata):
    return shape(
        "subscription",
        id=object_id,
        automatic_tax={"disabled_reason": None, "enabled": False, "liability": None},
        billing_cycle_anchor=created,
        billing_mode={"flexible": None, "type": billing_mode, "updated_at": None},
        billing_schedules=[],
        cancel_at_period_end=False,
        collection_method="charge_automatically",
        created=created,
        currency="usd",
        customer=customer,
        discounts=[],
        invoice_settings={"account_tax_ids": None, "issuer": {"type": "self"}},
        items=listing([], f"/v1/subscription_items?subscription={object_id}"),
        livemode=False,
        metadata=dict(metadata),
        start_date=created,
        status="incomplete",
    )


def subscription_item(object_id, created, *, subscription, price, quantity, period_s):
    return shape(
        "subscription_item",
        id=object_id,
        created=created,
        current_period_end=created + period_s,
        current_period_start=created,
        discounts=[],
        metadata={},
        plan={"id": price["id"], "object": "plan", "amount": price["unit_amount"]},
        price=price,
        quantity=quantity,
        subscription=subscription,
        tax_rates=[],
    )


def invoice(object_id, created, subscription, *, cents, reason):
    return shape(
        "invoice",
        id=object_id,
        amount_due=cents,
        amount_overpaid=0,
        amount_paid=0,
        amount_remaining=cents,
        amount_shipping=0,
        attempt_count=0,
        attempted=False,
        automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
        billing_reason=reason,
        collection_method="charge_automatically",
        created=created,
        currency="usd",
        customer=subscription["customer"],
        default_tax_rates=[],
        discounts=[],
        issuer={"type": "self"},
        lines=listing([], f"/v1/invoices/{object_id}/lines"),
        livemode=False,
        metadata={},
        parent={
            "quote_details": None,
            "subscription_details": {
                "metadata": dict(subscription["metadata"]),
                "subscription": subscription["id"],
                "subscription_proration_date": None,
            },
            "type": "subscription_details",
        },
        payment_settings={"payment_method_options": None, "payment_method_types": None},
        period_end=created,
        period_start=created,
        post_payment_credit_notes_amount=0,
        pre_payment_credit_notes_amount=0,
        starting_balance=0,
        status="draft",
        status_transitions={
            "finalized_at": created,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        subtotal=cents,
        total=cents,
    )


def invoice_payment(object_id, created, invoice, intent_id):
    return shape(
        "invoice_payment",
        id=object_id,
        amount_paid=invoice["total"],
        amount_requested=invoice["total"],
        created=created,
        currency=invoice["currency"],
        invoice=invoice["id"],
        is_default=True,
        livemode=False,
        payment={
            "charge": None,
            "payment_intent": intent_id,
            "payment_record": None,
            "type": "payment_intent",
        },
        status="paid",
        status_transitions={"canceled_at": None, "paid_at": created},
    )


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
