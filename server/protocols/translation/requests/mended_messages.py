"""A Messages request for an Anthropic upstream, rid of what another upstream left in its history.

A session may change its upstream from turn to turn. Thinking that a Chat server streamed has no
signature, and the Messages API refuses it, as it does ids of some servers' tool calls: what no id
may hold, and the ids of servers that begin anew with `call_0` in every turn.
"""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from server.protocols.body import join
from server.protocols.translation.idents import to_safe
from server.protocols.translation.json_text import NULL, array, is_null, quoted, read


def mended(fields: Mapping[str, Raw]) -> Mapping[str, Raw]:
    """Give the members without unsigned thinking, and with ids that the Messages API takes.

    What a message becomes depends on those before it alone, so a cached prefix stays as it is.

    What needs no mending keeps its bytes; a history without a trace is not even read.

    Raises:
        InvalidRequest: a message that has to be mended cannot be read.
    """
    messages = fields["messages"]
    answered = _ANSWERED.findall(messages)
    has_repeats = len(set(answered)) < len(answered)
    is_unsafe = _UNSAFE_BYTE.search(b"".join(answered)) is not None
    if not (has_repeats or is_unsafe or _UNSIGNED.search(messages)):
        return fields
    mending = _Mending(has_repeats=has_repeats)
    kept = [mending.message(raw) for raw in read(messages, _ITEMS, "messages")]
    return {**fields, "messages": Raw(array([raw for raw in kept if raw is not None]))}


class _Block(msgspec.Struct):
    type: str
    signature: Raw = NULL
    id: str | None = None
    tool_use_id: str | None = None


_ITEMS = msgspec.json.Decoder(list[Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_BLOCK = msgspec.json.Decoder(_Block)
_ARRAY = ord("[")

# No quotation mark in front: a search for one stops at each, and takes eight times as long. Ids of
# calls are looked for in their results, for a call without one is refused anyway.
_ANSWERED = re.compile(rb'tool_use_id"\s*:\s*"([^"]*)"')
_UNSIGNED = re.compile(rb'signature"\s*:\s*(?:""|null)')
_UNSAFE_BYTE = re.compile(rb"[^A-Za-z0-9_-]")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

# What may be an unsigned thought, or an id that the Messages API refuses; a look inside tells.
_TRACE = re.compile(
    rb'"(?:signature"\s*:\s*(?:""|null)|(?:tool_use_)?id"\s*:\s*"[A-Za-z0-9_-]*[^A-Za-z0-9_"-])'
)


class _Mending:
    """Mends the messages of one request, in their order."""

    def __init__(self, *, has_repeats: bool) -> None:
        self._has_repeats = has_repeats
        self._own: dict[str, str] = {}  # of each id that the client knows, the newest of ours
        self._given: dict[str, int] = {}  # and how often one was made of it

    def message(self, raw: Raw) -> bytes | None:
        """Mend one message; None where nothing of it is left."""
        if not self._has_repeats and _TRACE.search(raw) is None:
            return bytes(raw)
        members = read(raw, _MEMBERS, "messages")
        content = members.get("content", NULL)
        if memoryview(content)[0] != _ARRAY:
            return bytes(raw)
        blocks = read(content, _ITEMS, "messages")
        kept = [block for block in map(self._block, blocks) if block is not None]
        if kept == [bytes(block) for block in blocks]:
            return bytes(raw)
        return join({**members, "content": array(kept)}) if kept else None

    def _block(self, raw: Raw) -> bytes | None:
        """Mend one content block; None for unsigned thinking."""
        block = read(raw, _BLOCK, "messages")
        if block.type == "thinking" and (
            is_null(block.signature) or bytes(block.signature) == b'""'
        ):
            return None
        called = None if block.id is None else self._called(block)
        answered = block.tool_use_id
        if answered is not None:
            answered = self._own.get(answered, _safe(answered))
        if (called, answered) == (block.id, block.tool_use_id):
            return bytes(raw)
        own = {
            name: quoted(ident)
            for name, ident in (("id", called), ("tool_use_id", answered))
            if ident is not None
        }
        members = read(raw, _MEMBERS, "messages")
        return join({**members, **own})

    def _called(self, block: _Block) -> str:
        """Give a call its id: a safe one, that no call before it has."""
        ident = block.id or ""
        safe = own = _safe(ident)
        if block.type != "tool_use":
            return safe
        while own in self._given:
            self._given[safe] += 1
            own = f"{safe}_{self._given[safe]}"
        self._given[own] = 1
        self._own[ident] = own
        return own


def _safe(ident: str) -> str:
    return to_safe(ident) if _UNSAFE.search(ident) else ident
