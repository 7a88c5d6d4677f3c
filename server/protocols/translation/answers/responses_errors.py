"""The end of a Responses stream that fails, told so that the client reads it.

    ours                                     the event's code      what codex does
    prompt_too_long                          context_length_…      says that the context is full
    rate_limited                             rate_limit_exceeded   tries again, five times
    what another try cannot mend             invalid_prompt        shows the message, and stops
    all else                                 server_error          tries again, five times

`response.failed` it is, not `error`: codex passes over the latter and sees a cut stream, and it
hides the message of `insufficient_quota` (codex 0.169.0, measured 2026-11).
"""

from collections.abc import Mapping

import msgspec

from server.protocols.translation import Context

# An event's number has to be above those before it, of which nothing is known here.
LAST_NUMBER = 2**31 - 1


def failed_event(code: str, message: str, context: Context) -> bytes:
    """Give the event that ends a stream, wherever it stands; `code` is one of ours."""
    error = {"code": _CODES.get(code, "server_error"), "message": message}
    response = {
        "id": f"resp_{context.ident}",
        "object": "response",
        "created_at": context.created,
        "status": "failed",
        "error": error,
        "incomplete_details": None,
        "model": context.model,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }
    event = {"type": "response.failed", "sequence_number": LAST_NUMBER, "response": response}
    return b"event: response.failed\ndata: %b\n\n" % msgspec.json.encode(event)


_CODES: Mapping[str, str] = {
    "prompt_too_long": "context_length_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "invalid_request": "invalid_prompt",
    "request_too_large": "invalid_prompt",
    "invalid_api_key": "invalid_prompt",
    "insufficient_balance": "invalid_prompt",
    "spend_cap_reached": "invalid_prompt",
    "subscription_inactive": "invalid_prompt",
    "key_not_allowed": "invalid_prompt",
    "quota_exceeded": "invalid_prompt",
    "not_supported": "invalid_prompt",
}
