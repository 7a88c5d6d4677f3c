"""Image sizes, read from the first bytes of a file."""

import re

# Enough for a JPEG's size to turn up behind an EXIF block and a small colour profile.
HEAD_BYTES = 96 * 1024


def pixel_size(head: bytes) -> tuple[int, int] | None:
    """Read width and height from the head of a PNG, GIF, WebP or JPEG; None for all else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        size = _big(head[16:20]), _big(head[20:24])
    elif head.startswith((b"GIF87a", b"GIF89a")):
        size = _little(head[6:8]), _little(head[8:10])
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        size = _webp_size(head)
    elif head.startswith(b"\xff\xd8"):
        size = _jpeg_size(head)
    else:
        return None
    return size if all(size) else None


_JPEG_SIZE_MARKERS = re.compile(rb"[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")
_UNKNOWN = (0, 0)


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Read the size from whichever of WebP's three kinds of first chunk this one has."""
    match head[12:16]:
        case b"VP8X":
            return _little(head[24:27]) + 1, _little(head[27:30]) + 1
        case b"VP8L":
            bits = _little(head[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
        case _:
            return _UNKNOWN


def _jpeg_size(head: bytes) -> tuple[int, int]:
    """Walk the segments to the start of a frame, whichever its coding."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        if _JPEG_SIZE_MARKERS.match(head, at + 1):
            return _big(head[at + 7 : at + 9]), _big(head[at + 5 : at + 7])
        at += 2 + _big(head[at + 2 : at + 4])
    return _UNKNOWN
