"""The trace that a request is part of, as its client tells by W3C's two headers.

Source: w3.org/TR/trace-context, read 2026-11. What breaks its rules is taken as not sent.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

STATE_LIMIT = 512

_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-[\x21-\x7e]{0,200})?"
).fullmatch
_STATE = re.compile(rf"[\x20-\x7e]{{1,{STATE_LIMIT}}}").fullmatch


class CallerTrace(Struct, frozen=True):
    """The client's trace, its span within, and whether it wants them kept."""

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str


def caller_trace(headers: Mapping[str, str]) -> CallerTrace | None:
    """Read the trace that a request came with, if it is of a valid one."""
    parent = headers.get("traceparent")
    if parent is None:
        return None
    found = _PARENT(parent)
    if found is None or (found["version"] == "00" and found["more"] is not None):
        return None  # only a version that is yet to come may say more
    if len(_all(headers, "traceparent")) > 1:
        return None
    state = ",".join(_all(headers, "tracestate"))
    return CallerTrace(
        int(found["trace"], 16),
        int(found["span"], 16),
        bool(int(found["flags"], 16) & 1),
        state if _STATE(state) else "",
    )


def _all(headers: Mapping[str, str], wanted: str) -> list[str]:
    return [value for name, value in headers.items() if name.lower() == wanted]
