"""The objects that a payment leaves behind."""

from support.fake_stripe.shapes import shape


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
