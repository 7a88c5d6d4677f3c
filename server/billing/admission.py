"""Let a request leave, or refuse it; and end what admission began, exactly once."""

from datetime import datetime

from server.billing import holds, ledger, quota
from server.billing.holds import Demand, Grant, Pool, Quota
from server.billing.pricing import TOOL_ROUTES, Tokens
from server.config.schema import Config
from server.errors import GatewayError, InvalidApiKey, KeyNotAllowed
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
        InsufficientBalance, QuotaExceeded, SubscriptionInactive: there is not enough to hold.
    """
    try:
        grant = FREE if pool is None else holds.place(pool, demand)
    except GatewayError as refusal:
        if record.key_lives(opening.key_id, opening.started_at):
            raise
        raise _dead_key() from refusal
    of_quota = opening.billing == Billing.SUBSCRIPTION
    opened = record.open_request(
        opening,
        held_micros=0 if of_quota else grant.held,
        held_tokens=grant.held if of_quota else 0,
        window=grant.window if of_quota else None,
    )
    if opened is None:
        raise _dead_key()
    return grant


def adjust(
    request_id: str, pool: Pool, demand: Demand, grant: Grant, progress: record.Progress
) -> Grant:
    """Fit a running request's hold to what it has come to; keep that for after a crash.

    Gives less output than was wanted where there is not enough. Runs in the writer.
    """
    if not record.is_open(request_id):
        return grant  # settled meanwhile: nothing is held any more
    made = holds.adjust(pool, demand, grant.held, grant.window)
    grown = made.held - grant.held
    record.note_progress(request_id, progress, grown, of_quota=isinstance(pool, Quota))
    return made


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


def _dead_key() -> InvalidApiKey:
    return InvalidApiKey("This API key was revoked or has expired.")


FREE = Grant(0, 0)
