"""`gatewayctl usage`: requests, tokens and cost by day, key, member, model or tool."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import TenantOption, noun
from gatewayctl.output import Output, Share, Table
from gatewayctl.session import Session
from server import clock
from server.billing.money import dollars
from server.errors import InvalidRequest
from server.store.models import Key
from server.tenants import tenants
from server.usage.report import (
    COLUMNS,
    By,
    Range,
    Report,
    Totals,
    check_range,
    midnights,
    parse_day,
    parse_zone,
    report,
)

app = noun("Report requests, tokens and cost.")

# On two lines, so that the table fits a terminal.
_NUMBERS = ("requests", "input", "cache\nread", "cache\nwrite", "output", "total", "cost")
SinceOption = Annotated[
    str, typer.Option(help="The first day, or how many up to the last: 7d, 2w.", metavar="DAY")
]
UntilOption = Annotated[
    str | None, typer.Option(help="The last day; today if left out.", metavar="DAY")
]
ZoneOption = Annotated[
    str | None,
    typer.Option(
        help="The zone that days are told in; yours in a terminal, else UTC.", metavar="ZONE"
    ),
]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


@app.command()
def usage(
    ctx: typer.Context,
    *,
    by: Annotated[By | None, typer.Option(help="What to have a row for; day if left out.")] = None,
    since: SinceOption = "30d",
    until: UntilOption = None,
    tz: ZoneOption = None,
    tenant: TenantOption = tenants.DEFAULT,
    csv: CsvOption = False,
) -> None:
    """Report the requests of the last days, their tokens and what was charged for them.

    Every request that left for an upstream counts; `input` excludes what was read from or
    written to a cache. In a terminal, days come with totals by key, member, model and tool.
    """
    session = Session.of(ctx)
    for_people = session.out.for_people and not csv
    with in_words_of_options():
        zone = asked_zone(session.out, tz, csv=csv)
        last = asked_last(until, zone)
        days = check_range(Range(asked_first(since, last), last, zone))
    wanted = list(By) if for_people and by is None else [by or By.DAY]
    with session.reading():
        owner = tenants.find(tenant).id
        reports = [report(each, days.since, days.until, days.tz, owner) for each in wanted]
        key_names = names_of_keys(owner) if for_people else {}
    if csv and not session.out.as_json:
        session.out.text(reports[0].as_csv())
        return
    table = table_for_people(reports, key_names) if for_people else _bare(reports[0])
    session.out.table(reports[0].as_json(), table)


def asked_zone(out: Output, tz: str | None, *, csv: bool) -> ZoneInfo:
    """Find the zone that days are told in: a person's own unless another was asked for."""
    return parse_zone(tz or (_local_zone() if out.for_people and not csv else "UTC"))


def asked_last(until: str | None, zone: ZoneInfo) -> date:
    """Read `--until`; today where it was left out."""
    return parse_day(until, "to") if until else clock.now().astimezone(zone).date()


def asked_first(since: str, last: date) -> date:
    """Read `--since` as a day, or as a number of days that ends with `last`."""
    back = re.fullmatch(r"([1-9][0-9]{0,3})([dw])", since)
    if back is None:
        return parse_day(since, "from")
    count = int(back[1]) * (7 if back[2] == "w" else 1)
    return parse_day((last - timedelta(days=count - 1)).isoformat(), "from")


def asked_moments(
    since: str | None, until: str | None, zone: ZoneInfo
) -> tuple[int | None, int | None]:
    """Give the start of the first day and the end of the last, where they were asked for."""
    last = asked_last(until, zone)
    first = last if since is None else asked_first(since, last)
    if first > last:
        raise InvalidRequest("`from` must not be later than `to`.", param="from")
    starts = midnights(Range(first, last, zone))
    return None if since is None else starts[0], None if until is None else starts[-1]


@contextmanager
def in_words_of_options() -> Iterator[None]:
    """Name the options where the API would name its fields."""
    try:
        yield
    except InvalidRequest as exc:
        message = str(exc)
        for field, option in _OPTIONS.items():
            message = message.replace(f"`{field}`", option)
        raise CommandError(message, status=ExitStatus.USAGE, code=exc.code) from exc


def _local_zone() -> str:
    """Name the machine's own time zone; UTC where it cannot be told."""
    named = os.environ.get("TZ") or str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    try:
        return parse_zone(named.removeprefix(":")).key
    except InvalidRequest:
        return "UTC"


def _bare(made: Report) -> Table:
    rows = [[row.label, *row.totals.as_json().values()] for row in made.rows]
    return Table((made.by.column, *COLUMNS), rows)


def table_for_people(reports: Sequence[Report], key_names: Mapping[str, str]) -> Table:
    """Draw the first report with its total, and the others below it."""
    first, *others = reports
    days = first.range
    return Table(
        columns=(first.by.value, *_NUMBERS, "share"),
        rows=_drawn(first, key_names),
        numbers=frozenset(_NUMBERS),
        title=f"Usage from {days.since} to {days.until}, {days.tz.key}",
        sections=[
            ("", [["total", *_figures(first.total), ""]]),
            *((f"by {made.by}", _drawn(made, key_names)) for made in others if made.rows),
        ],
    )


def _drawn(made: Report, key_names: Mapping[str, str]) -> list[list[object]]:
    most = max((row.totals.total_tokens for row in made.rows), default=0)
    names = key_names if made.by is By.KEY else {}
    return [
        [
            names.get(row.label or "", row.label),
            *_figures(row.totals),
            Share(row.totals.total_tokens, most),
        ]
        for row in made.rows
    ]


def _figures(sums: Totals) -> list[str]:
    counts = (
        sums.requests,
        sums.input_tokens,
        sums.cache_read_input_tokens,
        sums.cache_creation_input_tokens,
        sums.output_tokens,
        sums.total_tokens,
    )
    return [*(f"{count:,}" for count in counts), dollars(sums.cost_micros)]


def names_of_keys(tenant_id: int) -> dict[str, str]:
    """Name each key as people know it, with the end of its id: names need not be unique."""
    owned = Key.select(Key.public_id, Key.name).where(Key.tenant == tenant_id)
    return {key.public_id: f"{key.name} …{key.public_id[-6:]}" for key in owned}


_OPTIONS = {"from": "--since", "to": "--until", "tz": "--tz", "month": "--month"}
