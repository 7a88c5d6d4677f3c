"""The output of one response, item by item, as a Chat answer says it.

Items are serial. What belongs to a later one waits while a tool call is open whose arguments
are not whole: a Chat stream may mix the fragments of several calls.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from server.protocols.translation import Context
from server.protocols.translation.responses_calls import Call
from server.protocols.translation.responses_items import Events, Item, Message, Reasoning, Refusal
from server.protocols.translation.responses_to_chat import ResponsesAsked


class Function(Struct):
    """The function of a Chat call, or a fragment of it."""

    name: str | None = None
    arguments: Raw = Raw(b"")


class Called(Struct):
    """A Chat call, or a fragment of it."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Said(Struct):
    """A Chat message, or the delta of one."""

    content: Raw = Raw(b"")
    refusal: Raw = Raw(b"")
    reasoning_content: Raw = Raw(b"")
    reasoning: Raw = Raw(b"")
    reasoning_details: Raw = Raw(b"")
    tool_calls: list[Called] | None = None


class Output:
    """Grows with what a Chat answer says; `events` tell of it."""

    def __init__(self, context: Context, asked: ResponsesAsked) -> None:
        self.events = Events()
        self._ident, self._tools = context.ident, asked.tools
        self._done: list[dict[str, Any]] = []
        self._queue: list[Item] = []  # the first is open, or waits for its name
        self._calls: dict[int, Call] = {}

    def take(self, said: Said) -> None:
        """Take a message, or the delta of one."""
        if text := _text(said.reasoning_content) or _text(said.reasoning):
            self._newest(Reasoning).grow(text)
        if said.reasoning_details:
            self._take_details(said.reasoning_details)
        if text := _text(said.content):
            self._newest(Message).grow(text)
        if text := _text(said.refusal):
            self._newest(Refusal).grow(text)
        for place, call in enumerate(said.tool_calls or ()):
            self._take_call(place if call.index is None else call.index, call)
        if len(self._queue) > 1 or (self._queue and not self._queue[0].is_open):
            self._advance()

    def end(self, *, is_incomplete: bool) -> list[dict[str, Any]]:
        """End what is open or waits; give all items. An incomplete answer broke off in its last."""
        while self._queue:
            item = self._queue[0]
            if isinstance(item, Call) and item.tool is None:
                self._queue.pop(0)  # never named: nobody could answer it
                continue
            is_torn = is_incomplete and len(self._queue) == 1
            is_torn = is_torn and not (isinstance(item, Call) and item.is_whole())
            self._open(item)
            self._close(item, "incomplete" if is_torn else "completed")
        return self._done

    def _newest(self, kind: type[Item]) -> Item:
        if self._queue and type(self._queue[-1]) is kind:
            return self._queue[-1]
        item = kind(self.events)
        self._queue.append(item)
        return item

    def _take_details(self, raw: Raw) -> None:
        try:
            details = _DETAILS.decode(raw) or []
        except (ValueError, RecursionError):
            return
        for detail in details:
            item = self._newest(Reasoning)
            if isinstance(item, Reasoning):
                item.add_detail(detail)

    def _take_call(self, index: int, said: Called) -> None:
        function = said.function or Function()
        call = self._calls.get(index)
        # Some providers give every call the same index, each with an id of its own.
        is_other = call is not None and said.id and function.name and said.id != call.call_id
        if call is None or (is_other and call.call_id):
            call = self._calls[index] = Call(self.events, self._tools)
            self._queue.append(call)
        call.identify(said.id, function.name)
        if not call.is_closed and (fragment := _arguments(function.arguments)):
            call.grow(fragment)

    def _advance(self) -> None:
        while self._queue:
            item = self._queue[0]
            may_end = len(self._queue) > 1 and item.is_whole()
            if may_end or item.is_ready():
                self._open(item)
            if not may_end:
                return
            self._close(item, "completed")

    def _open(self, item: Item) -> None:
        if not item.is_open:
            item.open(self._ident, len(self._done))

    def _close(self, item: Item, status: str) -> None:
        self._done.append(item.close(status))
        self._queue.pop(0)


_DETAILS = msgspec.json.Decoder(list[dict[str, Any]] | None)
_PARTS = msgspec.json.Decoder(list[dict[str, Any]])


def _text(raw: Raw) -> bytes:
    """Give a string without its quotes; of an array of parts, the texts together."""
    text = bytes(raw)
    if text.startswith(b'"'):
        return text[1:-1]
    if not text.startswith(b"["):
        return b""
    try:
        parts = _PARTS.decode(text)
    except (ValueError, RecursionError):
        return b""
    texts = (part.get("text") for part in parts)
    return msgspec.json.encode("".join(each for each in texts if isinstance(each, str)))[1:-1]


def _arguments(raw: Raw) -> bytes:
    """Give arguments without their quotes; some servers send the object itself."""
    text = bytes(raw)
    if text.startswith(b"{"):
        return msgspec.json.encode(text.decode(errors="replace"))[1:-1]
    return text[1:-1] if text.startswith(b'"') else b""
