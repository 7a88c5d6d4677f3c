"""The row of one dispatched request: opened before a byte goes upstream, closed exactly once."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from server import clock
from server.store.statements import execute


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    UPSTREAM_ERROR = "upstream_error"
    CANCELLED = "cancelled"
    CUT = "cut"  # by us: the balance or the quota ran out
    INTERRUPTED = "interrupted"


class Opening(Struct, frozen=True):
    """What is known of a request before it leaves; named as the columns of `Request`.

    `input_estimate` stands in for the input tokens until the upstream tells them. The limits are
    the key's as it was looked up: whose they are, and their text.
    """

    request_id: str
    instance_id: int
    tenant_id: int
    key_id: int
    protocol: str
    stream: bool
    requested_model: str
    model: str
    upstream: str
    upstream_model: str
    started_at: datetime
    input_estimate: int
    billing: str = "pay_per_token"
    price_id: int | None = None
    extras: str | None = None
    member: str | None = None
    tool: str | None = None
    session: str | None = None
    agent: str | None = None
    spend_month: str | None = None
    limits_key_id: int | None = None
    limits_text: str | None = None


class Closing(Struct, frozen=True):
    """How a request went; named as the columns of `Request`.

    Token classes do not overlap, and `estimated` says that one of them was guessed. `cost_micros`
    goes to the balance, `quota_tokens` (weighted) to the quota; one of the two is 0.
    """

    outcome: Outcome
    duration_ms: int | None
    status: int | None = None
    first_byte_ms: int | None = None
    error: str | None = None
    stop_reason: str | None = None
    upstream_request_id: str | None = None
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cost_micros: int = 0
    quota_tokens: int = 0
    extras: str | None = None
    anomaly: str | None = None
    attempts: str | None = None

    @property
    def total_tokens(self) -> int:
        """Give the tokens of all classes together."""
        read, written = self.cache_read_input_tokens, self.cache_write_5m_tokens
        return self.input_tokens + read + written + self.cache_write_1h_tokens + self.output_tokens


class Tried(Struct, frozen=True, omit_defaults=True):
    """An attempt as its row tells it; `key` counts from 1, `error` is None where it answered."""

    upstream: str
    model: str
    key: int
    ms: int
    error: str | None = None


class Progress(Struct, frozen=True):
    """What an open request has come to so far; named as the columns of `Request`."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int


class Held(Struct, frozen=True):
    """What a request's row says of its hold: `window` is None where it is money or nothing.

    `spend_month` is None where its key has no cap.
    """

    tenant_id: int
    price_id: int | None
    micros: int
    window: int | None
    tokens: int
    key_id: int
    spend_month: str | None


class Counted(Struct, frozen=True):
    """Under whose cap an open request counts, and in which month; None: under none."""

    key_id: int
    spend_month: str | None


def open_request(
    opening: Opening, *, held_micros: int = 0, held_tokens: int = 0, window: int | None = None
) -> int | None:
    """Write the row of a request that is about to leave, with its hold; give its id.

    None, and no row, when the key was revoked, has expired or has other limits meanwhile: the
    check and the row are one statement, so all of these are exact however long a key was cached.
    The input estimate is stored at once, so that a crash leaves a fair figure behind.
    """
    started_ms = clock.to_ms(opening.started_at)
    held = (held_micros, held_tokens, window, opening.spend_month)
    key = (opening.key_id, started_ms, opening.limits_key_id, opening.limits_text)
    row = execute(_OPEN, (*_described(opening, started_ms), *held, *key)).fetchone()
    return None if row is None else int(row[0])


def _described(opening: Opening, started_ms: int) -> tuple[object, ...]:
    """Give what a row begins with, in the order of `_OPEN`'s columns."""
    return (
        opening.request_id,
        opening.instance_id,
        opening.tenant_id,
        opening.member,
        opening.tool,
        opening.session,
        opening.agent,
        opening.protocol,
        opening.stream,
        opening.requested_model,
        opening.model,
        opening.upstream,
        opening.upstream_model,
        started_ms,
        opening.input_estimate,
        opening.billing,
        opening.price_id,
        opening.extras,
    )


def key_lives(key_id: int, now: datetime) -> bool:
    """Tell whether a key is neither revoked nor expired."""
    return execute(_LIVES, (key_id, clock.to_ms(now))).fetchone() is not None


def key_stands(opening: Opening) -> bool:
    """Tell whether a request's key lives, and has the limits that it was looked up with."""
    at_ms = clock.to_ms(opening.started_at)
    values = (opening.key_id, at_ms, opening.limits_key_id, opening.limits_text)
    return execute(_STANDS, values).fetchone() is not None


def open_holds() -> tuple[int, int]:
    """Count the requests that are open, and the micros that they hold together."""
    count, micros = execute(_OPEN_HOLDS, ()).fetchone()
    return count, micros


