"""What a tenant subscribes to: its tier, whether that counts just now, how much quota is left.

Every function runs inside the caller's transaction. The columns of the quota window are changed
by the quota's own statements alone; a new tier or status leaves them as they are.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal

from server import clock
from server.billing.pricing import QUOTA_WINDOW_S
from server.config.schema import Tier
from server.errors import Conflict, NotFound
from server.store import audit
from server.store.audit import Action
from server.store.models import Subscription, Tenant
from server.store.statements import execute

ON = ("active", "trialing")
ENDED = ("canceled", "incomplete_expired")  # Stripe never brings these back

# Its one parameter `now` is in milliseconds, its value never NULL. `is_entitled` says the same.
ENTITLED = """(
    (status IN ('active', 'trialing')
        OR (status = 'past_due' AND grace_until IS NOT NULL AND grace_until > :now))
    AND (cancel_at IS NULL OR cancel_at > :now)
)"""

_TIER = "SELECT tier FROM subscription WHERE tenant_id = ?"
_WINDOW = timedelta(seconds=QUOTA_WINDOW_S)


def find(tenant_id: int) -> Subscription | None:
    """Read a tenant's subscription, as it was last told of; None if it never had one."""
    row: Subscription | None = Subscription.get_or_none(Subscription.tenant == tenant_id)
    return row


def tier_of(tenant_id: int) -> str | None:
    """Read a tenant's tier, whether or not its subscription counts; cheap enough for the loop."""
    row = execute(_TIER, (tenant_id,)).fetchone()
    return None if row is None else str(row[0])


def put(
    tenant_id: int,
    tier: str,
    *,
    status: str,
    source: Literal["cli", "stripe"],
    now: datetime,
    stripe_id: str | None = None,
    current_period_end: datetime | None = None,
    cancel_at: datetime | None = None,
    grace_until: datetime | None = None,
    actor: str | None = None,
) -> None:
    """Write a tenant's one row over what it was; what is used of the quota stays used.

    `actor` goes into the audit log where that says more than `source`.
    """
    told = {
        Subscription.tier: tier,
        Subscription.status: status,
        Subscription.source: source,
        Subscription.stripe_id: stripe_id,
        Subscription.current_period_end: current_period_end,
        Subscription.cancel_at: cancel_at,
        Subscription.grace_until: grace_until,
        Subscription.updated_at: now,
    }
    made = {Subscription.tenant: tenant_id, Subscription.created_at: now}
    Subscription.insert(told | made).on_conflict(
        conflict_target=[Subscription.tenant], preserve=list(told)
    ).execute()
    known = {"tier": tier, "status": status, "stripe_id": stripe_id, "cancel_at": cancel_at}
    action = Action.SUBSCRIPTION_CANCELLED if status in ENDED else Action.SUBSCRIPTION_SET
    owner = Tenant.get_by_id(tenant_id).public_id
    audit.record(action, owner, actor=actor or source, at=now, tenant_id=tenant_id, **known)


def subscribe(
    tenant_id: int,
    tier: str,
    tiers: Mapping[str, Tier],
    now: datetime,
    *,
    actor: str = audit.CLI,
) -> None:
    """Give a tenant a tier without Stripe, at once and until it is cancelled.

    Raises:
        NotFound: there is no such tier; the message names near ones.
        Conflict: Stripe manages the tenant's subscription.
    """
    if tier not in tiers:
        raise _unknown_tier(tier, tiers)
    _refuse_stripes(find(tenant_id))
    put(tenant_id, tier, status="active", source="cli", now=now, actor=actor)


def cancel(tenant_id: int, now: datetime) -> None:
    """End a subscription that was given without Stripe, at once; again changes nothing.

    Raises:
        NotFound: the tenant never had one.
        Conflict: Stripe manages it.
    """
    row = find(tenant_id)
    if row is None:
        raise NotFound("There is no subscription to cancel.")
    _refuse_stripes(row)
    if row.status not in ENDED:
        put(tenant_id, row.tier, status="canceled", source="cli", now=now)


def is_entitled(row: Subscription, now: datetime) -> bool:
    """Tell whether a subscription counts: a status that is not known here does not."""
    if row.cancel_at is not None and row.cancel_at <= now:
        return False
    in_grace = row.grace_until is not None and row.grace_until > now
    return row.status in ON or (row.status == "past_due" and in_grace)


def view(tenant_id: int, tiers: Mapping[str, Tier], now: datetime) -> dict[str, Any]:
    """Show a tenant's subscription and its quota as the API does.

    A tier that the config no longer has leaves no quota to show: null limits would mean none.
    """
    row = find(tenant_id)
    if row is None:
        return {"object": "subscription", "tier": None, "status": "none", "quota": None}
    tier = tiers.get(row.tier)
    return {
        "object": "subscription",
        "tier": row.tier,
        "status": row.status,
        "cancel_at": _shown(row.cancel_at),
        "current_period_end": _shown(row.current_period_end),
        "quota": None if tier is None else _quota(row, tier, now),
    }


def _quota(row: Subscription, tier: Tier, now: datetime) -> dict[str, Any]:
    # The stored counts belong to the last window; once that has ended they count for nothing.
    # Where the clock was set back since it opened, it begins now: the next use will say so too.
    began = row.window_started_at and min(row.window_started_at, now)
    is_open = began is not None and now < began + _WINDOW
    used, held = (row.used_tokens, row.held_tokens) if is_open else (0, 0)
    limit = tier.quota_tokens
    return {
        "window_seconds": QUOTA_WINDOW_S,
        "limit_tokens": limit,
        "used_tokens": used,
        "held_tokens": held,
        "remaining_tokens": None if limit is None else max(0, limit - used - held),
        "limit_requests": tier.quota_requests,
        "used_requests": row.used_requests if is_open else 0,
        "window_started_at": _shown(began) if is_open else None,
        "resets_at": _shown(began + _WINDOW) if is_open else None,
    }


def _refuse_stripes(row: Subscription | None) -> None:
    if row is not None and row.source == "stripe" and row.status not in ENDED:
        raise Conflict(
            "This subscription is managed by Stripe: change or cancel it in the billing portal "
            "(POST /tenant/billing/portal)."
        )


def _unknown_tier(name: str, tiers: Mapping[str, Tier]) -> NotFound:
    near = get_close_matches(name, tiers, n=3)
    if near:
        hint = f"Did you mean {' or '.join(near)}?"
    else:
        hint = f"`tiers` in the config has {', '.join(tiers) or 'none'}."
    return NotFound(f"There is no tier {name!r}. {hint}", param="tier")


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else clock.rfc3339(moment)
