"""The inbox: events are committed as they come, and looked at afterwards, off the request."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from server import clock
from server.billing.stripe import converge
from server.billing.stripe.account import Account
from server.billing.stripe.events import Event
from server.billing.stripe.outcome import Outcome, quarantined
from server.errors import GatewayError
from server.store.models import StripeEvent

BATCH = 200
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(hours=1)
ATTEMPTS = 20  # over about eleven hours

_log = logging.getLogger(__name__)


def put(events: Iterable[Event], *, is_live: bool, now: datetime) -> int:
    """Keep events that are not there yet; give how many those are."""
    return sum(_put(event, is_live=is_live, now=now) for event in events)


async def drain(account: Account) -> bool:
    """Look at what is due, each thing once however many events are about it.

    False when it stopped early because Stripe or the store does not work just now: what it
    stopped at waits, longer each time, and in the end goes into quarantine.
    """
    while batch := await account.store.read(_due, clock.now()):
        for (kind, object_id), rows in groupby(batch, key=_about):
            ids = [row.id for row in rows]
            try:
                outcome = await converge.look_at(account, kind, object_id)
            except GatewayError as err:
                _log.warning("could not look at %s: %s", object_id, err)
                await account.store.write(_postpone, ids, clock.now(), str(err))
                return False
            await account.store.write(_finish, ids, outcome)
    return True


def next_due() -> datetime | None:
    """Tell when the first of what waits is due."""
    row = StripeEvent.select().where(StripeEvent.state == "new").order_by(StripeEvent.try_at)
    first = row.first()
    return None if first is None else first.try_at


def retry_quarantined(now: datetime) -> None:
    """Give what is in quarantine another chance."""
    told = {StripeEvent.state: "new", StripeEvent.attempts: 0, StripeEvent.try_at: now}
    StripeEvent.update(told).where(StripeEvent.state == "quarantined").execute()


def in_quarantine() -> list[StripeEvent]:
    """List the events that a person must look at, oldest first."""
    rows = StripeEvent.select().where(StripeEvent.state == "quarantined")
    return list(rows.order_by(StripeEvent.created_at, StripeEvent.id))


def _put(event: Event, *, is_live: bool, now: datetime) -> int:
    reason = None
    if event.about is None:
        reason = "not about anything that is kept here"
    elif event.is_live is not is_live:
        reason = "of the other mode: test and live do not mix"
    kind, object_id = event.about or (None, None)
    query = StripeEvent.insert(
        id=event.id,
        type=event.type,
        object=kind,
        object_id=object_id,
        state="new" if reason is None else "ignored",
        reason=reason,
        try_at=now,
        created_at=event.created_at,
        received_at=now,
    )
    return int(query.on_conflict_ignore().as_rowcount().execute())


def _due(now: datetime) -> list[StripeEvent]:
    rows = StripeEvent.select().where(StripeEvent.state == "new", StripeEvent.try_at <= now)
    return sorted(rows.order_by(StripeEvent.try_at).limit(BATCH), key=_about)


def _about(row: StripeEvent) -> tuple[str, str]:
    return str(row.object), str(row.object_id)


def _finish(ids: Sequence[str], outcome: Outcome) -> None:
    told = {StripeEvent.state: outcome.state.value, StripeEvent.reason: outcome.reason}
    StripeEvent.update(told).where(StripeEvent.id.in_(ids)).execute()


def _postpone(ids: Sequence[str], now: datetime, why: str) -> None:
    for row in StripeEvent.select().where(StripeEvent.id.in_(ids)):
        if row.attempts + 1 >= ATTEMPTS:
            _finish([row.id], quarantined(f"tried {ATTEMPTS} times; the last: {why}"))
            continue
        pause = min(FIRST_PAUSE * 2**row.attempts, LONGEST_PAUSE)
        told = {StripeEvent.attempts: row.attempts + 1, StripeEvent.try_at: now + pause}
        StripeEvent.update(told).where(StripeEvent.id == row.id).execute()
