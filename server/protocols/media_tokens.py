"""What images, documents and recordings cost, by each vendor's own rule.

Messages: an image costs a token for 750 pixels, at most 4,784 of them (vision page, 2026-11; the
newest models round up to whole patches of 28 by 28 pixels, 784, which is less but for slivers).
Chat: 85 tokens, and 170 more for each tile of 512 by 512 once the image fits into 2,048 by 2,048
and its shorter side into 768; 85 alone with `detail: low` (images page, 2026-11; the smaller
models count patches and come out lower for usual sizes).
"""

import base64

import msgspec
from msgspec import Raw

from server.protocols.images import HEAD_BYTES, pixel_size

PIXELS_PER_TOKEN = 750
MAX_IMAGE_TOKENS = 4784
MIN_IMAGE_TOKENS = 85
UNSEEN_IMAGE_TOKENS = 1600  # what models up to Opus 4.6 take for any large one

TILE = 512
LONG_SIDE = 2048
SHORT_SIDE = 768
TOKENS_PER_TILE = 170
LOW_DETAIL_TOKENS = 85
UNSEEN_TILED_TOKENS = 85 + 170 * 8  # the largest there is

DOCUMENT_BYTES_PER_TOKEN = 20  # a page: 50 to 100 KB, 1,500 to 3,000 tokens and its image
MIN_DOCUMENT_TOKENS = 3000
MAX_DOCUMENT_TOKENS = 500_000  # about 100 pages, the most a request may carry
AUDIO_BYTES_PER_TOKEN = 400  # ten tokens a second, at 32 kbit/s


class Source(msgspec.Struct):
    """Where the bytes are: a part's `source`, `image_url`, `file` or `input_audio`."""

    type: str = ""
    data: str = ""
    url: str = ""
    file_data: str = ""
    detail: str = ""
    content: Raw = Raw(b"")


def source_of(raw: Raw) -> Source:
    """Read a source; an odd one is as good as an empty one."""
    try:
        return _SOURCE.decode(raw)
    except ValueError:
        return Source()


def image_tokens(source: Source) -> int:
    """Count an image of a Messages request."""
    size = _size(source)
    if size is None:
        return UNSEEN_IMAGE_TOKENS
    return min(max(-(-size[0] * size[1] // PIXELS_PER_TOKEN), MIN_IMAGE_TOKENS), MAX_IMAGE_TOKENS)


def tiled_image_tokens(source: Source) -> int:
    """Count an image of a Chat Completions request."""
    if source.detail == "low":
        return LOW_DETAIL_TOKENS
    size = _size(source)
    if size is None:
        return UNSEEN_TILED_TOKENS
    scale = min(1.0, LONG_SIDE / max(size), SHORT_SIDE / min(size))
    tiles = [max(1, -(-round(side * scale) // TILE)) for side in size]
    return LOW_DETAIL_TOKENS + TOKENS_PER_TILE * min(tiles[0] * tiles[1], 8)


def document_tokens(source: Source) -> int:
    """Count a document by its bytes, a PDF above all."""
    tokens = len(_payload(source)) // DOCUMENT_BYTES_PER_TOKEN
    return min(max(tokens, MIN_DOCUMENT_TOKENS), MAX_DOCUMENT_TOKENS)


def audio_tokens(source: Source) -> int:
    """Count a recording by its bytes."""
    return len(_payload(source)) // AUDIO_BYTES_PER_TOKEN + 1


_SOURCE = msgspec.json.Decoder(Source)


def _size(source: Source) -> tuple[int, int] | None:
    try:
        return pixel_size(base64.b64decode(_payload(source)[: HEAD_BYTES // 3 * 4]))
    except ValueError:
        return None


def _payload(source: Source) -> str:
    """Give the base64 itself; what stands behind an address is not ours to fetch."""
    for address in (source.url, source.file_data):
        if address.startswith("data:"):
            return address.partition(",")[2]
    return source.data or source.file_data
