"""Check a request's head before Sanic believes it: what two parsers could read in two ways."""

import re
from typing import Any

from sanic import Request

from server.errors import InvalidRequest

_HEADER = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*"
_HEAD = re.compile(rb"[A-Z]{3,16} [!-\"$-~]+ HTTP/1\.[01](?:\r\n" + _HEADER + rb")*").fullmatch


class CheckedRequest(Request[Any, Any]):
    """A request whose head has one reading; anything else is a 400 and the connection's end.

    Sanic takes spaces before a colon, bare CR, LF and NUL in values, two Hosts, digits that are
    not ASCII, and more (measured on 25.12). A proxy in front may read those otherwise, and what
    is forwarded of them could end one header and begin another.
    """

    def __init__(
        self, url_bytes: bytes, headers: Any, version: str, method: str, *args: Any, **kwargs: Any
    ) -> None:
        head: bytes = kwargs.get("head", b"")
        if head and (problem := _problem(head)):
            raise InvalidRequest(problem)
        super().__init__(url_bytes, headers, version, method, *args, **kwargs)


def _problem(head: bytes) -> str | None:
    if not _HEAD(head):
        return "The request head is malformed."
    method, target, rest = head.split(b" ", 2)
    if method == b"CONNECT" or target[:1] != b"/":
        return "Only paths of this server can be asked for."
    lowered = head.lower()
    if lowered.count(b"\r\nhost:") != 1:
        return "A request has exactly one Host."
    length = _value(lowered, b"\r\ncontent-length:", head)
    if length is not None and not (length.isdigit() and length.isascii()):
        return "Content-Length is not a number."
    coding = _value(lowered, b"\r\ntransfer-encoding:", head)
    if coding is not None and (coding != b"chunked" or rest.startswith(b"HTTP/1.0")):
        return "This transfer coding is not understood."
    return None


def _value(lowered: bytes, name: bytes, head: bytes) -> bytes | None:
    """Give a header's first value as it was sent, but for what leads up to it; None without."""
    at = lowered.find(name)
    return None if at < 0 else head[at + len(name) :].partition(b"\r")[0].lstrip(b" \t")
