"""Put a preset's text into a request without breaking the client's prompt cache.

The text goes last: everything the client sent stays a prefix of what leaves, byte for byte.
All functions take the raw top-level slices of a body and give new ones; neither is changed.
"""

from collections.abc import Iterator, Mapping

import msgspec

from server.presets import splice
from server.presets.load import Preset

MAX_BREAKPOINTS = 4  # what the Messages API accepts (Anthropic, "Prompt caching", 2026-11)

_MARK = "cache_control"
_QUOTED_MARK = b'"cache_control"'
_ATTRIBUTION = b'"x-anthropic-billing-header:'
_NONE = msgspec.Raw(b"null")
_FIVE_MINUTES = b'{"type":"ephemeral"}'
_ONE_HOUR = b'{"type":"ephemeral","ttl":"1h"}'
_SYSTEM_ROLES = (msgspec.Raw(b'"system"'), msgspec.Raw(b'"developer"'))

Fields = Mapping[str, msgspec.Raw]


def should_inject(preset: Preset | None, *, has_tools: bool, wants_schema: bool) -> bool:
    """Tell whether a request gets the preset: not where it asks for JSON of a given schema.

    Those are the tools' own title and summary calls; more instructions only disturb them.
    """
    if preset is None or wants_schema:
        return False
    return has_tools or preset.inject_when.tools == "any"


def apply_messages(fields: Fields, text: str) -> dict[str, msgspec.Raw]:
    """Append `text` to `system` of a Messages body as one block, as its last cached one.

    The last `cache_control` of `system` moves on to the new block, as it is; the client's
    blocks stay the same otherwise. Where `system` has none, one is added if the request has
    fewer than four. A `system` that is no string and no array is left for the upstream to refuse.
    """
    blocks = _system_blocks(fields)
    if blocks is None or not text.strip():
        return dict(fields)
    mark: bytes | msgspec.Raw | None = None
    place = _last_marked(blocks)
    if place is None:
        mark = _new_mark(fields)
    elif not _is_attribution(blocks[place]):
        mark = _mark_of(blocks[place])
        blocks[place] = splice.without(blocks[place], _MARK)
    return {**fields, "system": splice.array([*blocks, _text_block(text, mark)])}


def apply_chat(fields: Fields, text: str) -> dict[str, msgspec.Raw]:
    """Append `text` to the system or developer message that opens a Chat Completions body.

    Where none does, a system message is put first. Messages that are no array, or an empty
    one, and content of a strange type are left for the upstream to refuse.
    """
    messages = splice.items(fields.get("messages", _NONE))
    if not messages or not text.strip():
        return dict(fields)
    head = splice.members(messages[0]) or {}
    if head.get("role", _NONE) in _SYSTEM_ROLES:
        messages[0] = _extended(messages[0], head.get("content", _NONE), text)
    else:
        opening = {"role": "system", "content": text}
        messages.insert(0, msgspec.Raw(msgspec.json.encode(opening)))
    return {**fields, "messages": splice.array(messages)}


def _extended(message: msgspec.Raw, content: msgspec.Raw, text: str) -> msgspec.Raw:
    raw, addition = bytes(content), msgspec.json.encode(text)
    if raw in (b"null", b'""'):
        return splice.replaced(message, "content", addition)
    if raw.startswith(b'"'):
        return splice.replaced(message, "content", raw[:-1] + rb"\n\n" + addition[1:])
    parts = splice.items(content)
    if parts is None:
        return message
    longer = splice.array([*parts, _text_block(text, None)])
    return splice.replaced(message, "content", bytes(longer))


def _system_blocks(fields: Fields) -> list[msgspec.Raw] | None:
    """Give `system` as a list of raw blocks; None when it is of no type that may stand there."""
    system = fields.get("system", _NONE)
    raw = bytes(system)
    if raw in (b"null", b'""'):
        return []
    if raw.startswith(b'"'):
        return [msgspec.Raw(b'{"type":"text","text":' + raw + b"}")]
    return splice.items(system)


def _last_marked(blocks: list[msgspec.Raw]) -> int | None:
    places = reversed(range(len(blocks)))
    return next((place for place in places if _mark_of(blocks[place]) is not None), None)


def _is_attribution(block: msgspec.Raw) -> bool:
    """Tell whether it is Claude Code's attribution, which is only stripped while unchanged.

    Were it changed, its per-version text would stand in front of every cached prefix.
    """
    text = (splice.members(block) or {}).get("text", _NONE)
    return bytes(text).startswith(_ATTRIBUTION)


def _text_block(text: str, mark: bytes | msgspec.Raw | None) -> bytes:
    block = b'{"type":"text","text":' + msgspec.json.encode(text)
    return block + (b"}" if mark is None else b',"cache_control":' + bytes(mark) + b"}")


def _new_mark(fields: Fields) -> bytes | None:
    """Choose the breakpoint to add to a request whose `system` has none; None if it is full.

    One that lasts an hour may not follow one that lasts five minutes, so an hour further on
    in the messages makes this one an hour too.
    """
    messages = bytes(fields.get("messages", b""))
    own = bytes(fields.get(_MARK, b""))
    at_most = messages.count(_QUOTED_MARK) + bytes(fields.get("tools", b"")).count(_QUOTED_MARK)
    if at_most + bool(own) < MAX_BREAKPOINTS and b'"1h"' not in messages and b'"1h"' not in own:
        return _FIVE_MINUTES
    # Only now is the exact count worth its time: the words may stand in a prompt's text.
    later = list(_marks_after_system(fields))
    tools = splice.items(fields.get("tools", _NONE)) or []
    total = len(later) + sum(_mark_of(tool) is not None for tool in tools)
    if total >= MAX_BREAKPOINTS:
        return None
    return _ONE_HOUR if any(map(_lasts_an_hour, later)) else _FIVE_MINUTES


def _marks_after_system(fields: Fields) -> Iterator[msgspec.Raw]:
    for message in splice.items(fields.get("messages", _NONE)) or []:
        for block in _contents(message):
            yield from _marks((block, *_contents(block)))
    # Sent at the top level it marks the last block of the request.
    own = fields.get(_MARK, _NONE)
    if bytes(own) != b"null":
        yield own


def _contents(block: msgspec.Raw) -> list[msgspec.Raw]:
    """List the blocks in `content` of a message or of a tool result."""
    return splice.items((splice.members(block) or {}).get("content", _NONE)) or []


def _marks(blocks: tuple[msgspec.Raw, ...]) -> Iterator[msgspec.Raw]:
    for block in blocks:
        mark = _mark_of(block)
        if mark is not None:
            yield mark


def _mark_of(block: msgspec.Raw) -> msgspec.Raw | None:
    mark = (splice.members(block) or {}).get(_MARK, _NONE)
    return None if bytes(mark) == b"null" else mark


def _lasts_an_hour(mark: msgspec.Raw) -> bool:
    return bytes((splice.members(mark) or {}).get("ttl", _NONE)) == b'"1h"'
