"""Content blocks of a Messages request, as parts of a Chat message.

A part is written JSON: a string where it is text, an object where it is an image or a file. It
depends on its block alone and never on `cache_control`, which moves from turn to turn.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Raw

from server.errors import InvalidRequest
from server.protocols.translation.json_text import (
    AT_MOST,
    NULL,
    array,
    is_null,
    joined,
    optional,
    read,
    string,
)


class Block(msgspec.Struct):
    """What a translation reads of a content block, of whatever type."""

    type: str
    text: Raw = NULL
    source: Raw = NULL  # image, document; search_result: a string
    title: Raw = NULL  # document, search_result
    context: Raw = NULL  # document
    content: Raw = NULL  # tool_result, search_result, compaction
    id: str | None = None  # tool_use
    name: str | None = None  # tool_use
    input: Raw = NULL  # tool_use
    tool_use_id: str | None = None  # tool_result
    is_error: bool | None = None  # tool_result
    tool_name: str | None = None  # tool_reference
    thinking: Raw = NULL
    signature: Raw = NULL  # thinking
    data: Raw = NULL  # redacted_thinking


def blocks(content: Raw) -> list[Block]:
    """Read content: an array of blocks, or a string, which is one block of text."""
    if is_null(content):
        return []
    if memoryview(content)[0] == ord('"'):
        return [Block("text", content)]
    return read(content, _BLOCKS, "messages")


def parts(block: Block) -> list[bytes]:
    """Give the parts of one block; none for an empty text.

    Raises:
        InvalidRequest: a Chat server cannot be sent this.
    """
    into_parts = _PARTS.get(block.type)
    if into_parts is None:
        raise InvalidRequest(
            f'A block of type "{block.type}" cannot be sent to this model; leave it out.',
            param="messages",
        )
    return into_parts(block)


def is_text(part: bytes) -> bool:
    """Tell a part that is text from an image or a file."""
    return part.startswith(b'"')


def content(of: Sequence[bytes], *, text_parts: bool) -> bytes:
    """Write parts as a message's `content`: as a string where that can be done.

    `text_parts` tells whether several texts may be an array.
    """
    if (len(of) == 1 or not text_parts) and all(map(is_text, of)):
        return joined(of, rb"\n\n")
    return array([b'{"type":"text","text":%b}' % part if is_text(part) else part for part in of])


def _text(block: Block) -> list[bytes]:
    return optional(block.text, "text")


def _image(block: Block) -> list[bytes]:
    source = _source(block)
    if source.type == "base64":
        url = _data_url(source, default=b"image/png")
    elif source.type == "url":
        url = string(source.url, "url")
    else:
        raise _unsendable("image", source)
    return [b'{"type":"image_url","image_url":{"url":%b}}' % url]


def _document(block: Block) -> list[bytes]:
    source, title = _source(block), optional(block.title, "title")
    heading = title + optional(block.context, "context")
    if source.type == "base64":
        name, url = title or [b'"document.pdf"'], _data_url(source, default=b"application/pdf")
        return [b'{"type":"file","file":{"filename":%b,"file_data":%b}}' % (name[0], url)]
    if source.type == "text":
        return [joined([*heading, string(source.data, "data")], rb"\n\n")]
    if source.type == "content":
        inside = [part for each in blocks(source.content) for part in _of_document(each)]
        return [joined(heading, rb"\n\n"), *inside] if heading else inside
    raise _unsendable("document", source)


def _of_document(block: Block) -> list[bytes]:
    # Each level is read anew: documents within documents without end would take seconds.
    if block.type not in ("text", "image"):
        raise InvalidRequest("A document may hold text and images.", param="messages")
    return parts(block)


def _search_result(block: Block) -> list[bytes]:
    texts = [text for each in blocks(block.content) for text in _text(each)]
    heading = optional(block.title, "title") + optional(block.source, "source")
    return [joined([*heading, *texts], rb"\n")]


_PARTS: Mapping[str, Callable[[Block], list[bytes]]] = MappingProxyType(
    {
        "text": _text,
        "image": _image,
        "document": _document,
        "search_result": _search_result,
    }
)


class _Source(msgspec.Struct):
    type: str
    media_type: Raw = NULL
    data: Raw = NULL
    url: Raw = NULL
    content: Raw = NULL


_BLOCKS = msgspec.json.Decoder(Annotated[list[Block], AT_MOST])
_SOURCE = msgspec.json.Decoder(_Source)


def _source(block: Block) -> _Source:
    return read(block.source, _SOURCE, "messages")


def _data_url(source: _Source, *, default: bytes) -> bytes:
    kind = default if is_null(source.media_type) else string(source.media_type, "media_type")[1:-1]
    return b'"data:%b;base64,%b' % (kind, string(source.data, "data")[1:])


def _unsendable(what: str, source: _Source) -> InvalidRequest:
    return InvalidRequest(
        f'The {what} has a source of type "{source.type}", which only the Messages API can read; '
        "send its content.",
        param="messages",
    )
