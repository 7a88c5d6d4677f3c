"""Monthly caps: what a key's requests may be charged in a calendar month, held as money is.

The cap is read from the key in the same transaction, so that a running stream meets the one of
now. What exceeds a hold is charged in truth, to the cap as to the balance.
"""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from server import clock
from server.billing.holds import Money, Refusal
from server.billing.money import dollars, micros
from server.config.schema import UsageLimits
from server.errors import SpendCapReached
from server.store.statements import execute
from server.tenants import spend


class Capped(Struct, frozen=True):
    """Holds micros of a tenant's balance that count under a key's cap too."""

    money: Money
    key_id: int
    month: str

    @property
    def tenant_id(self) -> int:
        return self.money.tenant_id

    def place(self, units: int) -> int | None:
        return 0 if self.change(units, None) else None

    def change(self, units: int, window: int | None) -> bool:
        if not self.money.change(units, window):
            return False
        if self._count(units):
            return True
        self.money.change(-units, window)
        return False

    def free_units(self, window: int | None = None) -> int | None:
        left, free = self._left(), self.money.free_units(window)
        return free if left is None or free is None else min(left, free)

    def refusal(self, units: int) -> Refusal:
        free, left = self.money.free_units(), self._left()
        if left is None or units <= left or (free is not None and free < units):
            return self.money.refusal(units)
        cap, charged, held = self._standing()
        running = f", {dollars(held)} is held by running requests" if held else ""
        refusal = SpendCapReached(
            f"The monthly cap of {dollars(cap or 0)} has no room for this request: "
            f"{dollars(charged)} is spent{running}, and it needs {dollars(units)}. "
            f"The next month begins on {_day(spend.end_of(self.month))}; the operator can raise "
            "the cap with `gatewayctl keys limit`."
        )
        refusal.held = held
        return refusal

    def _count(self, units: int) -> bool:
        """Hold under the cap; at once where less is held, and where by now there is none."""
        head_id, cap = _cap_of(self.key_id)
        if cap is None:
            return True
        spend.kept(head_id, self.month)
        least = units if units > 0 else None
        return bool(execute(_HOLD, (units, head_id, self.month, least, least, cap)).rowcount)

    def _left(self) -> int | None:
        cap, charged, held = self._standing()
        return None if cap is None else cap - charged - held

    def _standing(self) -> tuple[int | None, int, int]:
        head_id, cap = _cap_of(self.key_id)
        row = execute(_SPEND, (head_id, self.month)).fetchone()
        return cap, *(row or spend.derive(head_id, self.month))


def settle(key_id: int, month: str, *, cost_micros: int, held_micros: int) -> None:
    """End a hold under a cap, and count what the request cost."""
    execute(_SETTLE, (cost_micros, held_micros, key_id, month))


def standing(key_id: int, now: datetime) -> dict[str, Any] | None:
    """Tell what this month has come to under a key's cap; None where it has none."""
    head_id, cap = _cap_of(key_id)
    if cap is None:
        return None
    month = spend.month_of(now)
    row = execute(_SPEND, (head_id, month)).fetchone()
    charged, held = row or spend.derive(head_id, month)
    return {
        "month": month,
        "spent_micros": charged,
        "held_micros": held,
        "cap_micros": cap,
        "resets_at": clock.rfc3339(spend.end_of(month)),
    }


def cap_micros(limits: UsageLimits) -> int | None:
    """Give a monthly cap in micros; None where there is none."""
    return None if limits.monthly_usd is None else micros(limits.monthly_usd)


def _cap_of(key_id: int) -> tuple[int, int | None]:
    """Find the key whose limits a key has, and its cap."""
    head_id, text = execute(_LIMITS_OF, (key_id,)).fetchone()
    return head_id, None if text is None else cap_micros(_LIMITS.decode(text))


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}, 00:00 UTC"


_LIMITS = msgspec.json.Decoder(UsageLimits)
_LIMITS_OF = """
SELECT head.id, head.limits FROM "key" JOIN "key" AS head
    ON head.id = COALESCE("key".limits_key_id, "key".id)
WHERE "key".id = ?
"""
_SPEND = "SELECT charged_micros, held_micros FROM spend WHERE key_id = ? AND month = ?"
_HOLD = """
UPDATE spend SET held_micros = held_micros + ?
WHERE key_id = ? AND month = ? AND (? IS NULL OR charged_micros + held_micros + ? <= ?)
"""
_SETTLE = """
UPDATE spend SET charged_micros = charged_micros + ?, held_micros = held_micros - ?
WHERE key_id = (SELECT COALESCE(limits_key_id, id) FROM "key" WHERE id = ?) AND month = ?
"""
