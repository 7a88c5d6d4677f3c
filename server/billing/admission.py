"""Let a request leave, or refuse it; and end what admission began, exactly once."""

from datetime import datetime

from server.billing import caps, holds, ledger, quota
from server.billing.caps import Capped
from server.billing.holds import Demand, Grant, Money, Pool, Quota, Refusal
from server.billing.pricing import TOOL_ROUTES, Tokens
from server.config.schema import Config
from server.errors import (
    GatewayError,
    InsufficientBalance,
    InvalidApiKey,
    KeyChanged,
    KeyNotAllowed,
)
from server.tenants.keys import Billing, Caller
from server.usage import record


def check_route(caller: Caller, tool: str | None, config: Config) -> None:
    """Hold the rule of which key serves where.

    A tool route takes both kinds of key; the generic ones only keys that pay per token, for
    a subscription buys the presets' tools.

    Raises:
        KeyNotAllowed: a subscription key on a generic route; the message names the tool routes.
    """
    if tool is None and caller.billing is Billing.SUBSCRIPTION:
        base = config.server.public_url or ""
        routes = ", ".join(f"{base}/{name}" for name in TOOL_ROUTES)
        raise KeyNotAllowed(
            "A subscription key works only on the tool routes. "
            f"Set the tool's base URL to one of: {routes}."
        )


def admit(opening: record.Opening, pool: Pool | None, demand: Demand) -> Grant:
    """Write the request's row and its hold, provided its key still lives; runs in the writer.

    Without a pool, for a free model, nothing is held.

    Raises:
        InvalidApiKey: the key was revoked or expired after it was looked up.
        KeyChanged: the key has other limits than it was looked up with.
        InsufficientBalance, QuotaExceeded, SubscriptionInactive: there is not enough to hold.
    """
    try:
        grant = FREE
        if pool is not None:
            grant = holds.place(_under_cap(pool, opening.key_id, opening.spend_month), demand)
    except GatewayError as refusal:
        if record.key_stands(opening):
            raise
        raise _objection(opening) from refusal
    of_quota = opening.billing == Billing.SUBSCRIPTION
    opened = record.open_request(
        opening,
        held_micros=0 if of_quota else grant.held,
        held_tokens=grant.held if of_quota else 0,
        window=grant.window if of_quota else None,
    )
    if opened is None:
        raise _objection(opening)
    return grant


def move(opening: record.Opening, pool: Pool | None, demand: Demand, grant: Grant) -> Grant:
    """Let another target serve a running request, at that one's price, or refuse it.

    Raises:
        InsufficientBalance, QuotaExceeded, SubscriptionInactive: there is not enough to hold.
    """
    made = grant
    counted = record.counted(opening.request_id)
    if pool is not None and counted is not None:
        pool = _under_cap(pool, counted.key_id, counted.spend_month)
        made = holds.adjust(pool, demand, grant.held, grant.window)
        if made.output_tokens < demand.least_output:
            refusal = holds.why_not(pool, grant, demand.units(demand.least_output))
            raise refusal or InsufficientBalance("There is not enough for another provider.")
        grown, of_quota = made.held - grant.held, isinstance(pool, Quota)
        record.note_progress(opening.request_id, _NOTHING_YET, grown, of_quota=of_quota)
    record.reroute(opening)
    return made


def adjust(
    request_id: str, pool: Pool, demand: Demand, grant: Grant, progress: record.Progress
) -> Grant:
    """Fit a running request's hold to what it has come to; keep that for after a crash.

    Gives less output than was wanted where there is not enough. Runs in the writer.
    """
    counted = record.counted(request_id)
    if counted is None:
        return grant  # settled meanwhile: nothing is held any more
    pool = _under_cap(pool, counted.key_id, counted.spend_month)
    made = holds.adjust(pool, demand, grant.held, grant.window)
    grown = made.held - grant.held
    record.note_progress(request_id, progress, grown, of_quota=isinstance(pool, Quota))
    return made


def why_not(request_id: str, pool: Pool, grant: Grant, units: int) -> Refusal | None:
    """Say why a running request's hold cannot be made one of `units`; None where it can."""
    counted = record.counted(request_id)
    if counted is not None:
        pool = _under_cap(pool, counted.key_id, counted.spend_month)
    return holds.why_not(pool, grant, units)


def settle(request_id: str, closing: record.Closing, at: datetime) -> bool:
    """Close the request's row, end its hold and take what it cost, all in one transaction.

    False, and nothing changed, when it was settled before. Runs in the writer.
    """
    held = record.close_request(request_id, closing)
    if held is None:
        return False
    if held.window is not None:
        quota.settle(
            held.tenant_id,
            held.window,
            held=held.tokens,
            used=closing.quota_tokens,
            served=closing.quota_tokens > 0 or closing.outcome == record.Outcome.COMPLETED,
        )
    elif held.price_id is not None:
        ledger.charge(
            held.tenant_id,
            request_id,
            cost_micros=closing.cost_micros,
            held_micros=held.micros,
            price_number=held.price_id,
            tokens=tokens_of(closing),
            extras=closing.extras,
            at=at,
        )
        if held.spend_month is not None:
            cost, month = closing.cost_micros, held.spend_month
            caps.settle(held.key_id, month, cost_micros=cost, held_micros=held.micros)
    return True


def tokens_of(closing: record.Closing) -> Tokens:
    """Give a closing's token counts as prices take them."""
    return Tokens(
        input=closing.input_tokens,
        cache_read=closing.cache_read_input_tokens,
        cache_write_5m=closing.cache_write_5m_tokens,
        cache_write_1h=closing.cache_write_1h_tokens,
        output=closing.output_tokens,
    )


def _under_cap(pool: Pool, key_id: int, month: str | None) -> Pool:
    """Let what a pool of money holds count under its key's cap, where there is one."""
    if month is None or not isinstance(pool, Money):
        return pool
    return Capped(pool, key_id, month)


def _objection(opening: record.Opening) -> GatewayError:
    """Say why a key opens no request: it has ended, or has other limits by now."""
    if not record.key_lives(opening.key_id, opening.started_at):
        return InvalidApiKey("This API key was revoked or has expired.")
    return KeyChanged("This API key's limits were changed just now; send the request again.")


FREE = Grant(0, 0)
_NOTHING_YET = record.Progress(0, 0, 0, 0, 0)
