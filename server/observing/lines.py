"""A line of the access log: one JSON object, in which what is not known is left out."""

from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from server import clock
from server.observing.record import Record, Refused, Served


class Line(Struct, omit_defaults=True, kw_only=True):
    """The keys of a line, in their order."""

    at: datetime  # the request's end
    request_id: str
    client: str
    key_id: str | None = None
    tenant: str | None = None
    member: str | None = None
    tool: str | None = None
    protocol: str
    method: str | None = None
    path: str | None = None
    requested_model: str | None = None
    model: str | None = None
    upstream: str | None = None
    upstream_model: str | None = None
    upstream_request_id: str | None = None
    attempts: int
    tried: Raw | None = None
    stream: bool | None = None
    status: int | None = None
    outcome: str
    error: str | None = None
    would_block: str | None = None
    stop_reason: str | None = None
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None
    estimated: bool | None = None
    cost_micros: int | None = None
    quota_tokens: int | None = None
    hold_ms: int | None = None
    first_byte_ms: int | None = None
    duration_ms: int | None = None
    sent_bytes: int | None = None


def line_of(record: Record) -> bytes:
    """Give the line of a request, its line break with it."""
    line = _served(record) if isinstance(record, Served) else _refused(record)
    return msgspec.json.encode(line) + b"\n"


def _served(record: Served) -> Line:
    opening, closing = record.opening, record.closing
    return Line(
        at=_moment(record.ended_at),
        request_id=opening.request_id,
        client=record.client,
        key_id=record.key_id,
        tenant=record.tenant,
        member=opening.member,
        tool=opening.tool,
        protocol=opening.protocol,
        requested_model=opening.requested_model,
        model=opening.model,
        upstream=opening.upstream,
        upstream_model=opening.upstream_model,
        upstream_request_id=closing.upstream_request_id,
        attempts=record.attempts,
        tried=None if closing.attempts is None else Raw(closing.attempts),
        stream=opening.stream,
        status=closing.status,
        outcome=closing.outcome.value,
        error=closing.error,
        would_block=record.would_block,
        stop_reason=closing.stop_reason,
        input_tokens=closing.input_tokens,
        cache_read_input_tokens=closing.cache_read_input_tokens,
        cache_write_5m_tokens=closing.cache_write_5m_tokens,
        cache_write_1h_tokens=closing.cache_write_1h_tokens,
        output_tokens=closing.output_tokens,
        estimated=closing.estimated,
        cost_micros=closing.cost_micros,
        quota_tokens=closing.quota_tokens,
        hold_ms=record.hold_ms,
        first_byte_ms=closing.first_byte_ms,
        duration_ms=closing.duration_ms,
        sent_bytes=record.sent_bytes,
    )


def _refused(record: Refused) -> Line:
    return Line(
        at=_moment(record.ended_at),
        request_id=record.request_id,
        client=record.client,
        key_id=record.key_id,
        tenant=record.tenant,
        member=record.member,
        protocol=record.protocol,
        method=record.method,
        path=record.path,
        attempts=0,
        status=record.status,
        outcome="refused",
        error=record.error,
    )


def _moment(seconds: float) -> datetime:
    return clock.from_ms(int(seconds * 1000))
