"""A subscription's quota: weighted tokens and requests in a window of 24 hours.

A window opens at the first use after the one before has ended, and has a number: a hold belongs
to the window that it was opened in, and one that ends after the next has opened touches neither.
No job resets anything. Where the clock was set back, the open window begins now and keeps what
was used. A window begins on a whole second, as times are shown. Times are milliseconds since 1970.
"""

import math
from datetime import datetime

from server import clock
from server.billing.allowance import Limits, Tiers
from server.billing.pricing import QUOTA_WINDOW_S
from server.billing.subscriptions import ENTITLED, ON, find, is_entitled, tier_of
from server.counts import counted
from server.errors import QuotaExceeded, SubscriptionInactive
from server.store.models import Subscription
from server.store.statements import execute

WINDOW_MS = QUOTA_WINDOW_S * 1000


def take(tenant_id: int, tokens: int, tiers: Tiers, now_ms: int) -> int | None:
    """Count a request and hold `tokens`, opening a window if none is open; give its number.

    None, and nothing changed, where the subscription does not count or the quota lacks them.
    """
    limits = _limits(tenant_id, tiers)
    if limits is None:
        return None
    values = {
        "now": now_ms,
        "second": now_ms - now_ms % 1000,
        "ended": now_ms - WINDOW_MS,
        "tokens": tokens,
        "limit_tokens": limits.tokens,
        "limit_requests": limits.requests,
        "tenant": tenant_id,
    }
    row = execute(_TAKE, values).fetchone()
    return None if row is None else int(row[0])


def change(tenant_id: int, tokens: int, window: int | None, tiers: Tiers) -> bool:
    """Hold `tokens` more (fewer below 0) in a window; one that is over has nothing to check."""
    limits = _limits(tenant_id, tiers) if tokens > 0 else None
    limit = None if limits is None else limits.tokens
    values = {"tokens": tokens, "window": window, "limit": limit, "tenant": tenant_id}
    return bool(execute(_CHANGE, values).rowcount)


def settle(tenant_id: int, window: int, *, held: int, used: int, served: bool) -> None:
    """End a hold; a request that was not served is not counted. An old window is left alone."""
    values = {
        "held": held,
        "used": used,
        "requests": 0 if served else 1,
        "tenant": tenant_id,
        "window": window,
    }
    execute(_SETTLE, values)


def free_tokens(tenant_id: int, tiers: Tiers, now_ms: int, window: int | None = None) -> int | None:
    """Tell how many tokens the window has left; None where there is no such quota.

    Whether another request may begin is for `take` to say: one that runs may go on, and its
    `window` is not over until another has opened.
    """
    row, limits = find(tenant_id), _limits(tenant_id, tiers)
    if row is None or limits is None:
        return None
    if limits.tokens is None:
        return 2**62
    over = row.quota_window != window and _is_over(row, now_ms)
    return limits.tokens - (0 if over else row.used_tokens + row.held_tokens)


def refusal(
    tenant_id: int, tokens: int, tiers: Tiers, now: datetime
) -> QuotaExceeded | SubscriptionInactive:
    """Say why a request cannot be served from the subscription."""
    row, limits = find(tenant_id), _limits(tenant_id, tiers)
    if row is None or limits is None or not is_entitled(row, now):
        return SubscriptionInactive(
            f"{_what_is_missing(row, limits)} Subscribe with POST /tenant/billing/checkout, or "
            "ask the operator to run `gatewayctl subscription set`."
        )
    now_ms = clock.to_ms(now)
    is_open = not _is_over(row, now_ms) and row.window_started_at is not None
    begun_ms = min(clock.to_ms(row.window_started_at), now_ms) if is_open else now_ms
    resets_at = clock.from_ms(begun_ms + WINDOW_MS)
    wait_s = math.ceil((begun_ms + WINDOW_MS - now_ms) / 1000)
    err = QuotaExceeded(
        f"{_what_is_used_up(row if is_open else None, tokens, limits)} "
        f"It resets in {in_words(wait_s)}, at {clock.rfc3339(resets_at)}.",
        retry_after_s=wait_s,
    )
    err.held = row.held_tokens if is_open else 0
    err.resets_at_s = (begun_ms + WINDOW_MS) // 1000
    return err


def in_words(seconds: int) -> str:
    """Say how long that is, to the minute: "5 h 12 min"."""
    minutes = max(1, math.ceil(seconds / 60))
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours else f"{rest} min"


def _limits(tenant_id: int, tiers: Tiers) -> Limits | None:
    tier = tier_of(tenant_id)
    return None if tier is None else tiers.get(tier)


def _what_is_missing(row: Subscription | None, limits: Limits | None) -> str:
    if row is None:
        return "There is no subscription."
    if limits is None:
        return f"The tier {row.tier} is not offered any more."
    return f"The subscription is {'over' if row.status in ON else row.status}."


def _what_is_used_up(row: Subscription | None, tokens: int, limits: Limits) -> str:
    used_requests = 0 if row is None else row.used_requests
    if limits.requests is not None and used_requests >= limits.requests:
        return f"The quota of {counted(limits.requests, 'request')} in 24 hours is used up."
    if limits.tokens is None:
        return "The quota has changed just now."
    used = 0 if row is None else row.used_tokens
    held = 0 if row is None else row.held_tokens
    return (
        f"The quota of {counted(limits.tokens, 'token')} in 24 hours has no room for this request: "
        f"{used:,} are used, {held:,} are held by running requests, and it needs {tokens:,}."
    )


def _is_over(row: Subscription, now_ms: int) -> bool:
    begun = row.window_started_at
    return begun is None or clock.to_ms(begun) + WINDOW_MS <= now_ms


_OVER = "(window_started_at IS NULL OR window_started_at <= :ended)"
_TAKE = f"""
UPDATE subscription SET
    quota_window = quota_window + {_OVER},
    window_started_at = CASE WHEN {_OVER} THEN :second ELSE min(window_started_at, :second) END,
    used_tokens = CASE WHEN {_OVER} THEN 0 ELSE used_tokens END,
    held_tokens = CASE WHEN {_OVER} THEN 0 ELSE held_tokens END + :tokens,
    used_requests = CASE WHEN {_OVER} THEN 0 ELSE used_requests END + 1
WHERE tenant_id = :tenant AND {ENTITLED}
    AND (:limit_tokens IS NULL OR :tokens <= :limit_tokens
        - CASE WHEN {_OVER} THEN 0 ELSE used_tokens + held_tokens END)
    AND (:limit_requests IS NULL
        OR CASE WHEN {_OVER} THEN 0 ELSE used_requests END < :limit_requests)
RETURNING quota_window
"""  # noqa: S608 - our own fragments
_CHANGE = """
UPDATE subscription SET
    held_tokens = held_tokens + CASE WHEN quota_window = :window THEN :tokens ELSE 0 END
WHERE tenant_id = :tenant
    AND (quota_window <> :window OR :limit IS NULL
        OR used_tokens + held_tokens + :tokens <= :limit)
"""
_SETTLE = """
UPDATE subscription SET
    held_tokens = held_tokens - :held, used_tokens = used_tokens + :used,
    used_requests = used_requests - :requests
WHERE tenant_id = :tenant AND quota_window = :window
"""
