"""The parts of a Messages answer, made of those of a Chat Completions answer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from server.protocols.meter import Usage
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_answers import Choice, string
from server.protocols.translation.idents import to_safe

STOP_REASON: Mapping[str, str] = MappingProxyType(
    {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "function_call": "tool_use",
        "content_filter": "refusal",
    }
)


class Stop(NamedTuple):
    """Why an answer ended."""

    reason: str
    sequence: str | None = None


def stop(choice: Choice, *, has_calls: bool, has_refused: bool) -> Stop:
    """Tell why the answer ended; many servers say `stop` behind tool calls."""
    reason = STOP_REASON.get(string(choice.finish_reason), "end_turn")
    if reason == "max_tokens":
        return Stop(reason)
    if has_refused or reason == "refusal":
        return Stop("refusal")
    if has_calls:
        return Stop("tool_use")
    if reason == "end_turn" and (sequence := string(choice.stop_reason)):
        return Stop("stop_sequence", sequence)
    return Stop("end_turn")


def usage(counted: Usage, told: Raw, *, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Give the usage as a Messages client reads it; the two estimates stand in for no count."""
    counts: dict[str, Any] = {
        "input_tokens": input_tokens if counted.input_tokens is None else counted.input_tokens,
        "cache_creation_input_tokens": counted.cache_write_tokens,
        "cache_read_input_tokens": counted.cache_read_input_tokens or 0,
        "output_tokens": output_tokens if counted.output_tokens is None else counted.output_tokens,
    }
    thinking = _reasoning_tokens(told)
    if thinking is not None and 0 <= thinking <= counts["output_tokens"]:
        counts["output_tokens_details"] = {"thinking_tokens": thinking}
    return counts


def message(context: Context, **members: object) -> dict[str, Any]:
    """Give the answer, or its beginning, with `members` in it."""
    return {
        "id": f"msg_{context.ident}",
        "type": "message",
        "role": "assistant",
        "model": context.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        **members,
    }


class Idents:
    """Ids of tool calls that are safe, and unique in their answer."""

    def __init__(self, context: Context) -> None:
        self._stem = f"toolu_{context.ident}"
        self._given: set[str] = set()

    def unique(self, ident: str) -> str:
        """Give `ident` in its safe form, or a made one where it is empty or was given before."""
        safe = to_safe(ident)
        if not ident or safe in self._given:
            safe = f"{self._stem}_{len(self._given)}"
        self._given.add(safe)
        return safe


class _OutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class _Told(msgspec.Struct):
    completion_tokens_details: _OutputDetails = _OutputDetails()


_TOLD = msgspec.json.Decoder(_Told)


def _reasoning_tokens(told: Raw) -> int | None:
    try:
        return _TOLD.decode(told).completion_tokens_details.reasoning_tokens
    except (ValueError, RecursionError):
        return None
