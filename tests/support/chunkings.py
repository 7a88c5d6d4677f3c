"""The same bytes of a stream in every kind of pieces that a network may make of them."""

import re

from support.raw_upstream import EVENTS

LONGEST_S = 0.5  # that the pauses of one stream take together
LINE_ENDS = re.compile(rb"\r\n\r\n|\n\n|\r\r")


def chunkings(stream: bytes) -> dict[str, list[bytes]]:
    """Cut `stream` in each way, by the name of the way; no piece is empty."""
    characters = [at for at, byte in enumerate(stream) if byte & 0xC0 == 0x80]
    line_ends = [at + 1 for at, byte in enumerate(stream) if byte in b"\r\n"]
    return {
        "whole": [stream],
        "by event": cut(stream, [found.end() for found in LINE_ENDS.finditer(stream)]),
        "inside characters": cut(stream, characters),
        "between the line ends": cut(stream, line_ends),
        "inside both": cut(stream, sorted({*characters, *line_ends})),
        "byte by byte": cut(stream, range(len(stream))),
    }


def with_crlf(stream: bytes) -> bytes:
    """Give a stream the other line ends."""
    return stream.replace(b"\n", b"\r\n")


def cut(stream: bytes, places) -> list[bytes]:
    """Cut `stream` before each of `places`, which ascend."""
    ends = [*(place for place in places if 0 < place < len(stream)), len(stream)]
    return [stream[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def paused(pieces: list[bytes], seconds: float | None = None) -> list:
    """Write the script of an upstream that sends a chunk for each piece, and pauses behind it.

    Without the pauses the system glues the pieces together, and a naive reader passes.
    """
    seconds = min(0.003, LONGEST_S / len(pieces)) if seconds is None else seconds
    script = [EVENTS]
    for piece in pieces:
        script += (b"%x\r\n%b\r\n" % (len(piece), piece), seconds)
    return [*script, b"0\r\n\r\n"]
