"""Events as Stripe sends them: checked, and read no further than what they are about."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from server import clock
from server.billing.stripe.client import Fields
from server.errors import InvalidRequest, Unavailable
from server.secret import Secret

TOLERANCE_S = 300
LONGEST_ID = 255

# What reconcile asks for; Stripe takes at most 20 of them.
TYPES = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.pending_update_applied",
    "invoice.paid",
    "invoice.payment_failed",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
)

# By what an event is about: what to compare, and the field that names it.
_ABOUT = {
    "checkout.session": ("checkout.session", "id"),
    "payment_intent": ("payment_intent", "id"),
    "charge": ("payment_intent", "payment_intent"),
    "refund": ("payment_intent", "payment_intent"),
    "dispute": ("payment_intent", "payment_intent"),
    "customer": ("customer", "id"),
    "subscription": ("customer", "customer"),
    "invoice": ("customer", "customer"),
}


@dataclass(frozen=True, slots=True)
class Event:
    """That something happened, and what to compare because of it: a kind and an id."""

    id: str
    type: str
    created_at: datetime
    is_live: bool
    about: tuple[str, str] | None


def verified(body: bytes, header: str | None, secrets: Sequence[Secret], now: datetime) -> Event:
    """Read a webhook that one of `secrets` has signed within five minutes of `now`.

    Raises:
        Unavailable: there is no secret to check with.
        InvalidRequest: no good signature, a stale or future one, or no event of the v1 API.
    """
    if not secrets:
        raise Unavailable("The gateway's config has no webhook secret (`stripe.webhook_secrets`).")
    text = _text(body)
    if not any(_is_signed(text, header, secret) for secret in secrets):
        raise InvalidRequest("The webhook has no valid signature.")
    if _signed_at(header or "") > clock.to_ms(now) // 1000 + TOLERANCE_S:
        raise InvalidRequest("The webhook's signature is from the future.")
    try:
        event = read(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest("The webhook is not JSON.") from exc
    if event is None:
        raise InvalidRequest("The webhook is not an event of Stripe's v1 API.")
    return event


def read(fields: object) -> Event | None:
    """Read an event of the v1 API; None if it is something else."""
    match fields:
        case {
            "object": "event",
            "id": str(event_id),
            "type": str(kind),
            "created": int(created_s),
            "livemode": bool(is_live),
            "data": {"object": dict(about)},
        } if 0 < len(event_id) <= LONGEST_ID and len(kind) <= LONGEST_ID and 0 <= created_s < 2**33:
            return Event(event_id, kind, clock.from_ms(created_s * 1000), is_live, _about(about))
    return None


def _about(fields: Fields) -> tuple[str, str] | None:
    kind, field = _ABOUT.get(str(fields.get("object")), ("", ""))
    object_id = fields.get(field)
    if isinstance(object_id, str) and 0 < len(object_id) <= LONGEST_ID:
        return kind, object_id
    return None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest("The webhook is not UTF-8 text.") from exc


def _is_signed(text: str, header: str | None, secret: Secret) -> bool:
    import stripe

    if header is None or not header.isascii():
        return False  # the SDK compares signatures with a function that takes only ASCII
    try:
        return bool(
            stripe.WebhookSignature.verify_header(text, header, secret.reveal(), TOLERANCE_S)
        )
    except stripe.SignatureVerificationError:
        return False


def _signed_at(header: str) -> int:
    """Read the time that the SDK has just verified; it sets no bound for the future."""
    return int(next(part[2:] for part in header.split(",") if part.startswith("t=")))
