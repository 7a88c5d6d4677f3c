"""The events of a Messages stream: content blocks, one after the other."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from server.protocols.meter import BYTES_PER_TOKEN

Kind = Literal["text", "thinking", "tool_use"]

_NEW: Mapping[Kind, dict[str, object]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
    "tool_use": {"type": "tool_use"},
}
_DELTA: Mapping[Kind, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "tool_use": (b"input_json_delta", b"partial_json"),
}
_DELTA_HEAD = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":"'
)
_DELTA_TAIL = b'"}}\n\n'


class SerialBlocks:
    """Writes events; at most one block is open, and `kind` tells of which kind it is."""

    def __init__(self) -> None:
        self.kind: Kind | None = None
        self._events: list[bytes] = []
        self._index = 0
        self._head = b""
        self._signature = b""
        self._bytes = 0

    @property
    def estimated_tokens(self) -> int:
        """Guess the tokens of all that the deltas carried."""
        return max(1, self._bytes // BYTES_PER_TOKEN)

    def drain(self) -> bytes:
        """Give the events written since the last call."""
        events = b"".join(self._events)
        self._events.clear()
        return events

    def event(self, kind: str, **members: object) -> None:
        """Write any event."""
        data = msgspec.json.encode({"type": kind, **members})
        self._events.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def open(self, kind: Kind, **members: object) -> None:
        """Begin a block, behind the end of the one that is open."""
        self.close()
        self.event("content_block_start", index=self._index, content_block=_NEW[kind] | members)
        self.kind = kind
        self._head = _DELTA_HEAD % (self._index, *_DELTA[kind])

    def delta(self, escaped: bytes) -> None:
        """Add to the open block; the text stands as it does between the quotes of JSON."""
        self._bytes += len(escaped)
        self._events.append(self._head + escaped + _DELTA_TAIL)

    def sign(self, escaped: bytes) -> None:
        """End the open block with its signature, if it is one of thinking."""
        if self.kind == "thinking":
            self._signature = escaped
            self.close()

    def close(self) -> None:
        """End the block that is open, if any is."""
        if self.kind is None:
            return
        if self.kind == "thinking":
            head = _DELTA_HEAD % (self._index, b"signature_delta", b"signature")
            self._events.append(head + self._signature + _DELTA_TAIL)
            self._signature = b""
        self.event("content_block_stop", index=self._index)
        self.kind = None
        self._index += 1

    def redacted(self, data: str) -> None:
        """Write a whole block of thinking that nobody can read."""
        self.close()
        block = {"type": "redacted_thinking", "data": data}
        self.event("content_block_start", index=self._index, content_block=block)
        self.event("content_block_stop", index=self._index)
        self._index += 1
