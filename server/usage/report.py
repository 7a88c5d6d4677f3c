"""Usage reports: a tenant's dispatched requests, summed by day or by who and what they were for.

Every dispatched request counts, from the moment it left: one that is still open counts with what
its row holds so far, an estimate of its input. A day belongs to the request's start.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import MAXYEAR, UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from server import clock
from server.errors import InvalidRequest
from server.store.models import database

MAX_DAYS = 366
DEFAULT_DAYS = 30


class By(StrEnum):
    """What a report has one row for."""

    DAY = "day"
    KEY = "key"
    MEMBER = "member"
    MODEL = "model"
    TOOL = "tool"

    @property
    def column(self) -> str:
        """The name that a row's own value goes by in JSON and CSV."""
        return {By.DAY: "date", By.KEY: "key_id"}.get(self, self.value)


@dataclass(frozen=True, slots=True)
class Range:
    """The days `since` to `until`, both inclusive, as clocks in `tz` tell them."""

    since: date
    until: date
    tz: ZoneInfo


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over requests; `input_tokens` excludes both cache classes.

    `cost_micros` is what was charged to the balance; what a subscription pays for costs 0.
    """

    requests: int = 0
    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0

    @property
    def total_tokens(self) -> int:
        """The sum of all classes."""
        return (
            self.input_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_input_tokens
            + self.output_tokens
        )

    def as_json(self) -> dict[str, int]:
        """Give the API's columns, in their order."""
        known = asdict(self) | {"total_tokens": self.total_tokens}
        return {column: known[column] for column in COLUMNS}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a report; `label` is None for requests that name no member or no tool."""

    label: str | None
    totals: Totals


@dataclass(frozen=True, slots=True)
class Report:
    """A finished report. By day it has a row for every day; else the largest rows come first."""

    by: By
    range: Range
    rows: tuple[Row, ...]
    total: Totals

    def as_json(self) -> dict[str, object]:
        """Give the API's `usage` object."""
        return {
            "object": "usage",
            "from": self.range.since.isoformat(),
            "to": self.range.until.isoformat(),
            "tz": self.range.tz.key,
            "data": [{self.by.column: row.label} | row.totals.as_json() for row in self.rows],
            "total": self.total.as_json(),
        }

    def as_csv(self) -> str:
        """Give the rows as CSV under a header line, in the columns of the JSON."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow([self.by.column, *COLUMNS])
        lines.writerows([row.label, *row.totals.as_json().values()] for row in self.rows)
        return text.getvalue()


def parse_range(from_: str | None, to: str | None, tz: str | None, now: datetime) -> Range:
    """Read a range as clients send it; without one, the last 30 days in UTC.

    Raises:
        InvalidRequest: a field cannot be understood, the days are out of order or too many;
            `param` names the field.
    """
    zone = parse_zone(tz or "UTC")
    until = parse_day(to, "to") if to else now.astimezone(zone).date()
    since = parse_day(from_, "from") if from_ else until - timedelta(days=DEFAULT_DAYS - 1)
    return check_range(Range(since, until, zone))


def parse_zone(name: str) -> ZoneInfo:
    """Find the time zone `name`, or raise InvalidRequest."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        # A folder of zones ("America") is an OSError, a path out of them a ValueError.
        message = f"`tz` must be an IANA time zone such as Europe/Paris, not {name[:64]!r}."
        raise InvalidRequest(message, param="tz") from exc


def parse_day(text: str, param: str) -> date:
    """Read a date such as 2026-11-22, or raise InvalidRequest in the name of `param`."""
    # The pattern too: `fromisoformat` also takes week dates and dates without dashes.
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        with suppress(ValueError):
            day = date.fromisoformat(text)
            if 1970 <= day.year < MAXYEAR:
                return day
    message = f"`{param}` must be a date such as 2026-11-22, not {text[:64]!r}."
    raise InvalidRequest(message, param=param)


