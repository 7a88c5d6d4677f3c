"""The output of one response, item by item, as a Chat answer says it.

Items are serial. What belongs to a later one waits while a tool call is open whose arguments
are not whole: a Chat stream may mix the fragments of several calls.
"""

from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from server.protocols.translation import Context
from server.protocols.translation.answers import chat_answers
from server.protocols.translation.answers.chat_answers import Said, ToolCall
from server.protocols.translation.answers.responses_calls import Call
from server.protocols.translation.answers.responses_items import (
    Events,
    Item,
    Message,
    Reasoning,
    Refusal,
    is_signed,
)
from server.protocols.translation.requests.responses_to_chat import ResponsesAsked

Kind = TypeVar("Kind", bound=Item)


class Output:
    """Grows with what a Chat answer says; `events` tell of it."""

    def __init__(self, context: Context, asked: ResponsesAsked) -> None:
        self.events = Events()
        self._ident, self._tools = context.ident, asked.tools
        self._done: list[dict[str, Any]] = []
        self._queue: list[Item] = []  # the first is open, or waits for its name
        self._calls: dict[int | bytes, Call] = {}
        self._call_ids: set[str] = set()
        self._thinks_in = ""  # the member that reasoning comes in

    def take(self, said: Said) -> None:
        """Take a message, or the delta of one."""
        heard = chat_answers.heard(said)
        for field, words in heard.thoughts.items():
            self._thinks_in = self._thinks_in or field
            if field == self._thinks_in:  # some servers say the same in two
                self._newest(Reasoning).grow(words)
        if heard.details:
            self._take_details(said.reasoning_details)
        if heard.text:
            self._newest(Message).grow(heard.text)
        if heard.refusal:
            self._newest(Refusal).grow(heard.refusal)
        for place, call in enumerate(chat_answers.calls(said)):
            self._take_call(place if chat_answers.is_null(call.index) else bytes(call.index), call)
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

    def _newest(self, kind: type[Kind]) -> Kind:
        """Give the item that came last if it is of that kind, or else a new one."""
        last = self._queue[-1] if self._queue else None
        if isinstance(last, kind):
            return last
        item = kind(self.events)
        self._queue.append(item)
        return item

    def _take_details(self, raw: Raw) -> None:
        try:
            details = _DETAILS.decode(raw)
        except (ValueError, RecursionError):
            return
        for detail in details:
            # One that is neither signed nor part of what is thought just now says nothing.
            if is_signed(detail) or (self._queue and isinstance(self._queue[-1], Reasoning)):
                self._newest(Reasoning).add_detail(detail)

    def _take_call(self, index: int | bytes, said: ToolCall) -> None:
        ident, name = said.ident, said.name
        call = self._calls.get(index)
        # Some providers give every call the same index, each with an id of its own.
        is_other = call is not None and name and ident not in ("", call.call_id) and call.call_id
        if call is None or is_other:
            call = self._calls[index] = Call(self.events, self._tools)
            self._queue.append(call)
        if not call.call_id and ident not in self._call_ids:  # two calls never share an id
            call.call_id = ident
            self._call_ids.add(ident)
        call.name(name)
        if not call.is_closed and (fragment := said.arguments):
            call.grow(msgspec.json.encode(fragment)[1:-1])

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


_DETAILS = msgspec.json.Decoder(list[dict[str, Any]])
