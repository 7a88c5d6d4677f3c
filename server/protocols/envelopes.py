"""Errors on the wire: the envelope of each protocol, and what a provider's error becomes."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from server.errors import (
    GatewayError,
    MethodNotAllowed,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)
from server.protocols import Protocol, wording
from server.protocols.meter import ReportedError

ANTHROPIC_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
OPENAI_PING = b": ping\n\n"
MAX_MESSAGE_LENGTH = 4000
MAX_RETRY_AFTER_S = 7 * 86_400


def anthropic(err: GatewayError, request_id: str) -> dict[str, Any]:
    """Give `err` as the Messages API words an error."""
    kind = _ANTHROPIC_TYPE.get(err.http_status, "api_error")
    error: dict[str, Any] = {"type": kind, "message": str(err)}
    if isinstance(err, UpstreamRefused):
        error["message"] = wording.as_messages_words_it(str(err), err.upstream_code)
        own = _kind(err, Protocol.ANTHROPIC)
        if own is not None and own.endswith(("_error", "_too_large")):
            error["type"] = own
    if err.details is not None:
        error["details"] = err.details
    return {"type": "error", "error": error, "request_id": request_id}


def openai(err: GatewayError) -> dict[str, Any]:
    """Give `err` as the Chat Completions API words an error."""
    status = status_for(err, Protocol.OPENAI)
    default = "invalid_request_error" if status < 500 else "server_error"
    kind, code = _OPENAI_TYPE.get(status, default), err.code
    error: dict[str, Any] = {"message": str(err), "type": kind, "param": err.param, "code": code}
    if isinstance(err, UpstreamRefused):
        error["type"] = _kind(err, Protocol.OPENAI) or kind
        error["code"] = err.upstream_code or err.reason
    if err.details is not None:
        error["details"] = err.details
    return {"error": error}


def anthropic_event(err: GatewayError, request_id: str) -> bytes:
    """Give `err` as the event that ends a Messages stream."""
    return b"event: error\ndata: %b\n\n" % msgspec.json.encode(anthropic(err, request_id))


def openai_event(err: GatewayError) -> bytes:
    """Give `err` as the chunk that ends a Chat Completions stream; no [DONE] may follow."""
    return b"data: %b\n\n" % msgspec.json.encode(openai(err))


def status_for(err: GatewayError, protocol: Protocol) -> int:
    """Give the status to answer with; 529 is Anthropic's own, and 503 to OpenAI's clients."""
    if protocol is not Protocol.ANTHROPIC and err.http_status == 529:
        return 503
    return err.http_status


def headers(err: GatewayError, request_id: str) -> dict[str, str]:
    """Give the headers that go with `err`, in either protocol.

    SDKs and coding tools retry more than they should (Claude Code a 401, seven times), and
    obey `x-should-retry: false`.
    """
    named = {"request-id": request_id, "x-request-id": request_id}
    if err.retry_after_s is not None:
        named["retry-after"] = str(err.retry_after_s)
    if not err.retriable or err.http_status not in _RETRIABLE:
        named["x-should-retry"] = "false"
    if isinstance(err, MethodNotAllowed) and err.allowed:
        named["allow"] = ", ".join(err.allowed)
    return named


def from_upstream(
    status: int, headers: Mapping[str, str], body: bytes, protocol: Protocol
) -> GatewayError:
    """Turn a provider's error answer into ours.

    400, 413 and 429 keep status and wording, which clients match to recover, and so do 404 and
    409 about a thread; anything like a secret in them is masked. All else gets a sentence of our
    own, for the provider's may name keys and hosts. `headers` has lower-case names, or does not
    mind case.
    """
    wait_s = _retry_after_s(headers.get("retry-after"))
    if status == 400 and _UNPAID in body.lower():
        status = 402
    if status in _REFUSALS or (status in (404, 409) and _ABOUT_THREAD.search(body)):
        refusal = _refusal(status, body, protocol, wait_s)
        if refusal is not None:
            return refusal
    return _failure(status, wait_s)


def from_event(reported: ReportedError, protocol: Protocol) -> GatewayError:
    """Turn an error that a provider of `protocol` reported inside a 200 into ours.

    It is what an answer of the status that it speaks of would be.
    """
    message = redacted(reported.message.encode(errors="replace"))
    status = _reported_status(reported)
    if status is None:
        return UpstreamError("The provider failed in the middle of its answer; try again.")
    if status == 400 and _UNPAID in message.lower():
        status = 402
    if status not in _REFUSALS:
        return _failure(status, None)
    text = message.decode()
    return UpstreamRefused(
        text,
        upstream_status=status,
        kind=reported.kind,
        spoken=protocol,
        code=wording.known_code(text, _word(reported.code, protocol)),
    )


def redacted(text: bytes) -> bytes:
    """Mask whatever looks like a secret in what a provider sent."""
    return _SECRET.sub(b"[redacted]", text)


_ANTHROPIC_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPE = {429: "rate_limit_error"}
_RETRIABLE = frozenset({429, 500, 502, 503, 504, 529})
_REFUSALS = frozenset({400, 413, 429})
_REPORTED = {  # what a reported error's type or code holds
    "overloaded": 529,
    "rate_limit": 429,
    "too_large": 413,
    "invalid_request": 400,
    wording.CONTEXT_LENGTH_EXCEEDED: 400,
    "timeout_error": 504,
}
# Anthropic's word for an unpaid account. Claude Code would tell its user, who cannot mend it, and
# would hide everything else.
_UNPAID = b"credit balance is too low"
_OPERATOR = "tell the gateway's operator"
_SENTENCES = {
    401: f"The provider did not accept the gateway's API key; {_OPERATOR}.",
    402: f"The provider wants the gateway's account to be paid; {_OPERATOR}.",
    403: f"The provider did not allow the gateway's API key to do this; {_OPERATOR}.",
    404: f"The provider does not know the model or path that was asked for; {_OPERATOR}.",
}
_ABOUT_THREAD = re.compile(rb'"error_code"\s*:\s*"thread_')
_SECRET = re.compile(
    rb"(?<![A-Za-z0-9])(?:(?:sk|pk|rk)-[\w*.-]{6,}|gwk_\w+|(?i:bearer) +[\w.~+/*-]{8,}=*)"
)


def _kind(err: UpstreamRefused, protocol: Protocol) -> str | None:
    """Give the provider's type, where it is a word of the client's `protocol`."""
    return err.kind if err.spoken == protocol else None


def _failure(status: int, wait_s: int | None) -> GatewayError:
    """Tell in a sentence of ours what a status says."""
    if status in (408, 504):
        return UpstreamTimeout("The provider took too long; try again.", retry_after_s=wait_s)
    if status in (503, 529):
        return UpstreamOverloaded("The provider is overloaded; try again.", retry_after_s=wait_s)
    sentence = _SENTENCES.get(status, f"The provider failed with status {status}; try again.")
    failed = UpstreamError(sentence, retry_after_s=wait_s)
    failed.upstream_status = status
    return failed


def _reported_status(reported: ReportedError) -> int | None:
    """Find the status that an error speaks of; OpenRouter and vLLM give it as the code."""
    if re.fullmatch(r"[45]\d\d", reported.code or ""):
        return int(reported.code or "")
    words = f"{reported.kind} {reported.code}"
    return next((status for word, status in _REPORTED.items() if word in words), None)


def _word(code: str | None, protocol: Protocol) -> str | None:
    """Give a provider's code, where it is a word that Chat clients may know."""
    return None if protocol is not Protocol.OPENAI or (code or "").isdigit() else code


def _refusal(
    status: int, body: bytes, protocol: Protocol, wait_s: int | None
) -> UpstreamRefused | None:
    """Read a refusal's own words; None where the body holds none, an HTML page for instance."""
    try:
        answer: Any = msgspec.json.decode(redacted(body))
    except (ValueError, RecursionError):
        return None
    match answer:
        case {"error": {"message": str(message)} as error}:
            pass
        case {"error": str(message)}:
            error = {}
        case {"message": str(message)} as error:  # older vLLM
            pass
        case _:
            return None
    details = error.get("details")
    chat = protocol is Protocol.OPENAI
    return UpstreamRefused(
        message[:MAX_MESSAGE_LENGTH],
        upstream_status=status,
        kind=_string(error.get("type")),
        spoken=protocol,
        code=wording.known_code(message, _word(_string(error.get("code")), protocol)),
        param=_string(error.get("param")) if chat else None,
        details=details if isinstance(details, dict) else None,
        retry_after_s=wait_s,
    )


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _retry_after_s(value: str | None) -> int | None:
    """Read a `retry-after` in seconds, rounded up; a date, which nobody sends, is dropped."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    if not 0 <= seconds <= MAX_RETRY_AFTER_S:
        return None
    return math.ceil(seconds)