def check_range(days: Range) -> Range:
    """Give `days` back, or raise InvalidRequest: out of order, or too many."""
    if days.since > days.until:
        raise InvalidRequest("`from` must not be later than `to`.", param="from")
    if (days.until - days.since).days >= MAX_DAYS:
        raise InvalidRequest(f"A report covers at most {MAX_DAYS} days.", param="from")
    return days


def midnights(days: Range) -> list[int]:
    """Give the starts of all days and of the one after, in milliseconds since 1970."""
    count = (days.until - days.since).days + 2
    dates = (days.since + timedelta(days=number) for number in range(count))
    starts = (datetime.combine(day, time(), days.tz).astimezone(UTC) for day in dates)
    return [clock.to_ms(start) for start in starts]


def report(
    by: By, since: date, until: date, tz: ZoneInfo, tenant_id: int, *, key_id: int | None = None
) -> Report:
    """Sum a tenant's requests from `since` to `until`, both inclusive; one key's with `key_id`.

    One query, on the index over tenant and start. The days of a clock change last 23 or 25 hours;
    where such a change shows midnight twice, the day begins at the first.

    Raises:
        InvalidRequest: the days are out of order, or more than 366.
    """
    days = check_range(Range(since, until, tz))
    rows = _by_day(days, tenant_id, key_id) if by is By.DAY else _by(by, days, tenant_id, key_id)
    return Report(by, days, tuple(rows), _sum(row.totals for row in rows))


def _by_day(days: Range, tenant_id: int, key_id: int | None) -> list[Row]:
    bounds = list(pairwise(midnights(days)))
    sql = _PER_DAY.format(sums=_SUMS, values=", ".join(["(?, ?, ?)"] * len(bounds)))
    numbered = [value for day, pair in enumerate(bounds) for value in (day, *pair)]
    found = _fetch(sql, [*numbered, tenant_id, key_id, key_id])
    return [Row((days.since + timedelta(days=day)).isoformat(), sums) for day, sums in found]


def _by(by: By, days: Range, tenant_id: int, key_id: int | None) -> list[Row]:
    starts = midnights(days)
    sql = _PER_LABEL.format(sums=_SUMS, label=_LABELS[by])
    found = _fetch(sql, [tenant_id, starts[0], starts[-1], key_id, key_id])
    rows = [Row(label, sums) for label, sums in found]
    return sorted(rows, key=lambda row: (-row.totals.total_tokens, row.label or ""))


def _fetch(sql: str, values: Sequence[object]) -> list[tuple[Any, Totals]]:
    return [(label, Totals(*sums)) for label, *sums in database.execute_sql(sql, values)]


def _sum(parts: Iterable[Totals]) -> Totals:
    rows = [tuple(asdict(part).values()) for part in parts]
    return Totals(*(sum(column) for column in zip(*rows, strict=True)))


COLUMNS = (
    "requests",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "total_tokens",
    "cost_micros",
)
_LABELS = {
    By.KEY: '"key".public_id',
    By.MEMBER: "request.member",
    By.MODEL: "request.model",
    By.TOOL: "request.tool",
}
_SUMS = """
    COUNT(request.id),
    COALESCE(SUM(request.input_tokens), 0),
    COALESCE(SUM(request.cache_read_input_tokens), 0),
    COALESCE(SUM(request.cache_write_5m_tokens + request.cache_write_1h_tokens), 0),
    COALESCE(SUM(request.output_tokens), 0),
    COALESCE(SUM(request.cost_micros), 0)
"""
_PER_DAY = """
WITH span (day, starts_at, ends_at) AS (VALUES {values})
SELECT span.day, {sums}
FROM span LEFT JOIN request ON request.tenant_id = ?
    AND request.started_at >= span.starts_at AND request.started_at < span.ends_at
    AND (? IS NULL OR request.key_id = ?)
GROUP BY span.day ORDER BY span.day
"""
_PER_LABEL = """
SELECT {label}, {sums}
FROM request JOIN "key" ON "key".id = request.key_id
WHERE request.tenant_id = ? AND request.started_at >= ? AND request.started_at < ?
    AND (? IS NULL OR request.key_id = ?)
GROUP BY {label}
"""
