"""A Messages request for an Anthropic upstream, rid of what another upstream left in its history.

A session may change its upstream from turn to turn. Thinking that a Chat server streamed has no
signature, and the Messages API refuses it, as it does ids of some servers' tool calls.
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

    What needs no mending keeps its bytes; a history without a trace is not even read.

    Raises:
        InvalidRequest: a message that has to be mended cannot be read.
    """
    messages = fields["messages"]
    if _TRACE.search(messages) is None:
        return fields
    kept = [_message(raw) for raw in read(messages, _ITEMS, "messages")]
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

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")

# What may be an unsigned thought, or an id that the Messages API refuses; a look inside tells.
_TRACE = re.compile(
    rb'"(?:signature"\s*:\s*(?:""|null)|(?:tool_use_)?id"\s*:\s*"[A-Za-z0-9_-]*[^A-Za-z0-9_"-])'
)


def _message(raw: Raw) -> bytes | None:
    """Mend one message; None where nothing of it is left."""
    if _TRACE.search(raw) is None:
        return bytes(raw)
    members = read(raw, _MEMBERS, "messages")
    content = members.get("content", NULL)
    if memoryview(content)[0] != _ARRAY:
        return bytes(raw)
    blocks = read(content, _ITEMS, "messages")
    kept = [block for block in map(_block, blocks) if block is not None]
    if kept == [bytes(block) for block in blocks]:
        return bytes(raw)
    return join({**members, "content": array(kept)}) if kept else None


def _block(raw: Raw) -> bytes | None:
    """Mend one content block; None for unsigned thinking."""
    block = read(raw, _BLOCK, "messages")
    if block.type == "thinking" and (is_null(block.signature) or bytes(block.signature) == b'""'):
        return None
    unsafe = {
        name: quoted(to_safe(ident))
        for name, ident in (("id", block.id), ("tool_use_id", block.tool_use_id))
        if ident is not None and _UNSAFE.search(ident)
    }
    if not unsafe:
        return bytes(raw)
    members = read(raw, _MEMBERS, "messages")
    return join({**members, **unsafe})
