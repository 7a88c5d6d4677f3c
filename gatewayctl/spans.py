"""Spans of time as people type them: `90d`, `24h`."""

import re
from datetime import timedelta

from gatewayctl.exits import CommandError, ExitStatus

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SPAN = re.compile(r"([0-9]{1,5})([smhdw])")


def parse_span(text: str, option: str) -> timedelta:
    """Read a span such as `90d`; `option` is what the error names."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise CommandError(
            f"{option} must be a span such as 90d, 24h or 30m, not {text!r}.",
            status=ExitStatus.USAGE,
            code="usage",
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
