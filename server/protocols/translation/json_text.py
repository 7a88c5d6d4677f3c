"""JSON values as the text they are: read where needed, joined without being unescaped.

A string that is only moved keeps its bytes, so what a provider cached stays the same, and nothing
is decoded to be encoded again.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Raw

from server.errors import InvalidRequest

NULL = Raw(b"null")
AT_MOST = msgspec.Meta(max_length=20_000)  # turns, blocks or tools: more would hold up others

Value = TypeVar("Value")


def read(raw: Raw, decoder: msgspec.json.Decoder[Value], name: str) -> Value:
    """Decode a value of a client's request; `name` is the field that it stands in.

    Raises:
        InvalidRequest: it is not of the decoder's type, or nested too deeply.
    """
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{name} cannot be read: {exc}.", param=name) from exc


def is_null(raw: Raw) -> bool:
    """Tell whether a value is null, as an absent one is taken to be."""
    return len(memoryview(raw)) == 4 and bytes(raw) == b"null"


def string(raw: Raw, what: str) -> bytes:
    """Give a string as it is written, with its quotes.

    Raises:
        InvalidRequest: it is no string.
    """
    text = bytes(raw)
    if not text.startswith(b'"'):
        raise InvalidRequest(f"{what} must be a string.", param="messages")
    return text


def optional(raw: Raw, what: str) -> list[bytes]:
    """Give a string as `string` does, in a list; an empty list for null and for an empty one."""
    return [] if is_null(raw) or bytes(raw) == b'""' else [string(raw, what)]


def joined(strings: Sequence[bytes], separator: bytes) -> bytes:
    """Join written strings to one; `separator` is written as inside of a string."""
    if len(strings) == 1:
        return strings[0]
    return b'"' + separator.join([text[1:-1] for text in strings]) + b'"'


def quoted(text: str) -> bytes:
    """Write a string."""
    return _ENCODER.encode(text)


def array(items: Sequence[bytes]) -> bytes:
    """Write an array of values that are written already."""
    return b"[" + b",".join(items) + b"]"


_ENCODER = msgspec.json.Encoder()
