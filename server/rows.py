"""What is written down of a request: when it leaves, and when it has ended."""

import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from server.billing.pricing import Tokens, extras_json
from server.billing.scales import Bill, Scale, columns_of
from server.calls import Call, Plan
from server.errors import GatewayError
from server.observing.caller_trace import caller_trace
from server.observing.record import Served
from server.protocols import Protocol, envelopes
from server.protocols.by_protocol import ESTIMATE
from server.tenants import spend
from server.upstream.attempt import Attempt
from server.upstream.client import shown_headers
from server.upstream.relay import Relay
from server.usage.record import Closing, Opening, Outcome, Tried

SESSION_HEADERS = ("x-claude-code-session-id", "x-session-id", "session-id")
AGENT_HEADERS = ("x-claude-code-agent-id",)
NO_TOKENS = Tokens(0, 0, 0, 0, 0)
UPSTREAM_ID_HEADERS = (b"request-id", b"x-request-id")

_LEFT_ALONE = (Outcome.CANCELLED, Outcome.CUT)  # while the provider may still have worked on it
OTHER_WORD = "other"
_WORD = re.compile(r"[\w.:/-]{1,64}", re.ASCII).fullmatch
_LABEL = re.compile(r"[\x21-\x7e]{1,128}").fullmatch


def opening(call: Call, plan: Plan, instance_id: int, input_tokens: int, now: datetime) -> Opening:
    """Describe a request that is about to leave; its estimated input stands after a crash."""
    caller = call.caller
    is_capped = caller.limits.monthly_usd is not None and plan.price is not None
    return Opening(
        request_id=call.request_id,
        instance_id=instance_id,
        tenant_id=caller.tenant_id,
        key_id=caller.key_id,
        member=caller.member,
        tool=call.tool,
        session=session_of(call),
        agent=_label(call, AGENT_HEADERS),
        protocol=call.protocol.value,
        stream=plan.request.stream,
        requested_model=plan.request.model,
        model=plan.model,
        upstream=plan.target.upstream,
        upstream_model=plan.target.model,
        started_at=now,
        input_estimate=input_tokens,
        billing=caller.billing.value,
        price_id=None if plan.price is None else plan.price.number,
        extras=extras_json(dict(plan.extras.settings)),
        spend_month=spend.month_of(now) if is_capped else None,
        limits_key_id=caller.limits_key_id,
        limits_text=caller.limits_text,
    )


def moved(opening: Opening, plan: Plan, input_tokens: int) -> Opening:
    """Describe an open request that another target is to serve."""
    return replace(
        opening,
        model=plan.model,
        upstream=plan.target.upstream,
        upstream_model=plan.target.model,
        input_estimate=input_tokens,
        price_id=None if plan.price is None else plan.price.number,
        extras=extras_json(dict(plan.extras.settings)),
    )


def closing(
    call: Call,
    plan: Plan,
    relay: Relay,
    scale: Scale | None,
    *,
    outcome: Outcome,
    error: GatewayError | None,
    begun: float,
    tried: Sequence[Tried],
) -> Closing:
    """Describe a request that has ended; `begun` is on `time.monotonic`'s clock.

    A provider's figures stand as they are, an explicit zero too. Where it sent none but took the
    request, its input is estimated and the output counted from what was delivered, and the row
    says so. A request that a provider refused, or that never reached one, cost nothing. `scale`
    says what the tokens come to.
    """
    meter, first = relay.meter, relay.attempt.first_byte_at
    tokens, is_estimated = _counted(plan, relay, outcome)
    bill = Bill()
    if scale is not None and tokens != NO_TOKENS:
        bill = scale.bill(tokens, meter.server_tool_uses, meter.settings)
    return Closing(
        outcome=outcome,
        attempts=_attempts(tried, error),
        duration_ms=_ms(time.monotonic() - begun),
        status=_status(call, relay, outcome, error),
        first_byte_ms=None if first is None else _ms(first - begun),
        error=_error_code(relay, error),
        stop_reason=_word(meter.stop_reason),
        upstream_request_id=upstream_request_id(relay.attempt),
        estimated=is_estimated,
        anomaly=meter.anomaly or bill.anomaly,
        **columns_of(tokens, bill),
    )


