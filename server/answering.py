"""How a provider's answer becomes the client's: the relay between the two."""

import time
from collections.abc import Callable

from server.calls import Call, Plan
from server.config.schema import Config
from server.errors import GatewayError
from server.protocols import Protocol, envelopes
from server.protocols.by_protocol import PING
from server.protocols.translation import Context, ways
from server.protocols.translation.answers.responses_errors import failed_event
from server.upstream.client import forwarded_headers
from server.upstream.relay import Relay


def headers_for(call: Call, plan: Plan) -> dict[str, str]:
    """Give what of the client's headers goes on; those of another protocol mean nothing there.

    Raises:
        InvalidRequest: one of them holds what must not stand in a header.
    """
    return forwarded_headers(plan.protocol, call.headers if _is_same(call, plan) else {})


def relay_of(call: Call, plan: Plan, config: Config, *, ping_after_s: float) -> Relay:
    """Make the client's side of a request."""
    return Relay(
        streaming=plan.request.stream,
        ping=PING[call.protocol],
        ping_after_s=ping_after_s,
        most_s=config.server.max_stream_s,
        most_bytes=config.server.max_stream_mb * 1024 * 1024,
    )


def begin_attempt(relay: Relay, call: Call, plan: Plan, estimated_input: Callable[[], int]) -> None:
    """Begin an attempt whose answer becomes the client's, event by event where it is a stream.

    `estimated_input` is asked only where a translated stream has to begin with a count of tokens.
    """
    request = plan.request
    if _is_same(call, plan) and request.stream is plan.streamed:
        answers = ways.AS_THEY_ARE
    else:
        answers = ways.answers(
            call.protocol,
            plan.protocol,
            stream=request.stream,
            streamed=plan.streamed,
            context=_context(call, plan, estimated_input()),
            asked=request.asked,
        )
    hide_usage = answers is ways.AS_THEY_ARE and _hides_usage(plan)
    relay.begin(plan.protocol, answers, hide_usage=hide_usage)


def error_event(err: GatewayError, call: Call, plan: Plan) -> bytes:
    """Give an error as the last event of a stream that has begun."""
    if call.protocol is Protocol.ANTHROPIC:
        return envelopes.anthropic_event(err, call.request_id)
    if call.protocol is Protocol.RESPONSES:
        return failed_event(err.reason, str(err), _context(call, plan, 0))
    return envelopes.openai_event(err)


def _is_same(call: Call, plan: Plan) -> bool:
    return call.protocol is plan.protocol


def _hides_usage(plan: Plan) -> bool:
    """Tell whether a Chat client did not ask for the usage that the gateway asks for."""
    return plan.protocol is Protocol.OPENAI and not plan.request.wants_usage


def _context(call: Call, plan: Plan, input_tokens: int) -> Context:
    return Context(
        model=plan.request.model,
        ident=call.request_id.removeprefix("req_"),
        created=int(time.time()),
        input_tokens=input_tokens,
        names=plan.names,
        include_usage=plan.request.wants_usage or call.protocol is Protocol.RESPONSES,
    )
