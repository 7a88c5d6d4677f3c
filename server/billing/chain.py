"""A tenant's chain of entries, followed and proved: each line from the one before.

SQLite builds the text that was hashed and does the arithmetic of a charge without extras; left to
Python are the hash itself, and the charges whose cost has other parts or outgrows 64 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from server.billing import history, prices, pricing
from server.billing.ledger import GENESIS, HASHED, Kind
from server.store.models import Tenant, database

Advance = Callable[[int], object]  # is told how many more rows were read

STEP = 20_000  # rows between two calls of it


class Disagreement(Exception):
    """What is stored contradicts itself; `str(err)` names the first row that does, and how."""


@dataclass(frozen=True, slots=True)
class Link:
    """An entry as the next one sees it: its number, its hash, the balance and time it left."""

    seq: int
    hash: bytes
    balance_micros: int
    at_ms: int


FIRST = Link(0, GENESIS, 0, 0)


def link_at(tenant_id: int, seq: int) -> Link | None:
    """Read the entry of that number as a link; None if there is none."""
    row = database.execute_sql(_LINK, (tenant_id, seq)).fetchone()
    return None if row is None else Link(seq, *row)


def follow(tenant: Tenant, start: Link, advance: Advance) -> Link:
    """Prove every entry after `start`, and give the last.

    Raises:
        Disagreement: at the first that does not follow from the one before, or from its price.
    """
    known: dict[int, pricing.Price] = {}
    seq, head, balance, last_at = start.seq, start.hash, start.balance_micros, start.at_ms
    # Each line of the loop is paid for by every entry there is, so it unpacks plain values.
    for text, hashed, number, before, after, at, is_plain in database.execute_sql(
        _ENTRIES, (tenant.id, start.seq)
    ):
        following = sha256(head + text).digest()
        if (
            following != hashed
            or number != seq + 1
            or before != balance
            or at < last_at
            or not (is_plain or _amount_problem(_read(tenant.id, number), known) is None)
        ):
            raise _disagreement(tenant, number, Link(seq, head, balance, last_at))
        seq, head, balance, last_at = number, following, after, at
        if not seq % STEP:
            advance(STEP)
    return Link(seq, head, balance, last_at)


def _disagreement(tenant: Tenant, number: int, last: Link) -> Disagreement:
    if number != last.seq + 1:
        return Disagreement(
            f"tenant {tenant.name}, entry {last.seq + 1}: it is missing; "
            f"the next there is has number {number}"
        )
    entry = _read(tenant.id, number)
    problem = _amount_problem(entry, {}) or _order_problem(entry, last)
    return Disagreement(
        f"tenant {tenant.name}, entry {number} ({entry['kind']} {entry['ref']}): {problem}"
    )


def _order_problem(entry: dict[str, Any], last: Link) -> str:
    after, made = entry["balance_after_micros"], last.balance_micros + entry["amount_micros"]
    if after != made:
        return f"balance_after is {after}, the balance before and its amount make {made}"
    if entry["at"] < last.at_ms:
        return "it is older than the entry before"
    return "its hash is not what its columns and the entry before make"


def _amount_problem(entry: dict[str, Any], known: dict[int, pricing.Price]) -> str | None:
    """Say what is wrong with an amount, seen alone; None if nothing is. `known` are prices."""
    for column in _NUMBERS:
        if not isinstance(entry[column], int | None):
            return f"{column} is no number"
    if entry["kind"] != Kind.CHARGE:
        return None
    if entry["price_id"] is None or None in (counts := [entry[column] for column in _COUNTS]):
        return "a charge without its price or its tokens"
    return _charge_problem(entry, pricing.Tokens(*counts), known)


def _charge_problem(
    entry: dict[str, Any], tokens: pricing.Tokens, known: dict[int, pricing.Price]
) -> str | None:
    number, amount = entry["price_id"], entry["amount_micros"]
    try:
        if number not in known:
            known[number] = prices.by_number(number)
        extras = _EXTRAS.decode(entry["extras"] or "{}")
    except KeyError:
        return f"there is no price {number}"
    except msgspec.MsgspecError:
        return f"its extras, or its price {number}, cannot be read"
    due = -pricing.cost_micros(known[number], tokens, extras)
    return (
        None if amount == due else f"amount is {amount}, its tokens and price {number} make {due}"
    )


def _read(tenant_id: int, seq: int) -> dict[str, Any]:
    return next(history.newest_first(tenant_id, since_seq=seq, before_seq=seq + 1, kind=None))


def _cost(rates: str) -> str:
    """Write the cost of an entry's tokens in SQL, rounded up; `rates` begins the columns' names."""
    return f"""(
        input_tokens * {rates}input + cache_read_input_tokens * {rates}cache_read
        + cache_write_5m_tokens * {rates}cache_write_5m
        + cache_write_1h_tokens * {rates}cache_write_1h
        + output_tokens * {rates}output + 999999
    ) / 1000000"""


_COUNTS = (
    *("input_tokens", "cache_read_input_tokens", "cache_write_5m_tokens"),
    *("cache_write_1h_tokens", "output_tokens"),
)
_NUMBERS = ("amount_micros", "balance_after_micros", "at", "price_id", *_COUNTS)
_EXTRAS = msgspec.json.Decoder(dict[str, str | int])
_TOTAL_INPUT = "+".join(_COUNTS[:4])
_LINK = "SELECT hash, balance_after_micros, at FROM entry WHERE tenant_id = ? AND seq = ?"
# A sum that outgrows 64 bits becomes a float, of 9.2e18 or more: such a charge is never plain.
_ENTRIES = f"""
SELECT CAST({HASHED} AS BLOB), hash, seq, balance_after_micros - amount_micros,
    balance_after_micros, at + 0, CASE kind
        WHEN 'charge' THEN extras IS NULL AND amount_micros > -9000000000000 AND -amount_micros = (
            SELECT CASE WHEN {_TOTAL_INPUT} > long_above_tokens
                THEN {_cost("long_")} ELSE {_cost("price.")} END
            FROM price WHERE price.id = price_id
        )
        ELSE typeof(amount_micros) = 'integer'
    END
FROM entry WHERE tenant_id = ? AND seq > ? ORDER BY seq
"""  # noqa: S608 - our own fragments
