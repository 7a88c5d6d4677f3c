"""Server-sent events as bytes: where one ends, and what it says."""

import re
from collections.abc import Iterator

from server.errors import UpstreamError

LIMIT_BYTES = 16 * 1024 * 1024


class OversizedEvent(UpstreamError):
    """The provider sent an event without end; what was kept back is over the limit."""


class EventSplitter:
    """Cuts a stream of bytes at the ends of events, however the network cut it.

    Lines end with LF, CRLF or CR and with nothing else: U+2028, U+0085 and VT may stand inside
    a JSON string. Everything returned, then `pending`, is the input byte for byte.
    """

    __slots__ = ("_limit_bytes", "_pending")

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._pending = bytearray()
        self._limit_bytes = limit_bytes

    @property
    def pending(self) -> bytes:
        """The bytes of an event that has not ended yet; not empty at the end means a cut."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> bytes:
        r"""Give all whole events that `data` completes, and keep the rest.

        After an event that ended in `\r`, a late `\n` of its own comes out alone or ahead of
        the next event; either way it reads as an empty line, which means nothing.

        Raises:
            OversizedEvent: more than the limit is kept back.
        """
        kept = self._pending
        if not kept and data.endswith(b"\n\n"):
            return data
        # One byte of overlap finds an end that straddles the cut, and keeps this linear.
        overlap = bytes(kept[-1:])
        end = _last_end(overlap + data) - len(overlap)
        if end > 0:
            whole = bytes(kept) + data[:end]
            self._pending = kept = bytearray(data[end:])
        else:
            whole = b""
            kept += data
        if kept in _LINE_ENDS:
            whole += kept
            kept.clear()
        if len(kept) > self._limit_bytes:
            raise OversizedEvent("The provider sent an event that is too large; try again.")
        return whole


def pieces(block: bytes) -> list[bytes]:
    """Cut whole events apart, without their blank lines; comments count as events here."""
    block = block.lstrip(b"\r\n")  # a line feed that came late, see `EventSplitter.feed`
    if b"\r" in block:
        return [piece for piece in _BLANK_LINES.split(block) if piece]
    return [piece for piece in block.split(b"\n\n") if piece]


def fields(piece: bytes) -> tuple[bytes, bytes]:
    """Read the event name and the data of one event; both are empty for a comment.

    Several `data` lines are joined by LF. A leading byte order mark is passed over.
    """
    name, data = b"", []
    for line in _LINE_END.split(piece.removeprefix(_BOM)):
        key, _, value = line.partition(b":")
        if key == b"data":
            data.append(value.removeprefix(b" "))
        elif key == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(data)


def events(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give (event name, data) of each event in whole events; those without data are no events."""
    for piece in pieces(block):
        name, data = fields(piece)
        if data:
            yield name, data


_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (b"\n", b"\r", b"\r\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BLANK_LINES = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2,}")


def _last_end(data: bytes) -> int:
    r"""Find where the last blank line ends; 0 where there is none.

    Two line ends meet as `\n\n`, `\n\r` or `\r\r`, the latter two perhaps with a `\n` of
    their own behind. `\r\n` alone is one line end.
    """
    end = data.rfind(b"\n\n") + 2
    if b"\r" in data:
        after_cr = max(data.rfind(b"\n\r"), data.rfind(b"\r\r")) + 2
        if after_cr > 1 and data.startswith(b"\n", after_cr):
            after_cr += 1
        end = max(end, after_cr)
    return end if end > 1 else 0
