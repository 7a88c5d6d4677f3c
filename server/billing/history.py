"""A tenant's ledger read back: its entries, and where in it a moment lies.

No index on time exists. Within a tenant `at` never falls as `seq` grows, so a moment is found by
halving, with a few point reads, however long the ledger is.
"""

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import msgspec

from server import clock
from server.billing.ledger import COLUMNS, Kind
from server.errors import NotFound
from server.store.models import database


def last_seq(tenant_id: int) -> int:
    """Give the number of the tenant's last entry; 0 if it has none."""
    row = database.execute_sql(_LAST, (tenant_id,)).fetchone()
    return 0 if row is None else int(row[0])


def first_since(tenant_id: int, at_ms: int) -> int:
    """Give the number of the first entry at or after that moment; else the number to come."""

    def at(seq: int) -> int:
        return int(database.execute_sql(_AT, (tenant_id, seq)).fetchone()[0])

    return 1 + bisect_left(range(1, last_seq(tenant_id) + 1), at_ms, key=at)


def between(tenant_id: int, first_ms: int | None, end_ms: int | None) -> tuple[int, int]:
    """Give the number of the first entry of a span of time, and the number behind its last.

    None: the span has no such end.
    """
    since_seq = 1 if first_ms is None else first_since(tenant_id, first_ms)
    if end_ms is None:
        return since_seq, last_seq(tenant_id) + 1
    return since_seq, first_since(tenant_id, end_ms)


def balance_before(tenant_id: int, seq: int) -> int:
    """Give the balance that the entries before number `seq` come to."""
    row = database.execute_sql(_BEFORE, (tenant_id, seq)).fetchone()
    return 0 if row is None else int(row[0])


def holding_requests(tenant_id: int) -> int:
    """Count the running requests that hold some of the tenant's balance."""
    return int(database.execute_sql(_HOLDING, (tenant_id,)).fetchone()[0])


def newest_first(
    tenant_id: int, *, since_seq: int, before_seq: int, kind: Kind | None
) -> Iterator[dict[str, Any]]:
    """Read entries by column, from the one before `before_seq` down to `since_seq`.

    One at a time, so that a ledger of millions passes through without being held.
    """
    wanted = kind and kind.value
    found = database.execute_sql(_WALK, (tenant_id, since_seq, before_seq, wanted, wanted))
    return (dict(zip(_READ, row, strict=True)) for row in found)


def find(kind: Kind, ref: str) -> dict[str, Any]:
    """Read the entry of that kind with that cause, by column, or raise NotFound."""
    row = database.execute_sql(_FIND, (kind.value, ref)).fetchone()
    if row is None:
        raise NotFound(f"There is no {kind} {ref} in the ledger.")
    return dict(zip(_READ, row, strict=True))


def as_json(entry: dict[str, Any], tenant: str) -> dict[str, object]:
    """Show an entry's columns under a tenant's public id; its hash is hexadecimal."""
    shown = {name: value for name, value in entry.items() if name not in {"tenant_id", "price_id"}}
    extras = entry["extras"]
    moment = clock.from_ms(entry["at"]).astimezone(UTC)
    return (
        {"object": "entry", "tenant": tenant}
        | shown
        | {
            # To the millisecond: it is hashed so.
            "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "price": entry["price_id"],
            "extras": None if extras is None else msgspec.json.decode(extras),
            "hash": entry["hash"].hex(),
        }
    )


_READ = (*COLUMNS, "hash")
_NAMES = ", ".join(_READ)
_LAST = "SELECT seq FROM entry WHERE tenant_id = ? ORDER BY seq DESC LIMIT 1"
# At or after, so that a gap (which `verify` reports) breaks nothing here.
_AT = "SELECT at FROM entry WHERE tenant_id = ? AND seq >= ? ORDER BY seq LIMIT 1"
_BEFORE = """
SELECT balance_after_micros FROM entry WHERE tenant_id = ? AND seq < ? ORDER BY seq DESC LIMIT 1
"""
# The plus sign: what is open has an index of its own, shorter than the one over tenants.
_HOLDING = """
SELECT COUNT(*) FROM request WHERE state = 'open' AND held_micros > 0 AND +tenant_id = ?
"""
_WALK = f"""
SELECT {_NAMES} FROM entry
WHERE tenant_id = ? AND seq >= ? AND seq < ? AND (? IS NULL OR kind = ?)
ORDER BY seq DESC
"""  # noqa: S608 - our columns
_FIND = f"SELECT {_NAMES} FROM entry WHERE kind = ? AND ref = ?"  # noqa: S608 - our columns
