"""The ledger: append-only entries, one chain for each tenant, its balance kept beside it.

Every function runs inside the caller's transaction. The order matters: the tenant's row is
changed first, which in SQLite means that no other process writes until this one commits, and
only then is the chain's last entry read. So server and command line cannot fork a chain.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from server import clock
from server.billing.money import dollars
from server.billing.pricing import Tokens
from server.errors import InsufficientBalance, NotFound
from server.store import audit
from server.store.audit import Action
from server.store.statements import execute

GENESIS = bytes(32)  # the hash before a tenant's first entry
NO_DETAIL = (None,) * 7  # only charges have a price and tokens
SEPARATOR = "\x1f"  # between the hashed columns; no column can hold it


class Kind(StrEnum):
    """What an entry is for."""

    TOPUP = "topup"
    GRANT = "grant"
    CHARGE = "charge"
    REFUND = "refund"
    DISPUTE = "dispute"
    ADJUSTMENT = "adjustment"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it was written."""

    tenant_id: int
    seq: int
    kind: Kind
    ref: str
    amount_micros: int
    balance_after_micros: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Balance:
    """What a tenant has, what its running requests hold, and what is left to spend."""

    balance_micros: int
    held_micros: int

    @property
    def available_micros(self) -> int:
        """What a new request may hold; below zero after a refund of money already spent."""
        return self.balance_micros - self.held_micros

    def as_json(self) -> dict[str, object]:
        """Show it as the API does."""
        return {
            "object": "credits",
            "currency": "usd",
            "balance_micros": self.balance_micros,
            "held_micros": self.held_micros,
            "available_micros": self.available_micros,
        }


def balance_of(tenant_id: int) -> Balance:
    """Read a tenant's balance; one row, however long its ledger is."""
    row = execute(_BALANCE, (tenant_id,)).fetchone()
    if row is None:
        raise NotFound("There is no such tenant.")
    return Balance(*row)


def post(
    tenant_id: int,
    kind: Kind,
    amount_micros: int,
    *,
    ref: str,
    at: datetime,
    created_by: str,
    reason: str | None = None,
    may_overdraw: bool = True,
    actor: str | None = None,
) -> Entry | None:
    """Append an entry and move the balance by it; None when (kind, ref) was posted before.

    `actor` goes into the audit log where that says more than `created_by`.

    Raises:
        InsufficientBalance: it would take more than is available, and may not.
    """
    if execute(_POSTED, (kind.value, ref)).fetchone() is not None:
        return None
    balance = _move(tenant_id, amount_micros, may_overdraw=may_overdraw)
    values = (tenant_id, kind, ref, amount_micros, balance)
    seq, at_ms = _append(*values, at=at, detail=NO_DETAIL, created_by=created_by, reason=reason)
    audit.record(
        _ACTIONS[kind],
        ref,
        actor=actor or created_by,
        at=at,
        tenant_id=tenant_id,
        amount_micros=amount_micros,
        reason=reason,
        seq=seq,
    )
    return Entry(tenant_id, seq, kind, ref, amount_micros, balance, clock.from_ms(at_ms))


def _move(tenant_id: int, amount_micros: int, *, may_overdraw: bool) -> int:
    """Change a balance by that, and give what it is then."""
    least = None if may_overdraw or amount_micros >= 0 else -amount_micros
    moved = execute(_MOVE, (amount_micros, tenant_id, least, least)).fetchone()
    if moved is None:
        left = balance_of(tenant_id)
        raise InsufficientBalance(
            f"That takes {dollars(-amount_micros)}, and {dollars(left.available_micros)} "
            "is available."
        )
    (balance,) = moved
    return int(balance)


def charge(
    tenant_id: int,
    request_id: str,
    *,
    cost_micros: int,
    held_micros: int,
    price_number: int,
    tokens: Tokens,
    extras: str | None,
    at: datetime,
) -> None:
    """End a request's hold and take its cost, which may be more than was held.

    The entry carries what the cost was computed from. A request that cost nothing leaves none.
    """
    moved = execute(_SETTLE, (cost_micros, held_micros, tenant_id)).fetchone()
    if cost_micros:
        detail = (
            price_number,
            tokens.input,
            tokens.cache_read,
            tokens.cache_write_5m,
            tokens.cache_write_1h,
            tokens.output,
            extras,
        )
        values = (tenant_id, Kind.CHARGE, request_id, -cost_micros, moved[0])
        _append(*values, at=at, detail=detail, created_by=None, reason=None)


def hash_of(previous: bytes, columns: str) -> bytes:
    """Chain an entry to the one before; `columns` are its values, joined by `SEPARATOR`.

    `HASHED` computes the same text inside SQLite.
    """
    return sha256(previous + columns.encode()).digest()


def _append(
    tenant_id: int,
    kind: Kind,
    ref: str,
    amount: int,
    balance_after: int,
    *,
    at: datetime,
    detail: tuple[int | str | None, ...],
    created_by: str | None,
    reason: str | None,
) -> tuple[int, int]:
    """Write the next entry of a chain; give its number and its time in milliseconds."""
    row = execute(_LAST, (tenant_id,)).fetchone()
    last_seq, last_hash, last_at = row or (0, GENESIS, 0)
    # A clock that was set back must not break the order, which statements search by.
    seq, at_ms = last_seq + 1, max(clock.to_ms(at), last_at)
    values = (
        *(tenant_id, seq, kind.value, ref, amount, balance_after, at_ms),
        *(*detail, created_by, reason),
    )
    columns = SEPARATOR.join(["" if value is None else str(value) for value in values])
    execute(_APPEND, (*values, hash_of(last_hash, columns)))
    return seq, at_ms


# A charge is no row of the audit log: it is a request's own doing, and the ledger has it.
_ACTIONS = {
    Kind.TOPUP: Action.STRIPE_TOPUP,
    Kind.GRANT: Action.CREDITS_GRANTED,
    Kind.REFUND: Action.STRIPE_REFUND,
    Kind.DISPUTE: Action.STRIPE_DISPUTE,
    Kind.ADJUSTMENT: Action.CREDITS_ADJUSTED,
}

COLUMNS = (
    *("tenant_id", "seq", "kind", "ref", "amount_micros", "balance_after_micros", "at"),
    *("price_id", "input_tokens", "cache_read_input_tokens", "cache_write_5m_tokens"),
    *("cache_write_1h_tokens", "output_tokens", "extras", "created_by", "reason"),
)
HASHED = "||char(31)||".join(f"ifnull({column},'')" for column in COLUMNS)

_BALANCE = "SELECT balance_micros, held_micros FROM tenant WHERE id = ?"
_POSTED = "SELECT 1 FROM entry WHERE kind = ? AND ref = ?"
_MOVE = """
UPDATE tenant SET balance_micros = balance_micros + ?
WHERE id = ? AND (? IS NULL OR balance_micros - held_micros >= ?)
RETURNING balance_micros
"""
_SETTLE = """
UPDATE tenant SET balance_micros = balance_micros - ?, held_micros = held_micros - ?
WHERE id = ?
RETURNING balance_micros
"""
_LAST = "SELECT seq, hash, at FROM entry WHERE tenant_id = ? ORDER BY seq DESC LIMIT 1"
_APPEND = f"INSERT INTO entry ({', '.join(COLUMNS)}, hash) VALUES ({'?, ' * len(COLUMNS)}?)"  # noqa: S608 - our columns
