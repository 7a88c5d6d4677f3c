"""What differs by protocol, one table for each."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Raw

from server.errors import GatewayError, QuotaExceeded
from server.protocols import Protocol, envelopes, extras, sse, tokens, usage

METER: Mapping[Protocol, Callable[[], usage.Meter]] = {
    Protocol.ANTHROPIC: usage.MessagesMeter,
    Protocol.OPENAI: usage.ChatMeter,
}
ESTIMATE: Mapping[Protocol, Callable[[Mapping[str, Raw]], int]] = {
    Protocol.ANTHROPIC: tokens.estimate_messages,
    Protocol.OPENAI: tokens.estimate_chat,
}
EXTRAS: Mapping[Protocol, Callable[[Mapping[str, Raw]], extras.Extras]] = {
    Protocol.ANTHROPIC: extras.asked_messages,
    Protocol.OPENAI: extras.asked_chat,
}
PING: Mapping[Protocol, bytes] = {
    Protocol.ANTHROPIC: envelopes.ANTHROPIC_PING,
    Protocol.OPENAI: envelopes.OPENAI_PING,
    Protocol.RESPONSES: envelopes.OPENAI_PING,
}


def render(err: GatewayError, protocol: Protocol, request_id: str) -> dict[str, Any]:
    """Give the error body that a caller of `protocol` understands."""
    if protocol is Protocol.ANTHROPIC:
        return envelopes.anthropic(err, request_id)
    body = envelopes.openai(err)
    if protocol is Protocol.RESPONSES and isinstance(err, QuotaExceeded):
        # Codex waits out any other 429 in silence, for a day if it has to; of this one it tells
        # when to come back, and stops (codex 0.169.0, measured 2026-11).
        body["error"] |= {"type": "usage_limit_reached", "resets_at": err.resets_at_s}
    return body


def without_usage_chunk(events: bytes) -> bytes:
    """Drop the Chat chunk that only carries usage, for a client that did not ask for one.

    The gateway asks every provider for it. A chunk with choices stays, whatever else it carries.
    """
    kept = [piece for piece in sse.pieces(events) if not _is_usage_chunk(piece)]
    return b"".join(piece + b"\n\n" for piece in kept)


def _is_usage_chunk(piece: bytes) -> bool:
    if b'"usage"' not in piece:
        return False
    _, data = sse.fields(piece)
    try:
        chunk = _CHUNK.decode(data)
    except (ValueError, RecursionError):
        return False
    return not chunk.choices and chunk.usage is not None


class _Chunk(msgspec.Struct):
    choices: list[Raw] | None = None
    usage: dict[str, Raw] | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)
