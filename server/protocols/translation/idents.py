"""Ids of tool calls that the Messages API accepts, and the way back from them.

It takes letters, digits, `_` and `-` only (protocol facts, read 2026-11), while Chat servers make
ids such as `functions.Read:0` and know them again only as they were.
"""

import re

PREFIX = "esc_"

_SAFE = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE_BYTE = re.compile(rb"[^A-Za-z0-9-]")
_ESCAPED_BYTE = re.compile(rb"_([0-9a-f]{2})")


def to_safe(ident: str) -> str:
    """Give an id that the Messages API accepts, another one for each `ident`.

    A safe one stays as it is, unless it begins as if it had been escaped.
    """
    if _SAFE.fullmatch(ident) and not ident.startswith(PREFIX):
        return ident
    raw = ident.encode("utf-8", "surrogatepass")
    return PREFIX + _UNSAFE_BYTE.sub(lambda found: b"_%02x" % found[0][0], raw).decode()


def from_safe(ident: str) -> str:
    """Give the id that `to_safe` made this one of; one that it never makes stays as it is."""
    if not ident.startswith(PREFIX) or not ident.isascii():
        return ident
    escaped = ident.removeprefix(PREFIX).encode()
    raw = _ESCAPED_BYTE.sub(lambda found: bytes.fromhex(found[1].decode()), escaped)
    try:
        original = raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return ident
    return original if to_safe(original) == ident else ident
