"""The life of a Checkout session's row: written, then asked for at Stripe, and found again."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from server.billing.stripe.account import Account
from server.billing.stripe.client import Fields, Refused
from server.store import audit
from server.store.audit import Action
from server.store.models import Checkout, CheckoutSession, Topup

Row = TypeVar("Row", bound=CheckoutSession)

# Stripe takes 30 minutes to 24 hours from the moment it is asked, and asking may take retries.
LIFETIME = timedelta(hours=23)
OPEN = ("open", "processing")


def insert(
    model: type[Row],
    tenant_id: int,
    *,
    public_id: str,
    params: Fields,
    actor: str,
    now: datetime,
    **columns: object,
) -> Row:
    """Write down what Stripe is about to be asked, to be asked again word for word.

    `columns` are the model's own; `actor` is the key that asks.
    """
    row: Row = model.create(
        public_id=public_id,
        tenant=tenant_id,
        state="open",
        params=msgspec.json.encode(params).decode(),
        expires_at=now + LIFETIME,
        created_at=now,
        **columns,
    )
    action = Action.TOPUP_OPENED if model is Topup else Action.CHECKOUT_OPENED
    audit.record(action, public_id, actor=actor, at=now, tenant_id=tenant_id, **columns)
    return row


async def obtain(account: Account, row: Row) -> Row:
    """Get the row's session from Stripe, unless it has one, and write it down.

    The idempotency key is the row's own: after a crash, a lost answer or a retry it is still
    the same session.

    Raises:
        Refused: Stripe will not make it; the row has failed.
    """
    if row.session_id is not None:
        return row
    try:
        made = await account.client.create_session(
            msgspec.json.decode(row.params), key=f"{_prefix(type(row))}:{row.public_id}"
        )
    except Refused as err:
        await account.store.write(
            mark, type(row), row.id, "failed", problem=f"Stripe refused it ({err.why})"
        )
        raise
    return await account.store.write(_give_session, type(row), row.id, made["id"], made["url"])


def id_of(row: CheckoutSession) -> str:
    """Give the id of a row's session, which `obtain` has given it."""
    return str(row.session_id)


def mark(
    model: type[CheckoutSession],
    row_id: int,
    state: str,
    *,
    now: datetime | None = None,
    problem: str | None = None,
) -> None:
    """Write how a session stands; what was paid stays paid."""
    told = {model.state: state, model.problem: problem, model.checked_at: now}
    model.update(told).where(model.id == row_id, model.state != "paid").execute()


def note_checked(model: type[CheckoutSession], row_id: int, now: datetime) -> None:
    """Note that a session was to be compared, though it could not be."""
    model.update({model.checked_at: now}).where(model.id == row_id).execute()


def give_up(model: type[CheckoutSession], row_id: int, problem: str) -> None:
    """Put a session that cannot be compared into quarantine, unless it has ended well."""
    told = {model.state: "quarantined", model.problem: problem}
    model.update(told).where(model.id == row_id, model.state.in_(OPEN)).execute()


def by_session(session_id: str) -> Topup | Checkout | None:
    """Find the row of a session."""
    topup: Topup | None = Topup.get_or_none(Topup.session_id == session_id)
    checkout: Checkout | None = Checkout.get_or_none(Checkout.session_id == session_id)
    return topup or checkout


def by_public_id(public_id: str) -> Topup | Checkout | None:
    """Find the row that something at Stripe says it was made for."""
    topup: Topup | None = Topup.get_or_none(Topup.public_id == public_id)
    checkout: Checkout | None = Checkout.get_or_none(Checkout.public_id == public_id)
    return topup or checkout


def in_states(model: type[Row], states: Sequence[str], limit: int) -> list[Row]:
    """List rows, those compared longest ago first."""
    rows = model.select().where(model.state.in_(states)).order_by(model.checked_at, model.id)
    return list(rows.limit(limit))


def _give_session(model: type[Row], row_id: int, session_id: str, url: str) -> Row:
    model.update(session_id=session_id, url=url).where(model.id == row_id).execute()
    row: Row = model.get_by_id(row_id)
    return row


def _prefix(model: type[CheckoutSession]) -> str:
    return "topup" if model is Topup else "checkout"