def counted(request_id: str) -> Counted | None:
    """Tell under which cap a request counts; None where it is not open (any more)."""
    row = execute(_COUNTED, (request_id,)).fetchone()
    return None if row is None else Counted(*row)


def note_progress(request_id: str, progress: Progress, grown: int, *, of_quota: bool) -> None:
    """Keep what an open request has come to, and add to what it holds.

    Where the process is killed, this is what the request is settled at.
    """
    values = (
        progress.input_tokens,
        progress.cache_read_input_tokens,
        progress.cache_write_5m_tokens,
        progress.cache_write_1h_tokens,
        progress.output_tokens,
        0 if of_quota else grown,
        grown if of_quota else 0,
        request_id,
    )
    execute(_PROGRESS, values)


def reroute(opening: Opening) -> None:
    """Say that an open request is served by another target, at that one's price."""
    values = (
        opening.model,
        opening.upstream,
        opening.upstream_model,
        opening.price_id,
        opening.extras,
        opening.input_estimate,
        opening.request_id,
    )
    execute(_REROUTE, values)


def close_request(request_id: str, closing: Closing) -> Held | None:
    """Settle the row of `request_id`; None when it was closed before: then nothing changes.

    By our own id and not the row's: a request can be cancelled while its opening is still
    queued, and the store runs jobs in order, so this finds the row that the caller never saw.
    """
    cursor = execute(
        _CLOSE,
        (
            closing.upstream_request_id,
            closing.first_byte_ms,
            closing.duration_ms,
            closing.status,
            closing.outcome.value,
            closing.error,
            closing.stop_reason,
            closing.input_tokens,
            closing.cache_read_input_tokens,
            closing.cache_write_5m_tokens,
            closing.cache_write_1h_tokens,
            closing.output_tokens,
            closing.estimated,
            closing.cost_micros,
            closing.quota_tokens,
            closing.extras,
            closing.anomaly,
            closing.attempts,
            request_id,
        ),
    )
    # The row, not `rowcount`: that stays 0 until a RETURNING row is fetched.
    row = cursor.fetchone()
    return None if row is None else Held(*row)


# Whose limits a key has, and their text.
_LIMITS = """ "key".limits_key_id IS ? AND CASE WHEN "key".limits_key_id IS NULL THEN "key".limits
    ELSE (SELECT limits FROM "key" AS head WHERE head.id = "key".limits_key_id) END IS ?"""
_OPEN = f"""
INSERT INTO request (
    state, request_id, instance_id, tenant_id, key_id, member, tool, session, agent, protocol,
    stream, requested_model, model, upstream, upstream_model, started_at, input_tokens, billing,
    price_id, extras, held_micros, held_tokens, quota_window, spend_month, estimated,
    cache_read_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,
    cost_micros, quota_tokens
)
SELECT 'open', ?, ?, ?, "key".id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    1, 0, 0, 0, 0, 0, 0
FROM "key"
WHERE "key".id = ? AND "key".revoked_at IS NULL
    AND ("key".expires_at IS NULL OR "key".expires_at > ?)
    AND {_LIMITS}
RETURNING id
"""  # noqa: S608 - our own fragments
_CLOSE = """
UPDATE request SET
    state = 'settled', upstream_request_id = ?, first_byte_ms = ?, duration_ms = ?, status = ?,
    outcome = ?, error = ?, stop_reason = ?, input_tokens = ?, cache_read_input_tokens = ?,
    cache_write_5m_tokens = ?, cache_write_1h_tokens = ?, output_tokens = ?, estimated = ?,
    cost_micros = ?, quota_tokens = ?, extras = ?, anomaly = ?, attempts = ?
WHERE request_id = ? AND state = 'open'
RETURNING tenant_id, price_id, held_micros, quota_window, held_tokens, key_id, spend_month
"""
_REROUTE = """
UPDATE request SET
    model = ?, upstream = ?, upstream_model = ?, price_id = ?, extras = ?, input_tokens = ?,
    cache_read_input_tokens = 0, cache_write_5m_tokens = 0, cache_write_1h_tokens = 0,
    output_tokens = 0
WHERE request_id = ? AND state = 'open'
"""
_OPEN_HOLDS = "SELECT COUNT(*), COALESCE(SUM(held_micros), 0) FROM request WHERE state = 'open'"
_COUNTED = "SELECT key_id, spend_month FROM request WHERE request_id = ? AND state = 'open'"
_PROGRESS = """
UPDATE request SET
    input_tokens = ?, cache_read_input_tokens = ?, cache_write_5m_tokens = ?,
    cache_write_1h_tokens = ?, output_tokens = ?,
    held_micros = held_micros + ?, held_tokens = held_tokens + ?
WHERE request_id = ? AND state = 'open'
"""
_LIVES = """
SELECT 1 FROM "key" WHERE id = ? AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)
"""
_STANDS = f"{_LIVES} AND {_LIMITS}"
