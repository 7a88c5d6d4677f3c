"""Input tokens of a request, estimated without a tokenizer.

For count_tokens and for holds. Errs upward: a count that is too low makes a coding tool compact
too late, and a hold too small. The constants are rules of thumb from the vendors' pages, not
yet fitted to real counts.
"""

import base64
import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw

from server.protocols.images import HEAD_BYTES, pixel_size

TOKENS_PER_REQUEST = 8
TOOL_USE_PREAMBLE_TOKENS = 350  # what the provider itself says to a model about its tools
BYTES_PER_WORDY_TOKEN = 3
BYTES_PER_DENSE_TOKEN = 2
DENSE_BELOW_ONE_SPACE_IN_BYTES = 40

PIXELS_PER_TOKEN = 750
MIN_IMAGE_TOKENS = 85
MAX_IMAGE_TOKENS = 4800
UNSEEN_IMAGE_TOKENS = 1600

DOCUMENT_BYTES_PER_TOKEN = 20  # a page: 50 to 100 KB, 1,500 to 3,000 tokens and its image
MIN_DOCUMENT_TOKENS = 3000
MAX_DOCUMENT_TOKENS = 500_000  # about 100 pages, the most a request may carry
AUDIO_BYTES_PER_TOKEN = 400  # ten tokens a second, at 32 kbit/s


def estimate_messages(fields: Mapping[str, Raw]) -> int:
    """Estimate the input tokens of a Messages request from its split body."""
    tokens = _request_tokens(fields, ("system", "tools", "tool_choice", "output_config"))
    return tokens + (TOOL_USE_PREAMBLE_TOKENS if "tools" in fields else 0)


def estimate_chat(fields: Mapping[str, Raw]) -> int:
    """Estimate the input tokens of a Chat Completions request from its split body."""
    return _request_tokens(fields, ("tools", "tool_choice", "functions", "response_format"))


def estimate_text(text: str) -> int:
    """Estimate the tokens of plain text, a preset's for instance."""
    return _text_tokens(text.encode("utf-8", "surrogatepass"))


class _Turn(msgspec.Struct):
    content: Raw = Raw(b"")


class _Part(msgspec.Struct):
    """What a content part, of either protocol, may hold besides text."""

    type: str = ""
    content: Raw = Raw(b"")  # Messages: tool_result
    source: Raw = Raw(b"")  # Messages: image, document
    image_url: Raw = Raw(b"")  # Chat
    file: Raw = Raw(b"")  # Chat
    input_audio: Raw = Raw(b"")  # Chat


class _Source(msgspec.Struct):
    """Where the bytes are: a part's `source`, `image_url`, `file` or `input_audio`."""

    type: str = ""
    data: str = ""
    url: str = ""
    file_data: str = ""
    content: Raw = Raw(b"")


_TURNS = msgspec.json.Decoder(list[_Turn])
_PARTS = msgspec.json.Decoder(list[_Part])
_SOURCE = msgspec.json.Decoder(_Source)
_MEDIA_NAME = re.compile(rb'"(?:source|image_url|file|input_audio)"')
_ASCII = bytes(range(128))


def _request_tokens(fields: Mapping[str, Raw], names: tuple[str, ...]) -> int:
    texts = [bytes(fields[name]) for name in names if name in fields]
    messages = bytes(fields.get("messages", b""))
    media = list(_media_of_turns(messages))
    # Base64 is ASCII without spaces, so its length is all that the text has to give up.
    tokens = _text_tokens(messages, without_bytes=sum(size for size, _ in media))
    return TOKENS_PER_REQUEST + sum(map(_text_tokens, texts), tokens) + sum(t for _, t in media)


def _text_tokens(raw: bytes, *, without_bytes: int = 0) -> int:
    """Estimate text, JSON punctuation and escapes included.

    Prose and indented code hold spaces and take about one token for three bytes; minified
    JSON, hexadecimal digits and base64 hardly do, and take more. Beyond ASCII it is one token
    for two bytes of UTF-8, so up to two for a Chinese character.
    """
    size = len(raw) - without_bytes
    is_dense = raw.count(b" ") * DENSE_BELOW_ONE_SPACE_IN_BYTES < size
    per_token = BYTES_PER_DENSE_TOKEN if is_dense else BYTES_PER_WORDY_TOKEN
    beyond = 0 if raw.isascii() else len(raw.translate(None, _ASCII))
    return -(-(size - beyond) // per_token) + -(-beyond // BYTES_PER_DENSE_TOKEN)


def _media_of_turns(messages: bytes) -> Iterator[tuple[int, int]]:
    """Give (bytes of base64, tokens) for each image, document and recording."""
    if _MEDIA_NAME.search(messages) is None:
        return
    try:
        turns = _TURNS.decode(messages)
    except ValueError:
        return  # not for us to refuse; it counts as text
    for turn in turns:
        yield from _media_of_parts(turn.content)


def _media_of_parts(content: Raw, levels: int = 3) -> Iterator[tuple[int, int]]:
    """Look through content parts, and into a tool's result or a document, no deeper.

    Each level is read anew: without the limit a body nested on purpose would take seconds.
    """
    if not levels or not content or memoryview(content)[0] != ord("["):
        return
    try:
        parts = _PARTS.decode(content)
    except ValueError:
        return
    for part in parts:
        if part.type == "tool_result":
            yield from _media_of_parts(part.content, levels - 1)
        elif part.type in ("image", "image_url"):
            yield from _image(part.source or part.image_url)
        elif part.type in ("document", "file"):
            yield from _document(part.source or part.file, levels)
        elif part.type == "input_audio":
            payload = _payload(_source(part.input_audio))
            yield len(payload), len(payload) // AUDIO_BYTES_PER_TOKEN + 1


def _image(raw: Raw) -> Iterator[tuple[int, int]]:
    payload = _payload(_source(raw))
    try:
        size = pixel_size(base64.b64decode(payload[: HEAD_BYTES // 3 * 4]))
    except ValueError:
        size = None
    if size is None:
        yield len(payload), UNSEEN_IMAGE_TOKENS
    else:
        tokens = -(-size[0] * size[1] // PIXELS_PER_TOKEN)
        yield len(payload), min(max(tokens, MIN_IMAGE_TOKENS), MAX_IMAGE_TOKENS)


def _document(raw: Raw, levels: int) -> Iterator[tuple[int, int]]:
    source = _source(raw)
    if source.type == "content":
        yield from _media_of_parts(source.content, levels - 1)
    elif source.type != "text":
        payload = _payload(source)
        tokens = len(payload) // DOCUMENT_BYTES_PER_TOKEN
        yield len(payload), min(max(tokens, MIN_DOCUMENT_TOKENS), MAX_DOCUMENT_TOKENS)


def _source(raw: Raw) -> _Source:
    try:
        return _SOURCE.decode(raw)
    except ValueError:
        return _Source()


def _payload(source: _Source) -> str:
    """Give the base64 itself; what stands behind an address is not ours to fetch."""
    for address in (source.url, source.file_data):
        if address.startswith("data:"):
            return address.partition(",")[2]
    return source.data or source.file_data
