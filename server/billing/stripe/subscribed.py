"""Bring a tenant's subscription to what Stripe says of its customer."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from server import clock
from server.billing import subscriptions
from server.billing.stripe import customers
from server.billing.stripe.account import Account
from server.billing.stripe.client import Fields, Refused
from server.billing.stripe.customers import Customer
from server.billing.stripe.outcome import DONE, Outcome, ignored, quarantined
from server.errors import Unavailable
from server.store.models import Subscription

GRACE = timedelta(days=3)
TRIES = 5
_RANK = {"active": 3, "trialing": 3, "past_due": 3, "unpaid": 2, "paused": 2, "incomplete": 1}
_NEVER_BEGAN = ("incomplete", "incomplete_expired")


@dataclass(frozen=True, slots=True)
class Told:
    """What Stripe says of the one subscription that counts."""

    stripe_id: str
    tier: str
    is_known: bool
    status: str
    current_period_end: datetime | None
    cancel_at: datetime | None
    grace_until: datetime | None
    ended_at: datetime | None


async def sync(account: Account, customer_id: str) -> Outcome:
    """Fetch a customer's subscriptions and overwrite the tenant's with the one that counts.

    All of them are fetched, whichever an event was about: so the row says the same, whatever
    came first. A customer that was deleted is detached.

    Raises:
        UpstreamError, Unavailable, Internal, Refused: as `client.translated`.
    """
    store, client = account.store, account.client
    for _ in range(TRIES):
        tenant = await store.read(customers.tenant_of, customer_id)
        if tenant is None:
            return ignored("not a customer of this gateway")
        seen = await store.read(_seen, tenant.id)
        customer = await client.customer(customer_id)
        told = _that_counts(account, await _fetch(account, customer_id))
        is_gone = bool(customer.get("deleted"))
        if await store.write(_apply, tenant.id, seen, told, clock.now(), is_gone=is_gone):
            break
    else:
        raise Unavailable("Others keep changing this subscription.", retry_after_s=5)
    if told is not None and not told.is_known:
        return quarantined(f"no tier has the Stripe price {told.tier}")
    return DONE


async def living_customer(account: Account, tenant_id: int) -> Customer:
    """Give the tenant's customer, with what it subscribes to as Stripe has it now.

    One that was deleted there makes way for a new one. Raises as `sync`.
    """
    customer = await customers.ensure(account, tenant_id)
    await sync(account, customer.id)
    return await customers.ensure(account, tenant_id)


async def _fetch(account: Account, customer_id: str) -> list[Fields]:
    try:
        return await account.client.subscriptions(customer_id)
    except Refused as err:
        if err.is_missing:
            return []
        raise


def _that_counts(account: Account, found: list[Fields]) -> Told | None:
    tiers = {
        tier.stripe_lookup_key: name
        for name, tier in account.tiers.items()
        if tier.stripe_lookup_key
    }
    told = [(each["created"], _read(each, tiers)) for each in found]
    best = max(
        told,
        key=lambda one: (_RANK.get(one[1].status, 0), one[1].is_known, one[0], one[1].stripe_id),
        default=None,
    )
    return None if best is None else best[1]


def _read(fields: Fields, tiers: dict[str, str]) -> Told:
    """Read one subscription; a price that no tier has gives nothing."""
    items = fields["items"]["data"]
    item = next((each for each in items if each["price"]["lookup_key"] in tiers), items[0])
    lookup_key = item["price"]["lookup_key"]
    tier = tiers.get(lookup_key)
    end = _moment(item["current_period_end"])
    cancel_at = _moment(fields["cancel_at"])
    if cancel_at is None and fields["cancel_at_period_end"]:
        cancel_at = end
    status = str(fields["status"])
    is_ended = status in subscriptions.ENDED
    return Told(
        stripe_id=fields["id"],
        tier=tier or lookup_key or item["price"]["id"],
        is_known=tier is not None,
        status=status if tier is not None or is_ended else "incomplete",
        current_period_end=end,
        cancel_at=cancel_at,
        grace_until=_grace(item, end) if status == "past_due" else None,
        ended_at=_moment(fields["ended_at"]),
    )


def _grace(item: Fields, end: datetime | None) -> datetime | None:
    """Give three days from the end of what was paid for, which is where the period began."""
    start = _moment(item["current_period_start"])
    return None if start is None or end is None else min(end, start + GRACE)


def _moment(seconds: object) -> datetime | None:
    return clock.from_ms(1000 * seconds) if isinstance(seconds, int) else None


def _seen(tenant_id: int) -> tuple[Any, ...] | None:
    row = subscriptions.find(tenant_id)
    return None if row is None else (*_columns(row), row.updated_at)


def _columns(row: Subscription) -> tuple[Any, ...]:
    return (
        *(row.source, row.stripe_id, row.tier, row.status),
        *(row.current_period_end, row.cancel_at, row.grace_until),
    )


def _apply(
    tenant_id: int, seen: tuple[Any, ...] | None, told: Told | None, now: datetime, *, is_gone: bool
) -> bool:
    """Write what Stripe said; False if the row has changed since it was asked."""
    if _seen(tenant_id) != seen:
        return False
    row = subscriptions.find(tenant_id)
    if told is not None and _overrules(told, row):
        _put(tenant_id, row, told, now)
    if is_gone:
        customers.detach(tenant_id, now)
        _end(tenant_id, now)
    return True


def _overrules(told: Told, row: Subscription | None) -> bool:
    """Tell whether Stripe's word counts: always, but for a tier that was given without it.

    That one yields to a purchase that went through, even one that has ended since.
    """
    if row is None or row.source == "stripe":
        return True
    if not told.is_known or told.status in _NEVER_BEGAN:
        return False
    return told.ended_at is None or told.ended_at >= row.updated_at


def _put(tenant_id: int, row: Subscription | None, told: Told, now: datetime) -> None:
    columns = (
        *("stripe", told.stripe_id, told.tier, told.status),
        *(told.current_period_end, told.cancel_at, told.grace_until),
    )
    if row is not None and _columns(row) == columns:
        return
    subscriptions.put(
        tenant_id,
        told.tier,
        status=told.status,
        source="stripe",
        now=now,
        stripe_id=told.stripe_id,
        current_period_end=told.current_period_end,
        cancel_at=told.cancel_at,
        grace_until=told.grace_until,
    )


def _end(tenant_id: int, now: datetime) -> None:
    """End what is left of a deleted customer: Stripe cancels all that it had."""
    row = subscriptions.find(tenant_id)
    if row is None or row.source != "stripe" or row.status in subscriptions.ENDED:
        return
    subscriptions.put(
        tenant_id, row.tier, status="canceled", source="stripe", now=now, stripe_id=row.stripe_id
    )
