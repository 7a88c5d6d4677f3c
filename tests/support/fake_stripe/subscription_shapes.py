"""The objects that a subscription is made of."""

from support.fake_stripe.shapes import listing, shape


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
