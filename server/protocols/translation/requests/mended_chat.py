"""A Chat request for a Chat upstream, rid of what that server refuses.

    Chat                                 what leaves
    cache_control, wherever it may be    nothing, unless the server knows it (`cache_control`)
    reasoning_content, reasoning,        the server's `reasoning_field`; nothing where it has none
      reasoning_details of a turn
    a turn without any                   an empty one, where the server has `reasoning_required`

A session may have had another upstream before, and Responses requests bring what ours has sealed.
"""

from collections.abc import Mapping
from itertools import groupby

import msgspec
from msgspec import Raw, Struct

from server.protocols.body import join
from server.protocols.compat import Compat
from server.protocols.translation.json_text import NULL, array, is_null, joined, read

DETAILS = "reasoning_details"
PLAIN = ("reasoning_content", "reasoning")


def mended(fields: Mapping[str, Raw], compat: Compat, *, is_own: bool = False) -> dict[str, Raw]:
    """Give the members as the server takes them; `is_own`: the request was made here.

    What needs no mending keeps its bytes; a request without a trace is not even read.

    Raises:
        InvalidRequest: something that has to be mended cannot be read.
    """
    made, mending = dict(fields), _Mending(compat, is_own=is_own)
    if not compat.cache_control:
        made.pop(_CACHE_CONTROL, None)
        if _MARK in bytes(fields.get("tools", b"")):
            tools = read(fields["tools"], _ITEMS, "tools")
            made["tools"] = Raw(array([_without_mark(tool, "tools") for tool in tools]))
    if mending.is_due(bytes(fields["messages"])):
        messages = read(fields["messages"], _ITEMS, "messages")
        made["messages"] = Raw(array([mending.message(raw) for raw in messages]))
    return made


class _Mending:
    """What is to be done to the messages of one request."""

    def __init__(self, compat: Compat, *, is_own: bool) -> None:
        self._field = compat.reasoning_field
        self._is_required = compat.reasoning_required
        self._unmarks = not compat.cache_control
        # OpenRouter, whose invention the details are, reads the other two as well.
        is_any_fit = self._field == DETAILS or (compat.reasoning_as_sent and not is_own)
        self._moves_reasoning = not is_any_fit

    def is_due(self, written: bytes) -> bool:
        """Tell whether something may have to be mended; a look inside tells."""
        if self._unmarks and _MARK in written:
            return True
        return self._moves_reasoning and (self._is_required or _REASONING in written)

    def message(self, raw: Raw) -> bytes:
        written = bytes(raw)
        if not (written.startswith(b"{") and self.is_due(written)):
            return written
        given = read(raw, _MEMBERS, "messages")
        made = _unmarked(given) if self._unmarks else given
        if self._moves_reasoning and given.get("role") == _ASSISTANT:
            made = self._with_reasoning(made)
        return written if made == given else join(made)

    def _with_reasoning(self, message: Mapping[str, Raw]) -> dict[str, Raw]:
        """Give a turn with its reasoning in the one member that the server has for it."""
        field = self._field
        made = {name: value for name, value in message.items() if name not in (*PLAIN, DETAILS)}
        if field is None:
            return made
        said = _reasoning((field, *PLAIN), message)
        if said == _EMPTY and not (self._is_required or field in message):
            return made
        # In its place, if it has one: a turn that needs no mending keeps its bytes.
        made = {name: message[name] for name in message if name in made or name == field}
        return {**made, field: Raw(said)}


class _Detail(Struct):
    type: str | None = None
    text: Raw = NULL
    summary: Raw = NULL
    index: int | None = None


_ITEMS = msgspec.json.Decoder(list[Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_DETAILS = msgspec.json.Decoder(list[_Detail])
_CACHE_CONTROL = "cache_control"
_MARK = b'"cache_control"'
_REASONING = b'"reasoning'
_ASSISTANT = Raw(b'"assistant"')
_EMPTY = b'""'


def _unmarked(message: Mapping[str, Raw]) -> dict[str, Raw]:
    made = {name: value for name, value in message.items() if name != _CACHE_CONTROL}
    content = bytes(made.get("content", NULL))
    if content.startswith(b"[") and _MARK in content:
        parts = read(made["content"], _ITEMS, "messages")
        made["content"] = Raw(array([_without_mark(part, "messages") for part in parts]))
    return made


def _without_mark(raw: Raw, name: str) -> bytes:
    """Give a part or a tool without its own mark; a schema may have a member of that name."""
    written = bytes(raw)
    if _MARK not in written or not written.startswith(b"{"):
        return written
    members = read(raw, _MEMBERS, name)
    return join(members) if members.pop(_CACHE_CONTROL, None) is not None else written


def _reasoning(names: tuple[str, ...], message: Mapping[str, Raw]) -> bytes:
    """Find a turn's reasoning, as a written string."""
    for name in names:
        written = bytes(message.get(name, NULL))
        if written.startswith(b'"') and written != _EMPTY:
            return written
    texts = [
        joined([text for each in run for text in _texts(each)] or [_EMPTY], b"")
        for _, run in groupby(_details(message.get(DETAILS, NULL)), _index)
    ]
    return joined([text for text in texts if text != _EMPTY] or [_EMPTY], rb"\n\n")


def _details(raw: Raw) -> list[_Detail]:
    try:
        return [] if is_null(raw) else _DETAILS.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return []  # an extension of others, in a shape that nobody here knows


def _index(detail: _Detail) -> int | None:
    return detail.index


def _texts(detail: _Detail) -> list[bytes]:
    """Give what a detail says; a fragment of a stream may stand alone, and encrypted ones mute."""
    told = (bytes(detail.text), bytes(detail.summary))
    return [text for text in told if text.startswith(b'"')]
