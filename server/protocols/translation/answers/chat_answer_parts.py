"""The parts of a Messages answer, and what becomes of them in a Chat Completions answer."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from server.protocols.translation import Context
from server.protocols.translation.answers.chat_answers import SIGNED_FORMAT
from server.protocols.usage import Usage

FINISH_REASON: Mapping[str | None, str] = MappingProxyType(
    {
        "end_turn": "stop",
        "stop_sequence": "stop",
        "pause_turn": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
    }
)


class Block(msgspec.Struct, frozen=True):
    """A content block, as far as Chat has a place for it."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str | None = None
    data: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"")


def read_block(raw: Raw) -> Block:
    """Read a block; one that cannot be read is of no known type."""
    try:
        return _BLOCK.decode(raw)
    except (ValueError, RecursionError):
        return Block()


class Idents:
    """Ids of tool calls, unique in their answer."""

    def __init__(self, context: Context) -> None:
        self._stem = f"call_{context.ident}"
        self._given: set[str] = set()

    def unique(self, ident: str) -> str:
        """Give `ident`, or a made one where it is empty or was given before."""
        if not ident or ident in self._given:
            ident = f"{self._stem}_{len(self._given)}"
        self._given.add(ident)
        return ident


def envelope(kind: str, context: Context) -> dict[str, Any]:
    """Give what a completion and each of its chunks begin with."""
    return {
        "id": f"chatcmpl-{context.ident}",
        "object": kind,
        "created": context.created,
        "model": context.model,
    }


def message(blocks: Sequence[Block], context: Context) -> dict[str, Any]:
    """Give the assistant message that `blocks` make."""
    text = "".join(block.text for block in blocks if block.type == "text")
    thinking = "".join(block.thinking for block in blocks if block.type == "thinking")
    details = [detail for block in blocks if (detail := _reasoning_detail(block))]
    tools = [block for block in blocks if block.type == "tool_use" and block.name]
    said: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if tools else ""),
        "refusal": None,
    }
    if thinking:
        said["reasoning_content"] = thinking
    if details:
        said["reasoning_details"] = [
            {**detail, "index": index} for index, detail in enumerate(details)
        ]
    if tools:
        idents = Idents(context)
        said["tool_calls"] = [
            tool_call(block, idents.unique(block.id), arguments_of(block), context)
            for block in tools
        ]
    return said


def signed_reasoning(thinking: str | Raw, signature: str | Raw) -> dict[str, Any]:
    """Give a signed thinking block as OpenRouter does, without its index."""
    told = {"type": "reasoning.text", "text": thinking, "signature": signature}
    return {**told, "format": SIGNED_FORMAT}


def encrypted_reasoning(data: str) -> dict[str, Any]:
    """Give a redacted_thinking block as OpenRouter does, without its index."""
    return {"type": "reasoning.encrypted", "data": data, "format": SIGNED_FORMAT}


def tool_call(block: Block, ident: str, arguments: str, context: Context) -> dict[str, Any]:
    """Give a tool_use block as a call, with the tool's name as the client knows it."""
    function = {"name": context.names.get(block.name, block.name), "arguments": arguments}
    return {"id": ident, "type": "function", "function": function}


def arguments_of(block: Block) -> str:
    """Give a tool's input as the text it is; whatever is no object becomes an empty one."""
    text = bytes(block.input).decode(errors="replace")
    return text if text.startswith("{") else "{}"


def finish_reason(stop_reason: str | None, *, has_calls: bool) -> str:
    """Map the reason; some servers say `end_turn` behind a call, and clients would drop it."""
    reason = FINISH_REASON.get(stop_reason, "stop")
    if reason in ("stop", "tool_calls"):
        return "tool_calls" if has_calls else "stop"
    return reason


def thinking_tokens(usage: Raw) -> int | None:
    """Read how much of the output was thinking; None where it is not told."""
    try:
        details = _USAGE.decode(usage).output_tokens_details
    except (ValueError, RecursionError):
        return None
    return None if details is None else details.thinking_tokens


def chat_usage(usage: Usage, reasoning_tokens: int | None) -> dict[str, Any]:
    """Count as Chat does, the cached part inside of the prompt; empty where nothing was told."""
    if usage == Usage():
        return {}
    counts: dict[str, Any] = {
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }
    if reasoning_tokens is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": reasoning_tokens}
    return counts


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Annotated[int, Meta(ge=0)] | None = None


class _Usage(msgspec.Struct):
    output_tokens_details: _OutputDetails | None = None


_BLOCK = msgspec.json.Decoder(Block)
_USAGE = msgspec.json.Decoder(_Usage)


def _reasoning_detail(block: Block) -> dict[str, Any] | None:
    if block.type == "redacted_thinking":
        return encrypted_reasoning(block.data)
    if block.type == "thinking" and block.signature:
        return signed_reasoning(block.thinking, block.signature)
    return None
