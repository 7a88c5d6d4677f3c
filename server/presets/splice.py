"""Edit one member of a JSON object and leave every other byte of it as it was."""

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from server.errors import InvalidRequest
from server.protocols.body import join

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
MOST_ITEMS = 20_000  # no preset goes into more of them
_ITEMS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(
    Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MOST_ITEMS)]
)
_NAME = re.compile(rb'[\s,]*("(?:[^"\\]|\\.)*")\s*:\s*')
_COMMA = re.compile(rb"\s*,?")


def members(raw: msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Slice an object into its members; None when `raw` is anything else."""
    try:
        return _MEMBERS.decode(raw)
    except RecursionError as exc:
        raise _too_deep() from exc
    except msgspec.DecodeError:
        return None


def items(raw: msgspec.Raw) -> list[msgspec.Raw] | None:
    """Slice an array into its items; None when `raw` is anything else, or too long."""
    try:
        return _ITEMS.decode(raw)
    except RecursionError as exc:
        raise _too_deep() from exc
    except msgspec.DecodeError:
        return None


def array(parts: Iterable[bytes | msgspec.Raw]) -> msgspec.Raw:
    """Join raw items to an array."""
    return msgspec.Raw(b"[" + b",".join(parts) + b"]")


def without(raw: msgspec.Raw, name: str) -> msgspec.Raw:
    """Take the member `name` out of an object, with the comma that set it off."""
    block = bytes(raw)
    found = _MEMBERS.decode(raw)
    spans = _spans(block, found)
    if spans is None:
        found.pop(name, None)
        return msgspec.Raw(join(found))
    if name not in spans:
        return raw
    before, _, end = spans[name]
    if before == 1:
        comma = _COMMA.match(block, end)
        end = comma.end() if comma else end
    return msgspec.Raw(block[:before] + block[end:])


def replaced(raw: msgspec.Raw, name: str, value: bytes) -> msgspec.Raw:
    """Give the member `name` of an object another value; it is added when there is none."""
    block = bytes(raw)
    found = _MEMBERS.decode(raw)
    spans = _spans(block, found)
    if spans is None or name not in spans:
        return msgspec.Raw(join({**found, name: value}))
    _, start, end = spans[name]
    return msgspec.Raw(block[:start] + value + block[end:])


def _spans(block: bytes, found: dict[str, msgspec.Raw]) -> dict[str, tuple[int, int, int]] | None:
    """Tell for each member where the one before it ends, where its value starts and ends.

    The lengths of the known values are leapt over, so this costs no second parse. None when
    a name stands there twice: the leaps no longer fit the bytes.
    """
    spans, at = {}, 1
    for name, value in found.items():
        head = _NAME.match(block, at)
        if head is None or not block.startswith(bytes(value), head.end()):
            return None
        if msgspec.json.decode(head[1]) != name:
            return None
        end = head.end() + len(bytes(value))
        spans[name] = (at, head.end(), end)
        at = end
    return spans if block[at:].strip() == b"}" else None


def _too_deep() -> InvalidRequest:
    return InvalidRequest("The request body is nested too deeply.")
