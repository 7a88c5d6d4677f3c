"""Spans of the requests that have ended, for OpenTelemetry; only imported where they are wanted.

Names of attributes follow OpenTelemetry's conventions for generative AI (repository
open-telemetry/semantic-conventions-genai, status Development, read 2026-11-22); what they have no
name for begins with `gatewayctl.`.
"""

import asyncio
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import TypeAlias

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_EXPORTER_OTLP_TRACES_HEADERS,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.re import parse_env_headers

from server import clock
from server.observing.caller_trace import CallerTrace
from server.observing.collector import Collector
from server.observing.record import Record, Served
from server.secret import MASK
from server.usage.record import Outcome

SEND_EVERY_S = 1.0
SEND_WAIT_S = 5.0
BATCH_SPANS = 128  # some 10 ms of work, between which the event loop is let in
MOST_WAITING = 8192  # some 10 MB
VALUE_LIMIT = 256
CLOSE_WAIT_S = 2.0
SHORTEST_SECRET = 8

_Value: TypeAlias = str | bool | int | float | Sequence[str]

_log = logging.getLogger(__name__)
_SDK = logging.getLogger("opentelemetry")
_NOT_SHOWN = re.compile(r"[^\x20-\x7e]")


class Traces:
    """Takes records on the event loop that made it; a thread makes spans of them and sends them.

    Where the collector cannot be reached, or not fast enough, spans are dropped and counted, and
    that is said once.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        place: str = "",
        sample_ratio: float = 1.0,
        secrets: Collection[str] = (),
    ) -> None:
        self._exporter, self._place = exporter, place
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Served] = deque()
        self._refused = self._lost = 0  # one for each thread that counts
        self._is_failing = False
        self._ended = _Ended()
        self._tracer = _tracer(self._ended, sample_ratio)
        self._reasons = _Reasons(secrets)
        _SDK.addHandler(self._reasons)
        self._closing, self._stopped = threading.Event(), asyncio.Event()
        # A daemon: a collector that never answers must not keep the process from ending.
        threading.Thread(target=self._run, name="traces", daemon=True).start()

    @classmethod
    def to(cls, collector: Collector) -> "Traces":
        """Send spans to `collector`."""
        headers = {name: value.reveal() for name, value in collector.headers.items()}
        exporter = OTLPSpanExporter(collector.url, headers=headers, timeout=SEND_WAIT_S)
        return cls(exporter, collector.url, collector.sample_ratio, _secrets_of(headers))

    @property
    def dropped(self) -> int:
        """How many spans were not sent."""
        return self._refused + self._lost

    def take(self, record: Record) -> None:
        """Have a span made and sent soon, if the request left."""
        if not isinstance(record, Served):
            return
        if len(self._waiting) >= MOST_WAITING:
            self._refused += 1
        else:
            self._waiting.append(record)

    async def close(self) -> None:
        """Send what is waiting, unless that takes long."""
        self._closing.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), CLOSE_WAIT_S)
        self._exporter.shutdown()  # ends what it is still trying

    # in the thread

    def _run(self) -> None:
        while not self._closing.wait(SEND_EVERY_S):
            self._send()
        self._send()
        _SDK.removeHandler(self._reasons)
        with suppress(RuntimeError):  # the loop did not wait for this
            self._loop.call_soon_threadsafe(self._stopped.set)

    def _send(self) -> None:
        while self._waiting:
            for _ in range(min(BATCH_SPANS, len(self._waiting))):
                make_span(self._tracer, self._waiting.popleft())
            if spans := self._ended.drain():
                self._reasons.first = ""
                self._tried(spans, self._exporter.export(spans))

    def _tried(self, spans: Sequence[ReadableSpan], result: SpanExportResult) -> None:
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing:
            self._lost += len(spans)
        if is_failing is self._is_failing:
            return
        self._is_failing = is_failing
        if is_failing:
            reason = _NOT_SHOWN.sub(" ", self._reasons.first)[:500]
            _log.error("spans cannot be sent to %s: they are dropped (%s)", self._place, reason)
        else:
            _log.warning("spans are sent again; lost so far: %d", self.dropped)


class _Ended(SpanProcessor):
    """Keeps the spans that have ended until they are drained."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def drain(self) -> list[ReadableSpan]:
        spans, self._spans = self._spans, []
        return spans


class _Reasons(logging.Handler):
    """Takes what the SDK says of every attempt, and keeps the first: that one tells the cause.

    Without a handler, Python would write all of it to stderr. A collector may repeat in its
    status line what it was sent, so `secrets` are masked.
    """

    first = ""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def emit(self, record: logging.LogRecord) -> None:
        if self.first:
            return
        self.first = record.getMessage()
        for secret in self._secrets:
            self.first = self.first.replace(secret, MASK)