class Told(NamedTuple):
    """What a row does not keep of a request; times on `time.monotonic`'s clock."""

    begun: float
    placed_at: float | None
    attempts: int
    would_block: str | None


def served(
    call: Call, plan: Plan, relay: Relay, opening: Opening, closing: Closing, *, told: Told
) -> Served:
    """Describe a request that has ended to those who watch."""
    placed_at = told.placed_at
    is_anthropic = plan.protocol is Protocol.ANTHROPIC
    return Served(
        opening=opening,
        closing=closing,
        key_id=call.caller.key_public_id,
        tenant=call.caller.tenant_public_id,
        client=call.client,
        provider="anthropic" if is_anthropic else "openai",
        hold_ms=None if placed_at is None else _ms(placed_at - told.begun),
        sent_bytes=relay.given_bytes,
        attempts=told.attempts,
        would_block=told.would_block,
        ended_at=time.time(),
        caller_trace=caller_trace(call.headers),
    )


def _counted(plan: Plan, relay: Relay, outcome: Outcome) -> tuple[Tokens, bool]:
    """Give a request's tokens, and whether some were estimated."""
    meter, usage = relay.meter, relay.meter.usage
    read, written = usage.input_tokens, usage.output_tokens
    # Messages counts one token of output at the start and the others at the end: a stream that
    # broke off in between has delivered more than it said.
    is_final = written is not None and not meter.output_is_partial
    missing = _was_taken(relay, outcome) and (read is None or not is_final)
    if missing and read is None:
        read = ESTIMATE[plan.protocol](plan.fields)
    if missing and not is_final:
        written = max(written or 0, meter.estimated_output_tokens())
    tokens = Tokens(
        input=read or 0,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write_5m=usage.cache_write_5m_tokens or 0,
        cache_write_1h=usage.cache_write_1h_tokens or 0,
        output=written or 0,
    )
    return tokens, missing


def upstream_request_id(attempt: Attempt) -> str | None:
    """Give the id under which the provider knows the request, if it is fit to be shown."""
    if attempt.head is None:
        return None
    for name in UPSTREAM_ID_HEADERS:
        value = attempt.head.get(name)
        if value is not None and _LABEL(text := value.decode("latin-1")):
            return text
    return None


def upstream_headers(attempt: Attempt) -> dict[str, str]:
    """Give what a client may see of the provider's headers: its limits, and its request's id."""
    shown = shown_headers(attempt.head)
    if (theirs := upstream_request_id(attempt)) is not None:
        shown["x-upstream-request-id"] = theirs
    return shown


def _was_taken(relay: Relay, outcome: Outcome) -> bool:
    """Tell whether the provider took the request, and will want to be paid for its input."""
    if relay.meter.error is not None and relay.meter.message_id is None:
        return False  # a refusal that came as the first event of a stream
    attempt = relay.attempt
    is_left_alone = attempt.was_sent and attempt.head is None and outcome in _LEFT_ALONE
    return attempt.answered_ok or is_left_alone


def session_of(call: Call) -> str | None:
    """Give the id that the tool has for its session, where it sends one that is fit to be kept."""
    return _label(call, SESSION_HEADERS)


def _attempts(tried: Sequence[Tried], error: GatewayError | None) -> str | None:
    """Tell a request's attempts as JSON, unless its row says as much."""
    told = None if error is None else error.reason
    # One that was ended before its second attempt has its own reason, or none.
    if not tried or (len(tried) == 1 and tried[0].error in (None, told)):
        return None
    return msgspec.json.encode(tried).decode()


def _label(call: Call, names: tuple[str, ...]) -> str | None:
    for name in names:
        value = call.headers.get(name)
        if value is not None and _LABEL(value):
            return value
    return None


def _status(call: Call, relay: Relay, outcome: Outcome, error: GatewayError | None) -> int | None:
    if relay.has_delivered:
        return 200
    if error is not None:
        return envelopes.status_for(error, call.protocol)
    return None if outcome is Outcome.CANCELLED else 200


def _error_code(relay: Relay, error: GatewayError | None) -> str | None:
    if error is not None:
        return error.reason
    return None if relay.meter.error is None else _word(relay.meter.error.kind)


def _word(said: str | None) -> str | None:
    """Keep a provider's word of its own, but no sentence: that may repeat what was asked."""
    return said if said is None or _WORD(said) else OTHER_WORD


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
