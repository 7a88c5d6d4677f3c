"""The row of one dispatched request: opened before a byte goes upstream, closed exactly once."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server import clock
from server.store.models import Request, database


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    UPSTREAM_ERROR = "upstream_error"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known of a request before it leaves; named as the columns of `Request`.

    `input_estimate` stands in for the input tokens until the upstream tells them.
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
    member: str | None = None
    tool: str | None = None
    session: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class Closing:
    """How a request went; named as the columns of `Request`.

    Token classes do not overlap, and `estimated` says that one of them was guessed.
    """

    outcome: Outcome
    duration_ms: int
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


def open_request(opening: Opening) -> int | None:
    """Write the row of a request that is about to leave; give its id.

    None, and no row, when the key was revoked or expired meanwhile: the check and the row are one
    statement, so a revocation is exact however long a key was cached. The input estimate is
    stored at once, so that a crash leaves a fair figure behind.
    """
    started_ms = clock.to_ms(opening.started_at)
    cursor = database.execute_sql(
        _OPEN,
        (
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
            opening.key_id,
            started_ms,
        ),
    )
    row = cursor.fetchone()
    return None if row is None else int(row[0])


def close_request(request_id: str, closing: Closing) -> bool:
    """Settle the row of `request_id`; False when it was closed before: then nothing changes.

    By our own id and not the row's: a request can be cancelled while its opening is still
    queued, and the store runs jobs in order, so this finds the row that the caller never saw.
    """
    cursor = database.execute_sql(
        _CLOSE,
        (
            closing.upstream_request_id,
            closing.first_byte_ms,
            closing.duration_ms,
            closing.status,
            closing.outcome,
            closing.error,
            closing.stop_reason,
            closing.input_tokens,
            closing.cache_read_input_tokens,
            closing.cache_write_5m_tokens,
            closing.cache_write_1h_tokens,
            closing.output_tokens,
            closing.estimated,
            request_id,
        ),
    )
    # The row, not `rowcount`: that stays 0 until a RETURNING row is fetched.
    return cursor.fetchone() is not None


def close_orphans(dead_instance_ids: Collection[int]) -> int:
    """Settle what dead processes left open, as interrupted; count the rows.

    The input estimate stays, marked `estimated`; how long such a request took is unknown.
    """
    orphans = Request.update(state="settled", outcome=Outcome.INTERRUPTED, estimated=True).where(
        Request.state == "open", Request.instance.in_(dead_instance_ids)
    )
    return int(orphans.execute())


_OPEN = """
INSERT INTO request (
    state, request_id, instance_id, tenant_id, key_id, member, tool, session, agent, protocol,
    stream, requested_model, model, upstream, upstream_model, started_at, input_tokens, estimated,
    cache_read_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens
)
SELECT 'open', ?, ?, ?, "key".id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, 0, 0, 0
FROM "key"
WHERE "key".id = ? AND "key".revoked_at IS NULL
    AND ("key".expires_at IS NULL OR "key".expires_at > ?)
RETURNING id
"""
_CLOSE = """
UPDATE request SET
    state = 'settled', upstream_request_id = ?, first_byte_ms = ?, duration_ms = ?, status = ?,
    outcome = ?, error = ?, stop_reason = ?, input_tokens = ?, cache_read_input_tokens = ?,
    cache_write_5m_tokens = ?, cache_write_1h_tokens = ?, output_tokens = ?, estimated = ?
WHERE request_id = ? AND state = 'open'
RETURNING id
"""
