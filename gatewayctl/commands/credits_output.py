"""How `gatewayctl credits` prints a ledger and a statement."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from gatewayctl.output import Output, Share, Table, stream_rows
from server.billing.ledger import Kind
from server.billing.money import dollars
from server.billing.statement import Statement
from server.store.models import Tenant

_LISTED = ("seq", "at", "kind", "ref", "amount_micros", "balance_after_micros")
_CSV = (
    *("tenant", "seq", "kind", "ref", "amount_micros", "balance_after_micros", "at", "price"),
    *("input_tokens", "cache_read_input_tokens", "cache_write_5m_tokens"),
    *("cache_write_1h_tokens", "output_tokens", "extras", "created_by", "reason", "hash"),
)


def stream(out: Output, entries: Iterator[dict[str, Any]], limit: int, *, csv: bool) -> None:
    """Print up to `limit` entries, or all for 0; CSV has every column."""
    stream_rows(out, entries, limit, columns=_CSV if csv else _LISTED, csv=csv)


def ledger_table(entries: Iterable[dict[str, Any]], owner: Tenant, zone: ZoneInfo) -> Table:
    """Draw entries, their times in `zone`."""
    return Table(
        columns=("seq", "at", "kind", "USD", "balance", "ref", "reason"),
        numbers=frozenset({"seq", "at", "USD", "balance"}),
        title=f"Ledger of {owner.name}, newest first, times in {zone.key}",
        rows=[
            [
                entry["seq"],
                f"{datetime.fromisoformat(entry['at']).astimezone(zone):%Y-%m-%d %H:%M:%S}",
                entry["kind"],
                dollars(entry["amount_micros"]),
                dollars(entry["balance_after_micros"]),
                entry["ref"],
                entry["reason"],
            ]
            for entry in entries
        ],
    )


def statement_table(made: Statement, owner: Tenant) -> Table:
    """Draw a statement: its lines, and below them the days with what each cost."""
    spent = [(day, -day.charges_micros) for day in made.days if day.charges_micros]
    most = max((cost for _, cost in spent), default=0)
    days = [
        [day.date.isoformat(), None, None, None, dollars(-cost), Share(cost, most)]
        for day, cost in spent
    ]
    return Table(
        columns=("", "model", "entries", "tokens", "USD", "share"),
        numbers=frozenset({"entries", "tokens", "USD"}),
        title=f"Statement of {owner.name}, {made.range.since:%B %Y}, {made.range.tz.key}",
        rows=[
            ["opening", None, None, None, dollars(made.opening_micros), None],
            *(
                [
                    each.kind,
                    each.model,
                    f"{each.entries:,}",
                    f"{each.total_tokens:,}" if each.kind is Kind.CHARGE else None,
                    dollars(each.amount_micros),
                    None,
                ]
                for each in made.lines
            ),
            ["closing", None, None, None, dollars(made.closing_micros), None],
        ],
        sections=[("charged by day", days)] if days else [],
    )
