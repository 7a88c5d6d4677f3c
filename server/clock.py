"""Time as the gateway stores and prints it: milliseconds since the epoch, RFC 3339 in UTC."""

from datetime import UTC, datetime


def now() -> datetime:
    """Tell the current time as an aware UTC datetime, cut to whole milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def to_ms(moment: datetime) -> int:
    """Give `moment` as whole milliseconds since 1970, exactly (no float on the way)."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def from_ms(ms: int) -> datetime:
    """Turn milliseconds since 1970 into an aware UTC datetime."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def rfc3339(moment: datetime) -> str:
    """Print `moment` as the API does: `2026-11-22T13:07:00Z`, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
