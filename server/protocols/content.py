"""Where a stream's content begins: before it nothing is lost by asking another provider."""

from typing import Any

import msgspec

from server.protocols import Protocol, sse


def has_content(events: bytes, protocol: Protocol) -> bool:
    """Tell whether whole `events` hold a part of the answer, and not only its frame.

    `protocol` is the provider's. A block that begins empty is frame; what cannot be read is
    content, as it may be.
    """
    says_something = _SAYS_SOMETHING[protocol]
    return any(says_something(piece) for piece in sse.pieces(events))


def _is_block_part(piece: bytes) -> bool:
    if b"content_block_start" in piece:
        return any(kind in piece for kind in _WHOLE_BLOCKS)
    return b"content_block_delta" in piece


def _is_delta(piece: bytes) -> bool:
    _, data = sse.fields(piece)
    if not data or data == b"[DONE]":
        return False
    try:
        chunk = _CHUNK.decode(data)
    except (ValueError, RecursionError):
        return True
    return any(
        name != "role" and value not in _EMPTY
        for choice in chunk.choices or ()
        for name, value in (choice.delta or {}).items()
    )


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_EMPTY: tuple[Any, ...] = (None, "", [], {})
# Blocks that come whole, in the event that begins them (Messages API, read 2026-11).
_WHOLE_BLOCKS = (b'_tool_result"', b'"server_tool_use"', b'"redacted_thinking"')
_SAYS_SOMETHING = {Protocol.ANTHROPIC: _is_block_part, Protocol.OPENAI: _is_delta}
