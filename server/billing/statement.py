"""A month's statement: from one balance to the next, by way of every entry between."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, date, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from server.billing import history
from server.billing.ledger import Kind
from server.errors import InvalidRequest
from server.store.models import database
from server.usage.report import Range, midnights


@dataclass(frozen=True, slots=True)
class Line:
    """Entries of one kind, summed; charges by model. Amounts are signed, charges below zero."""

    kind: Kind
    model: str | None
    entries: int
    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int
    amount_micros: int

    def __add__(self, other: "Line") -> "Line":
        sums = (a + b for a, b in zip(self.figures(), other.figures(), strict=True))
        return Line(self.kind, self.model, *sums)

    @property
    def total_tokens(self) -> int:
        """The sum of all classes."""
        return (
            self.input_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_input_tokens
            + self.output_tokens
        )

    def figures(self) -> tuple[int, ...]:
        """Give the sums, in the order of `FIGURES`."""
        return tuple(getattr(self, name) for name in FIGURES)


@dataclass(frozen=True, slots=True)
class Day:
    """One day of the month; `closing_micros` is the balance at its end."""

    date: date
    charges_micros: int
    others_micros: int
    closing_micros: int

    def as_json(self) -> dict[str, object]:
        """Show the day as JSON does."""
        return {
            "date": self.date.isoformat(),
            "charges_micros": self.charges_micros,
            "others_micros": self.others_micros,
            "closing_balance_micros": self.closing_micros,
        }


@dataclass(frozen=True, slots=True)
class Statement:
    """A month of a tenant: `opening_micros` and all the lines make `closing_micros`, exactly."""

    tenant: str
    range: Range
    opening_micros: int
    closing_micros: int
    lines: tuple[Line, ...]
    days: tuple[Day, ...]

    def as_json(self) -> dict[str, object]:
        """Show the statement; all money in integer micros."""
        return {
            "object": "statement",
            "tenant": self.tenant,
            "currency": "usd",
            "month": self.range.since.strftime("%Y-%m"),
            "tz": self.range.tz.key,
            "opening_balance_micros": self.opening_micros,
            "closing_balance_micros": self.closing_micros,
            "lines": [dict(zip(COLUMNS, row, strict=True)) for row in self._rows()],
            "days": [day.as_json() for day in self.days],
        }

    def table(self) -> list[list[object]]:
        """Give the rows under `COLUMNS`, between one for each of the two balances."""
        blank: list[object] = [None] * (len(COLUMNS) - 2)
        return [
            ["opening_balance", *blank, self.opening_micros],
            *self._rows(),
            ["closing_balance", *blank, self.closing_micros],
        ]

    def as_csv(self) -> str:
        """Give `table` as CSV under a header line."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerows([COLUMNS, *self.table()])
        return text.getvalue()

    def _rows(self) -> Iterator[list[object]]:
        return ([line.kind.value, line.model, *line.figures()] for line in self.lines)


def parse_month(text: str) -> date:
    """Read a month such as 2026-11, and give its first day; else raise InvalidRequest."""
    found = re.fullmatch(r"([0-9]{4})-(0[1-9]|1[0-2])", text)
    if found is None or not 1970 <= int(found[1]) < MAXYEAR:
        raise InvalidRequest(
            f"`month` must be a month such as 2026-11, not {text[:64]!r}.", param="month"
        )
    return date(int(found[1]), int(found[2]), 1)


def statement(tenant_id: int, tenant: str, month: date, tz: ZoneInfo) -> Statement:
    """Sum the month that `month` lies in, as clocks in `tz` tell its days.

    Reads only the month's own entries. One that is under way closes with the balance of now.
    """
    first = month.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    days = Range(first, following - timedelta(days=1), tz)
    bounds = [history.first_since(tenant_id, midnight) for midnight in midnights(days)]
    opening = closing = history.balance_before(tenant_id, bounds[0])
    summed: list[Line] = []
    told: list[Day] = []
    for number, (start, end) in enumerate(pairwise(bounds)):
        lines = _lines(tenant_id, start, end)
        charges = sum(line.amount_micros for line in lines if line.kind is Kind.CHARGE)
        others = sum(line.amount_micros for line in lines) - charges
        closing += charges + others
        summed.extend(lines)
        told.append(Day(first + timedelta(days=number), charges, others, closing))
    return Statement(tenant, days, opening, closing, tuple(_together(summed)), tuple(told))


def _lines(tenant_id: int, start: int, end: int) -> list[Line]:
    found = database.execute_sql(_SUMS, (tenant_id, start, end))
    return [Line(Kind(kind), model, *sums) for kind, model, *sums in found]


def _together(lines: Iterable[Line]) -> list[Line]:
    """Add up what has the same kind and model; charges last, the dearest model first."""
    sums: dict[tuple[Kind, str | None], Line] = {}
    for line in lines:
        known = sums.get((line.kind, line.model))
        sums[line.kind, line.model] = line if known is None else known + line
    return sorted(sums.values(), key=_place)


def _place(line: Line) -> tuple[Any, ...]:
    return (
        line.kind is Kind.CHARGE,
        list(Kind).index(line.kind),
        line.amount_micros,
        line.model or "",
    )


FIGURES = (
    "entries",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "amount_micros",
)
COLUMNS = ("kind", "model", *FIGURES)
_SUMS = """
SELECT entry.kind, price.model, COUNT(*),
    COALESCE(SUM(entry.input_tokens), 0),
    COALESCE(SUM(entry.cache_read_input_tokens), 0),
    COALESCE(SUM(entry.cache_write_5m_tokens + entry.cache_write_1h_tokens), 0),
    COALESCE(SUM(entry.output_tokens), 0),
    SUM(entry.amount_micros)
FROM entry LEFT JOIN price ON price.id = entry.price_id
WHERE entry.tenant_id = ? AND entry.seq >= ? AND entry.seq < ?
GROUP BY entry.kind, price.model
"""