def _secrets_of(headers: Mapping[str, str]) -> set[str]:
    """Give the words of the headers that a collector is sent, the environment's too."""
    values = list(headers.values())
    for name in (OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS):
        values += parse_env_headers(os.environ.get(name, ""), liberal=True).values()
    words = (word for value in values for word in value.split())
    return {word for word in words if len(word) >= SHORTEST_SECRET}


def make_span(tracer: trace.Tracer, record: Served) -> None:
    """Begin and end the span of a request, at the times that it had."""
    opening, closing = record.opening, record.closing
    start_ns = clock.to_ms(opening.started_at) * 1_000_000
    span = tracer.start_span(
        f"chat {opening.model}",
        context=_context(record.caller_trace),
        kind=SpanKind.CLIENT,
        attributes=attributes_of(record),
        start_time=start_ns,
    )
    if closing.outcome is Outcome.UPSTREAM_ERROR:
        span.set_status(StatusCode.ERROR)
    span.end(start_ns + (closing.duration_ms or 0) * 1_000_000)


def attributes_of(record: Served) -> dict[str, _Value]:
    """Give what a span says of a request; what is not known, or does not apply, is left out."""
    named = _conventional(record) | _ours(record)
    return {name: value for name, value in named.items() if value is not None}


def _conventional(record: Served) -> dict[str, _Value | None]:
    opening, closing = record.opening, record.closing
    read = closing.cache_read_input_tokens
    written = closing.cache_write_5m_tokens + closing.cache_write_1h_tokens
    first_ms = closing.first_byte_ms if opening.stream else None
    failed = closing.outcome is Outcome.UPSTREAM_ERROR
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": record.provider,
        "gen_ai.request.model": opening.model,
        "gen_ai.request.stream": opening.stream or None,
        "gen_ai.response.model": opening.upstream_model,
        "gen_ai.response.finish_reasons": closing.stop_reason and (closing.stop_reason,),
        "gen_ai.response.time_to_first_chunk": None if first_ms is None else first_ms / 1000,
        "gen_ai.conversation.id": opening.session,
        "gen_ai.usage.input_tokens": closing.input_tokens + read + written,
        "gen_ai.usage.cache_read.input_tokens": read,
        "gen_ai.usage.cache_creation.input_tokens": written,
        "gen_ai.usage.output_tokens": closing.output_tokens,
        "error.type": (closing.error or closing.outcome.value) if failed else None,
    }


def _ours(record: Served) -> dict[str, _Value | None]:
    opening, closing = record.opening, record.closing
    return {
        "gatewayctl.request_id": opening.request_id,
        "gatewayctl.key_id": record.key_id,
        "gatewayctl.tenant": record.tenant,
        "gatewayctl.member": opening.member,
        "gatewayctl.tool": opening.tool,
        "gatewayctl.protocol": opening.protocol,
        "gatewayctl.requested_model": opening.requested_model,
        "gatewayctl.upstream": opening.upstream,
        "gatewayctl.upstream_request_id": closing.upstream_request_id,
        "gatewayctl.attempts": record.attempts,
        "gatewayctl.status": closing.status,
        "gatewayctl.outcome": closing.outcome.value,
        "gatewayctl.estimated": closing.estimated,
        "gatewayctl.cost_micros": closing.cost_micros,
        "gatewayctl.quota_tokens": closing.quota_tokens,
        "gatewayctl.hold_ms": record.hold_ms,
        "gatewayctl.first_byte_ms": closing.first_byte_ms,
        "gatewayctl.sent_bytes": record.sent_bytes,
    }


def _context(caller: CallerTrace | None) -> Context:
    """Give the context of a span below the caller's; without one it begins a trace."""
    if caller is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if caller.is_sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([caller.state])
    above = SpanContext(
        caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags, trace_state=state
    )
    return trace.set_span_in_context(NonRecordingSpan(above), Context())


def _tracer(ended: SpanProcessor, sample_ratio: float) -> trace.Tracer:
    """Make spans that `ended` is told of; OTEL_SERVICE_NAME and its like have the last word."""
    ours: Mapping[str, str] = {
        "service.name": "gatewayctl",
        "service.version": version("gatewayctl"),
    }
    provider = TracerProvider(
        ParentBased(TraceIdRatioBased(sample_ratio)),
        Resource.create(ours).merge(OTELResourceDetector().detect()),
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_span_attribute_length=VALUE_LIMIT),
    )
    provider.add_span_processor(ended)
    return provider.get_tracer("gatewayctl", ours["service.version"])
