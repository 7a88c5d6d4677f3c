"""`gatewayctl usage`: requests and tokens by day, key, member, model or tool."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import TenantOption, noun
from gatewayctl.output import Share, Table
from gatewayctl.session import Session
from server import clock
from server.errors import InvalidRequest
from server.store.models import Key
from server.tenants import tenants
from server.usage.report import COLUMNS, By, Range, Report, Totals, parse_range, parse_zone, report

app = noun("Report requests and tokens.")

_NUMBERS = ("requests", "input", "cache read", "cache write", "output", "total")


@app.command()
def usage(
    ctx: typer.Context,
    *,
    by: Annotated[By | None, typer.Option(help="What to have a row for; day if left out.")] = None,
    since: Annotated[
        str, typer.Option(help="The first day, or how many up to the last: 7d, 2w.", metavar="DAY")
    ] = "30d",
    until: Annotated[
        str | None, typer.Option(help="The last day; today if left out.", metavar="DAY")
    ] = None,
    tz: Annotated[
        str | None,
        typer.Option(
            help="The zone that days are told in; yours in a terminal, else UTC.", metavar="ZONE"
        ),
    ] = None,
    tenant: TenantOption = tenants.DEFAULT,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Report the requests of the last days and their tokens.

    Every request that left for an upstream counts; `input` excludes what was read from or
    written to a cache. In a terminal, days come with totals by key, member, model and tool.
    """
    session = Session.of(ctx)
    for_people = session.out.for_people and not csv
    try:
        days = _range(since, until, tz or (_local_zone() if for_people else "UTC"))
    except InvalidRequest as exc:
        raise _in_words_of_options(exc) from exc
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


def _range(since: str, until: str | None, tz: str) -> Range:
    """Read `--since` as a day, or as a number of days that ends with `until`."""
    back = re.fullmatch(r"([1-9][0-9]{0,3})([dw])", since)
    if back is None:
        return parse_range(since, until, tz, clock.now())
    last = parse_range(until, until, tz, clock.now()).until
    count = int(back[1]) * (7 if back[2] == "w" else 1)
    first = last - timedelta(days=count - 1)
    return parse_range(first.isoformat(), last.isoformat(), tz, clock.now())


def _in_words_of_options(err: InvalidRequest) -> CommandError:
    message = str(err)
    for field, option in (("`from`", "--since"), ("`to`", "--until"), ("`tz`", "--tz")):
        message = message.replace(field, option)
    return CommandError(message, status=ExitStatus.USAGE, code=err.code)


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
    figures = (
        sums.requests,
        sums.input_tokens,
        sums.cache_read_input_tokens,
        sums.cache_creation_input_tokens,
        sums.output_tokens,
        sums.total_tokens,
    )
    return [f"{figure:,}" for figure in figures]


def names_of_keys(tenant_id: int) -> dict[str, str]:
    """Name each key as people know it, with the end of its id: names need not be unique."""
    owned = Key.select(Key.public_id, Key.name).where(Key.tenant == tenant_id)
    return {key.public_id: f"{key.name} …{key.public_id[-6:]}" for key in owned}
