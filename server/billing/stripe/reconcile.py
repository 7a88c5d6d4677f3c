"""Compare with Stripe what nobody told us of: with every webhook lost, the rows end the same."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from server import clock
from server.billing.stripe import converge, customers, events, inbox, sessions
from server.billing.stripe.account import Account
from server.billing.stripe.client import Refused
from server.billing.stripe.events import Event
from server.billing.stripe.outcome import State
from server.errors import GatewayError, UpstreamError
from server.store.models import Checkout, CheckoutSession, StripeCursor, Topup

OVERLAP = timedelta(minutes=10)
FIRST_OVERLAP = timedelta(days=1)  # where only our own clock says since when
CUSTOMERS_EVERY = timedelta(days=1)
UNDER_WAY = timedelta(minutes=2)  # so long a request may still be asking for its session
SESSIONS_AT_ONCE = 500
FAILURES = 3
PAGE = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared, and how many of the events were new."""

    new_events: int
    sessions: int
    customers: int


async def reconcile(account: Account, *, everything: bool = False) -> Compared:
    """List recent events, fetch every session that may have changed, and once a day customers.

    Raises:
        UpstreamError, Unavailable, Internal: Stripe or the store does not work just now; what
            was compared so far is kept.
    """
    parts = (_events, _topups, _checkouts, _customers)
    counts, errors = [], []
    for part in parts:
        try:
            counts.append(await part(account, everything))
        except GatewayError as err:
            errors.append(err)  # a key that may not list events still credits what was paid
    if errors:
        raise errors[0]
    new_events, compared_topups, compared_checkouts, compared_customers = counts
    return Compared(new_events, compared_topups + compared_checkouts, compared_customers)


async def _events(account: Account, _everything: bool) -> int:
    """Put into the inbox what happened since the latest event that was listed before.

    How far the listing is, is told by Stripe's clock alone: ours may be wrong.
    """
    since = await account.store.read(_listed_since)
    if since is None:
        return 0
    page: list[Event] = []
    latest, new = since, 0
    async for fields in account.client.events(clock.to_ms(since) // 1000, events.TYPES):
        event = events.read(fields)
        if event is not None:
            page.append(event)
            latest = max(latest, event.created_at)
        if len(page) == PAGE:
            new += await _keep(account, page)
            page = []
    new += await _keep(account, page)
    # Last: a listing that was cut short is done again from where this one began.
    await account.store.write(_note_listed, latest)
    return new


async def _keep(account: Account, page: list[Event]) -> int:
    return await account.store.write(inbox.put, page, is_live=account.is_live, now=clock.now())


async def _topups(account: Account, everything: bool) -> int:
    return await _sessions(account, Topup, everything)


async def _checkouts(account: Account, everything: bool) -> int:
    return await _sessions(account, Checkout, everything)


async def _sessions(account: Account, model: type[CheckoutSession], everything: bool) -> int:
    states = (*sessions.OPEN, "quarantined") if everything else sessions.OPEN
    rows = await account.store.read(sessions.in_states, model, states, SESSIONS_AT_ONCE)
    failures = 0
    for row in rows:
        if row.session_id is None and not everything and row.created_at > clock.now() - UNDER_WAY:
            continue
        try:
            await _session(account, model, row)
            failures = 0
        except UpstreamError as err:
            # Last in line next time: what always fails must not keep the others waiting.
            await account.store.write(sessions.note_checked, model, row.id, clock.now())
            failures = _outlive(err, failures)
    return len(rows)


async def _session(account: Account, model: type[CheckoutSession], row: CheckoutSession) -> None:
    if row.session_id is None and row.expires_at <= clock.now():
        await account.store.write(sessions.mark, model, row.id, "expired")
        return
    try:
        asked = await sessions.obtain(account, row)
    except Refused:
        return  # the row says so
    outcome = await converge.look_at(account, "checkout.session", sessions.id_of(asked))
    if outcome.state is State.QUARANTINED:
        await account.store.write(sessions.give_up, model, row.id, str(outcome.reason))


async def _customers(account: Account, everything: bool) -> int:
    now = clock.now()
    if not everything and not await account.store.read(_customers_are_due, now):
        return 0
    ids = await account.store.read(customers.all_ids)
    failures = 0
    for customer_id in ids:
        try:
            await converge.look_at(account, "customer", customer_id)
            failures = 0
        except UpstreamError as err:
            failures = _outlive(err, failures)
    await account.store.write(_note_customers, now)
    return len(ids)


def _outlive(error: UpstreamError, failures: int) -> int:
    """Count a failure: one or two in a row may be about one thing, more are about Stripe."""
    if failures + 1 == FAILURES:
        raise error
    _log.warning("could not compare everything with Stripe: %s", error)
    return failures + 1


def _listed_since() -> datetime | None:
    """Tell from when to list events; None while nothing was ever asked of Stripe."""
    cursor = StripeCursor.get_or_none()
    if cursor is not None and cursor.events_at is not None:
        since: datetime = cursor.events_at - OVERLAP
        return since
    asked = [
        row.created_at
        for model in (Topup, Checkout)
        for row in model.select().order_by(model.id).limit(1)
    ]
    return min(asked) - FIRST_OVERLAP if asked else None


def _note_listed(latest: datetime) -> None:
    _cursor()
    is_later = StripeCursor.events_at.is_null() | (StripeCursor.events_at < latest)
    StripeCursor.update(events_at=latest).where(is_later).execute()


def _customers_are_due(now: datetime) -> bool:
    cursor = StripeCursor.get_or_none()
    at = None if cursor is None else cursor.customers_at
    return at is None or not at <= now < at + CUSTOMERS_EVERY


def _note_customers(at: datetime) -> None:
    _cursor()
    StripeCursor.update(customers_at=at).execute()


def _cursor() -> None:
    StripeCursor.insert(id=1).on_conflict_ignore().execute()
