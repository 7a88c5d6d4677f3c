"""What a Chat message says, as Messages blocks: texts, images and files.

Strings are moved as they stand in the request, so a text's bytes are the same in every turn.
"""

import binascii
import re
from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.translation.json_text import AT_MOST, NULL, read


class Block(NamedTuple):
    """A content block, and its `cache_control`; null where it has none."""

    bare: bytes
    mark: Raw = NULL

    def whole(self) -> bytes:
        """Give the block with its mark in it."""
        return marked(self.bare, self.mark)


def is_string(raw: Raw) -> bool:
    """Tell a JSON string from all else."""
    return memoryview(raw)[0] == ord('"')


def blocks(content: Raw, mark: Raw = NULL) -> list[Block]:
    """Give the blocks of a message's `content`, be it a string, parts or null.

    `mark` is the message's own `cache_control`, which some clients send; it goes to the last
    block if that has none. A blank text gives no block: the API refuses those.

    Raises:
        InvalidRequest: a part that no block can hold.
    """
    if content == NULL:
        return []
    if is_string(content):
        return [Block(bare, mark) for bare in _said(content)]
    parts = read(content, _PARTS, "messages")
    found = [Block(bare, part.cache_control) for part in parts for bare in _bare(part)]
    if found and found[-1].mark == NULL:
        found[-1] = Block(found[-1].bare, mark)
    return found


def text_block(text: bytes | Raw) -> bytes:
    """Give the block of a text that is a JSON string already."""
    return b'{"type":"text","text":%b}' % text


def marked(item: bytes, mark: Raw) -> bytes:
    """Put a `cache_control` on a block or a tool; null is none."""
    return item if mark == NULL else b'%b,"cache_control":%b}' % (item[:-1], mark)


class _Part(Struct):
    type: str = "text"
    text: Raw = NULL
    refusal: Raw = NULL
    image_url: Raw = NULL
    file: Raw = NULL
    cache_control: Raw = NULL


class _Link(Struct):
    url: str


class _File(Struct):
    file_data: str | None = None
    filename: str | None = None


_encode = msgspec.json.Encoder().encode
_PARTS = msgspec.json.Decoder(Annotated[list[_Part], AT_MOST])
_STRING = msgspec.json.Decoder(str)
_LINK = msgspec.json.Decoder(_Link)
_FILE = msgspec.json.Decoder(_File)
_BLANK = re.compile(rb'"(?: ++|(?:\\[tnrf])++)*+"')
_DATA_URL = re.compile(r"data:(?P<media>[^;,]+)(?:;[^;,]+){0,8};base64,", re.IGNORECASE)
_WEB = ("https://", "http://")
_PDF = "application/pdf"
_PDF_START = "JVBERi"  # "%PDF-", in base64

# Clients write the wrong name too, which the API does not know.
_MEDIA_TYPES = {"image/jpg": "image/jpeg"}


def _bare(part: _Part) -> list[bytes]:
    make = _BLOCKS.get(part.type)
    if make is None:
        raise InvalidRequest(
            f'A content part of type "{part.type[:64]}" cannot be sent to this model.',
            param="messages",
        )
    return make(part)


def _text(part: _Part) -> list[bytes]:
    return _said(part.text)


def _refusal(part: _Part) -> list[bytes]:
    return _said(part.refusal)


def _said(text: Raw) -> list[bytes]:
    if text == NULL:
        return []
    if not is_string(text):
        raise InvalidRequest("A text in messages must be a string.", param="messages")
    return [] if _BLANK.fullmatch(text) else [text_block(text)]


def _image(part: _Part) -> list[bytes]:
    link = part.image_url
    url = read(link, _STRING, "messages") if is_string(link) else read(link, _LINK, "messages").url
    if url.startswith(_WEB):
        return [_block("image", {"type": "url", "url": url})]
    media, data = _data_of(url)
    if media is None:
        raise InvalidRequest(
            "image_url must be an http(s) URL, or a data URL with a media type and base64.",
            param="messages",
        )
    return [_block("image", _base64(media, data))]


def _file(part: _Part) -> list[bytes]:
    file = read(part.file, _FILE, "messages")
    if file.file_data is None:
        raise InvalidRequest(
            "A file must be given as file_data; uploaded files are not known here.",
            param="messages",
        )
    title = {"title": file.filename} if file.filename else {}
    if file.file_data.startswith(_WEB):
        return [_block("document", {"type": "url", "url": file.file_data}, title)]
    media, data = _data_of(file.file_data)
    if media == _PDF or (media is None and data.startswith(_PDF_START)):
        return [_block("document", _base64(_PDF, data), title)]
    if media is not None and media.startswith("image/"):
        return [_block("image", _base64(media, data))]
    if media is not None and media.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _decoded(data)}
        return [_block("document", source, title)]
    raise InvalidRequest(
        "file_data must be a PDF, a text or an image, as a data URL.", param="messages"
    )


# What is not here is refused: an answer to half a question would be worse than none.
_BLOCKS: Mapping[str, Callable[[_Part], list[bytes]]] = {
    "text": _text,
    "refusal": _refusal,
    "image_url": _image,
    "file": _file,
}


def _block(kind: str, source: dict[str, str], title: Mapping[str, str] | None = None) -> bytes:
    return _encode({"type": kind, "source": source, **(title or {})})


def _base64(media: str, data: str) -> dict[str, str]:
    return {"type": "base64", "media_type": media, "data": data}


def _data_of(url: str) -> tuple[str | None, str]:
    """Split a data URL into media type and base64; without a type, all of it is the latter."""
    found = _DATA_URL.match(url)
    if found is None:
        return None, url
    media = found["media"].lower()
    return _MEDIA_TYPES.get(media, media), url[found.end() :]


def _decoded(data: str) -> str:
    try:
        return binascii.a2b_base64(data).decode()
    except ValueError as exc:
        raise InvalidRequest("file_data is not the base64 of a text.", param="messages") from exc
