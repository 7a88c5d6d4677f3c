"""Bring the ledger to what Stripe says of a payment: credited, refunded, disputed.

Nothing is taken from what an event said. The payment is fetched, what the ledger should have of
it is worked out, and the difference is posted; so events may come in any order, twice or never.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec
from peewee import fn

from server import clock
from server.billing import ledger
from server.billing.ledger import Kind
from server.billing.stripe import sessions
from server.billing.stripe.account import Account
from server.billing.stripe.client import Fields
from server.billing.stripe.outcome import DONE, Outcome, quarantined
from server.errors import Unavailable
from server.store.models import Payment, Topup

MICROS_PER_CENT = 10_000
TRIES = 5
_PAID = ("paid", "no_payment_required")
_RETURNED = ("failed", "canceled")  # refunds whose money stayed with, or came back to, us


@dataclass(frozen=True, slots=True)
class Standing:
    """How a payment stands, in micros."""

    credited: int = 0
    refunded: int = 0
    disputed: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What Stripe says of a top-up: its state, and how its payment stands once it is paid."""

    state: str
    ref: str
    standing: Standing | None = None
    problem: str | None = None


async def converge(account: Account, topup: Topup) -> Outcome:
    """Compare a top-up that has its session with Stripe, and post what the ledger lacks.

    Raises:
        UpstreamError, Unavailable, Internal, Refused: as `client.translated`.
    """
    store = account.store
    for _ in range(TRIES):
        version = await store.read(_version, topup.id)
        told = await _ask(account, topup)
        if await store.write(_apply, topup.id, version, told, clock.now()):
            return DONE if told.problem is None else quarantined(told.problem)
    raise Unavailable("Others keep changing this payment; try again shortly.", retry_after_s=5)


def changes() -> int:
    """Count how often payments have changed what the ledger has of them."""
    return Payment.select(fn.SUM(Payment.version)).scalar() or 0


async def _ask(account: Account, topup: Topup) -> Told:
    session = await account.client.session(sessions.id_of(topup))
    intent_id = session["payment_intent"]
    ref = intent_id or session["id"]
    if session["payment_status"] not in _PAID:
        return Told(await _unpaid_state(account, session), ref)
    problem = _mismatch(topup, session)
    if problem is not None:
        return Told("quarantined", ref, problem=problem)
    refunds = await account.client.refunds(intent_id) if intent_id else []
    disputes = await account.client.disputes(intent_id) if intent_id else []
    if any(refund["currency"] != "usd" for refund in refunds):
        return Told("quarantined", ref, problem="a refund is not in dollars")
    standing = Standing(
        credited=topup.amount_cents * MICROS_PER_CENT,
        refunded=sum(map(_refunded_cents, refunds)) * MICROS_PER_CENT,
        disputed=sum(map(_disputed_cents, disputes)) * MICROS_PER_CENT,
    )
    return Told("paid", ref, standing)


async def _unpaid_state(account: Account, session: Fields) -> str:
    if session["status"] != "complete":
        return str(session["status"])  # open | expired
    # Completed with a method that pays later: it may still come, or has failed.
    intent = await account.client.payment_intent(session["payment_intent"])
    return "failed" if intent["status"] in {"requires_payment_method", "canceled"} else "processing"


def _mismatch(topup: Topup, session: Fields) -> str | None:
    """Say in what a paid session is not the one that was asked for."""
    asked = msgspec.json.decode(topup.params)
    wanted = {name: asked[name] for name in ("mode", "customer", "client_reference_id")}
    wanted |= {"currency": "usd", "amount_subtotal": topup.amount_cents}
    wrong = [name for name, value in wanted.items() if session[name] != value]
    return f"Stripe's session has another {' and '.join(wrong)}" if wrong else None


def _refunded_cents(refund: Fields) -> int:
    return 0 if refund["status"] in _RETURNED else _cents(refund["amount"])


def _disputed_cents(dispute: Fields) -> int:
    """Give what a dispute has taken: nothing while it is an inquiry, or once it was won."""
    moves = dispute["balance_transactions"]
    taken = -sum(_cents(move["amount"]) for move in moves)
    if any(move["currency"] != "usd" for move in moves):
        # An account that is paid out in other money: its moves are not in the payment's.
        return _cents(dispute["amount"]) if taken > 0 else 0
    return max(0, taken)


def _cents(amount: object) -> int:
    if type(amount) is not int:
        raise TypeError("an amount is not a whole number")
    return amount


def _version(topup_id: int) -> int:
    payment = Payment.get_or_none(Payment.topup == topup_id)
    return 0 if payment is None else payment.version


def _apply(topup_id: int, seen_version: int, told: Told, now: datetime) -> bool:
    """Write what Stripe said, and post the difference; False if another did so since."""
    if _version(topup_id) != seen_version:
        return False
    topup = Topup.get_by_id(topup_id)
    if told.standing is not None:
        _post(topup, told.ref, told.standing, now)
    sessions.mark(Topup, topup_id, told.state, now=now, problem=told.problem)
    return True


def _post(topup: Topup, ref: str, target: Standing, now: datetime) -> None:
    payment = Payment.get_or_none((Payment.topup == topup.id) | (Payment.ref == ref)) or Payment(
        ref=ref, topup=topup, credited_micros=0, refunded_micros=0, disputed_micros=0, version=0
    )
    if payment.topup_id != topup.id:
        raise ValueError("its payment belongs to another top-up")
    credit = target.credited - payment.credited_micros
    refund = payment.refunded_micros - target.refunded
    dispute = payment.disputed_micros - target.disputed
    if not (credit or refund or dispute):
        return
    is_new = payment.version == 0
    payment.version += 1
    for kind, amount, entry_ref in (
        (Kind.TOPUP, credit, ref),
        (Kind.REFUND, refund, f"{ref}:{payment.version}"),
        (Kind.DISPUTE, dispute, f"{ref}:{payment.version}"),
    ):
        if amount:
            ledger.post(topup.tenant_id, kind, amount, ref=entry_ref, at=now, created_by="stripe")
    payment.credited_micros = target.credited
    payment.refunded_micros = target.refunded
    payment.disputed_micros = target.disputed
    payment.updated_at = now
    payment.save(force_insert=is_new)
