"""Keep out of a stream what is no event of its protocol: a proxy's error page, stray lines."""

import re
from collections.abc import Iterator

import msgspec
from msgspec import Raw

from server.protocols import Protocol, envelopes, sse
from server.protocols.by_protocol import METER

DONE = b"data: [DONE]\n\n"


def screen(events: bytes, protocol: Protocol) -> bytes:
    """Give whole `events` without lines that are no field and data that is no JSON object.

    Comments stay, and so does every sound event, byte for byte. What vendors send is told by
    counting: an event of theirs has a fixed number of lines, each begins and ends as expected,
    and any other line upsets the sum. Only then is each line looked at.
    """
    return events if _is_regular(events, protocol) else screen_lines(events, protocol)


def screen_lines(events: bytes, protocol: Protocol) -> bytes:
    """Do what `screen` does, without its short cut: for bytes that may be a torn event."""
    kept: list[bytes] = []
    for piece, end in _pieces(events):
        if sound := _sound(piece, protocol):
            kept += (sound, end)
    return b"".join(kept)


def up_to_end(events: bytes, protocol: Protocol) -> bytes:
    """Give `events` up to their first terminal or error event; secrets in an error are masked."""
    meter = METER[protocol]()
    kept: list[bytes] = []
    for piece, end in _pieces(events):
        meter.feed(piece + end)
        if meter.error is not None:
            return b"".join((*kept, envelopes.redacted(piece), end))
        kept += (piece, end)
        if meter.finished:
            break
    return b"".join(kept)


def _pieces(events: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Cut whole events apart, each with the blank line that ended it.

    An LF alone, the late half of a CRLF, comes last and without one.
    """
    parts = _BLANK_LINES.split(events)
    return zip(parts[::2], [*parts[1::2], b""], strict=True)


def _is_regular(events: bytes, protocol: Protocol) -> bool:
    if protocol is Protocol.ANTHROPIC:
        count = events.count(b"}\n\nevent: ") + 1
        return (
            events.startswith(b"event: ")
            and events.endswith(b"}\n\n")
            and events.count(b"\ndata: {") == count
            and events.count(b"\n") == 3 * count
            and b"\r" not in events
        )
    events = events.removesuffix(DONE)
    count = events.count(b"}\n\ndata: {") + 1
    return not events or (
        events.startswith(b"data: {")
        and events.endswith(b"}\n\n")
        and events.count(b"\n") == 2 * count
        and b"\r" not in events
    )


def _sound(piece: bytes, protocol: Protocol) -> bytes:
    lines = _LINE_END.split(piece.removeprefix(_BOM))
    known = [line for line in lines if line.partition(b":")[0] in _FIELDS]
    if len(known) < len(lines):
        piece = b"\n".join(known)
    _, data = sse.fields(piece)
    if data:
        is_last = data == b"[DONE]" and protocol is Protocol.OPENAI
        return piece if is_last or _is_object(data) else b""
    # Without data it is no event; clients take `retry: 1` alone for one, and stumble.
    return piece if all(line[:1] in b":" for line in known) else b""


def _is_object(data: bytes) -> bool:
    try:
        _OBJECT.decode(data)
    except (ValueError, RecursionError):
        return False
    return True


_BOM = b"\xef\xbb\xbf"
_FIELDS = frozenset({b"event", b"data", b"id", b"retry", b""})
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BLANK_LINES = re.compile(rb"((?:\r\n|\n|\r(?!\n)){2,})")
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
