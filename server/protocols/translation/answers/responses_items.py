"""The output items of a Responses stream: each opens, grows and ends, with its events."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from server.protocols.envelopes import OPENAI_PING
from server.protocols.translation.sealed_thinking import seal


class Events:
    """The events to send now, numbered from 0 on."""

    def __init__(self) -> None:
        self._number = 0
        self._waiting: list[bytes] = []

    def add(self, kind: str, **members: object) -> None:
        """Send an event of that type."""
        event = {"type": kind, "sequence_number": self._number, **members}
        self._waiting.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(event)))
        self._number += 1

    def add_delta(self, head: bytes, fragment: bytes) -> None:
        """Send a delta: its event up to the number, and a JSON string without its quotes."""
        self._waiting.append(b'%b%d,"delta":"%b"}\n\n' % (head, self._number, fragment))
        self._number += 1

    def add_ping(self) -> None:
        """Send a comment, which only keeps the connection alive."""
        self._waiting.append(OPENAI_PING)

    def take(self) -> bytes:
        """Give what is to be sent now."""
        events = b"".join(self._waiting)
        self._waiting.clear()
        return events


class Item:
    """One item of the output, whose events come once it is open.

    `fragments` are its text so far, each a JSON string without its quotes.
    """

    prefix = ""
    delta = ""

    def __init__(self, events: Events) -> None:
        self.fragments: list[bytes] = []
        self.is_open = self.is_closed = self._has_part = False
        self._events = events

    @property
    def text(self) -> Raw:
        """The text so far, as a JSON string."""
        return Raw(b'"%b"' % b"".join(self.fragments))

    def is_whole(self) -> bool:
        """Tell whether the item may end where another one begins."""
        return True

    def is_ready(self) -> bool:
        """Tell whether enough is known to open it."""
        return True

    def open(self, ident: str, index: int) -> None:
        """Begin, as item number `index`, with what has come so far."""
        self.is_open = True
        self._ident, self._index = f"{self.prefix}_{ident}_{index}", index
        self._place = {"item_id": self._ident, "output_index": index, **self._part_place()}
        self._events.add("response.output_item.added", output_index=index, item=self._empty())
        members = _encode({"type": self.delta, **self._place, **self._delta_members()})
        head = b'event: %b\ndata: %b,"sequence_number":'
        self._head = head % (self.delta.encode(), members.removesuffix(b"}"))
        if self.fragments:
            self._tell(b"".join(self.fragments))

    def grow(self, fragment: bytes) -> None:
        """Take more of the text."""
        self.fragments.append(fragment)
        if self.is_open:
            self._tell(fragment)

    def close(self, status: str) -> dict[str, Any]:
        """End; give the item as it stands in the response."""
        if self._has_part:
            self._close_part()
        self.is_closed = True
        item = self._full(status)
        self._events.add("response.output_item.done", output_index=self._index, item=item)
        return item

    def _tell(self, fragment: bytes) -> None:
        if not self._has_part:
            self._has_part = True
            self._open_part()
        self._events.add_delta(self._head, fragment)

    def _say(self, kind: str, **members: object) -> None:
        self._events.add(f"response.{kind}", **self._place, **members)

    def _part_place(self) -> dict[str, Any]:
        return {}

    def _delta_members(self) -> dict[str, Any]:
        return {}

    def _open_part(self) -> None:
        raise NotImplementedError

    def _close_part(self) -> None:
        raise NotImplementedError

    def _empty(self) -> dict[str, Any]:
        raise NotImplementedError

    def _full(self, status: str) -> dict[str, Any]:
        raise NotImplementedError


class Spoken(Item):
    """What the assistant says; one part."""

    prefix = "msg"

    def _part_place(self) -> dict[str, Any]:
        return {"content_index": 0}

    def _open_part(self) -> None:
        self._say("content_part.added", part=self._part(_EMPTY))

    def _close_part(self) -> None:
        self._say("content_part.done", part=self._part(self.text))

    def _empty(self) -> dict[str, Any]:
        return self._item("in_progress", [])

    def _full(self, status: str) -> dict[str, Any]:
        return self._item(status, [self._part(self.text)])

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        item = {"id": self._ident, "type": "message", "status": status, "role": "assistant"}
        return {**item, "content": content}

    def _part(self, text: Raw) -> dict[str, Any]:
        raise NotImplementedError


class Message(Spoken):
    """What the assistant answers."""

    delta = "response.output_text.delta"

    def _delta_members(self) -> dict[str, Any]:
        return {"logprobs": []}

    def _close_part(self) -> None:
        self._say("output_text.done", text=self.text, logprobs=[])
        super()._close_part()

    def _part(self, text: Raw) -> dict[str, Any]:
        return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


class Refusal(Spoken):
    """What the assistant says in place of an answer."""

    delta = "response.refusal.delta"

    def _close_part(self) -> None:
        self._say("refusal.done", refusal=self.text)
        super()._close_part()

    def _part(self, text: Raw) -> dict[str, Any]:
        return {"type": "refusal", "refusal": text}


class Reasoning(Item):
    """What the assistant thinks: a summary to read, and what is signed to hand back unread."""

    prefix, delta = "rs", "response.reasoning_summary_text.delta"

    def __init__(self, events: Events) -> None:
        super().__init__(events)
        self._details: list[dict[str, Any]] = []

    def add_detail(self, detail: dict[str, Any]) -> None:
        """Take a reasoning detail, or a fragment of the one before it."""
        last = self._details[-1] if self._details else {}
        same = all(last.get(name) == detail.get(name) for name in ("type", "index"))
        if not (same and detail.get("type") == "reasoning.text") or last.get("signature"):
            self._details.append(detail)
            return
        text = f"{last.get('text') or ''}{detail.get('text') or ''}"
        last |= {name: value for name, value in detail.items() if value is not None}
        last["text"] = text

    def _part_place(self) -> dict[str, Any]:
        return {"summary_index": 0}

    def _open_part(self) -> None:
        self._say("reasoning_summary_part.added", part=self._part(_EMPTY))

    def _close_part(self) -> None:
        self._say("reasoning_summary_text.done", text=self.text)
        self._say("reasoning_summary_part.done", part=self._part(self.text))

    def _empty(self) -> dict[str, Any]:
        return {"id": self._ident, "type": "reasoning", "status": "in_progress", "summary": []}

    def _full(self, status: str) -> dict[str, Any]:
        summary = [self._part(self.text)] if self.fragments else []
        item = {**self._empty(), "status": status, "summary": summary}
        signed = [each for each in self._details if is_signed(each)]
        return {**item, "encrypted_content": seal(signed)} if signed else item

    def _part(self, text: Raw) -> dict[str, Any]:
        return {"type": "summary_text", "text": text}


def is_signed(detail: Mapping[str, Any]) -> bool:
    """Tell whether a reasoning detail is of use to its provider once it comes back."""
    return bool(detail.get("signature") or detail.get("data"))


_encode = msgspec.json.Encoder().encode
_EMPTY = Raw(b'""')
