"""Money and quota set aside while a request runs: taken, grown and given back.

Every check and its change are one conditional UPDATE, so two requests that race for the last
cent cannot both have it. All run inside the caller's transaction.
"""

from bisect import bisect_right
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeAlias

from msgspec import Struct

from server import clock
from server.billing import ledger, quota
from server.billing.allowance import Tiers
from server.billing.money import dollars
from server.errors import InsufficientBalance, QuotaExceeded, SubscriptionInactive
from server.store.statements import execute

Refusal: TypeAlias = InsufficientBalance | QuotaExceeded | SubscriptionInactive


class Demand(Struct, frozen=True):
    """What a request wants set aside: the units that each length of output needs, and which.

    `units` rises with the output; a unit is a micro or a weighted token. Less than
    `least_output` is not worth having.
    """

    units: Callable[[int], int]
    wanted_output: int
    least_output: int


class Grant(Struct, frozen=True):
    """What was set aside, and the output that it pays for; `window` is a quota's."""

    held: int
    output_tokens: int
    window: int | None = None


class Pool(Protocol):
    """Where holds come from: a tenant's balance, or its subscription's quota."""

    @property
    def tenant_id(self) -> int: ...

    def place(self, units: int) -> int | None:
        """Begin a hold of `units`; give its window (0 for money), or None if refused."""

    def change(self, units: int, window: int | None) -> bool:
        """Make a hold larger, if there is enough, or (below 0) smaller, which always works."""

    def free_units(self, window: int | None = None) -> int | None:
        """Tell what is left to hold, of a hold's own window if one is given; None: no such pool."""

    def refusal(self, units: int) -> Refusal:
        """Say why a hold of `units` cannot be had."""


class Money(Struct, frozen=True):
    """Holds micros of a tenant's balance."""

    tenant_id: int

    def place(self, units: int) -> int | None:
        return 0 if self.change(units, None) else None

    def change(self, units: int, window: int | None) -> bool:  # noqa: ARG002 - money has none
        least = units if units > 0 else None
        cursor = execute(_HOLD, (units, self.tenant_id, least, least))
        return bool(cursor.rowcount)

    def free_units(self, window: int | None = None) -> int | None:  # noqa: ARG002 - likewise
        return ledger.balance_of(self.tenant_id).available_micros

    def refusal(self, units: int) -> Refusal:
        balance = ledger.balance_of(self.tenant_id)
        running = f" ({dollars(balance.held_micros)} is held by running requests)"
        refusal = InsufficientBalance(
            f"Insufficient balance: this request needs {dollars(units)}, and "
            f"{dollars(max(0, balance.available_micros))} is available"
            f"{running if balance.held_micros else ''}. Top up with POST /tenant/billing/topup, "
            "or ask the operator to run `gatewayctl credits grant`."
        )
        refusal.held = balance.held_micros
        return refusal


class Quota(Struct, frozen=True):
    """Holds weighted tokens of a subscription's quota, and counts the request."""

    tenant_id: int
    tiers: Tiers
    now: datetime

    def place(self, units: int) -> int | None:
        return quota.take(self.tenant_id, units, self.tiers, clock.to_ms(self.now))

    def change(self, units: int, window: int | None) -> bool:
        return quota.change(self.tenant_id, units, window, self.tiers)

    def free_units(self, window: int | None = None) -> int | None:
        return quota.free_tokens(self.tenant_id, self.tiers, clock.to_ms(self.now), window)

    def refusal(self, units: int) -> Refusal:
        return quota.refusal(self.tenant_id, units, self.tiers, self.now)


def place(pool: Pool, demand: Demand) -> Grant:
    """Set aside what `demand` wants, or as much of it as there is.

    Raises:
        InsufficientBalance, QuotaExceeded, SubscriptionInactive: not even its least is there.
    """
    wanted = demand.units(demand.wanted_output)
    window = pool.place(wanted)
    if window is not None:
        return Grant(wanted, demand.wanted_output, window)
    output = _affordable(pool.free_units(), demand)
    if output < demand.least_output or output < 0:
        raise pool.refusal(demand.units(demand.least_output))
    units = demand.units(output)
    window = pool.place(units)
    if window is None:
        raise pool.refusal(units)
    return Grant(units, output, window)


def adjust(pool: Pool, demand: Demand, held: int, window: int | None) -> Grant:
    """Make a hold of `held` units what `demand` wants, or as much of that as there is.

    Never refuses: a grant for less output than was wanted is for the caller to act on.
    """
    wanted = demand.units(demand.wanted_output)
    if pool.change(wanted - held, window):
        return Grant(wanted, demand.wanted_output, window)
    # What is held stays held, even where a refund has left less than nothing besides.
    free = max(0, pool.free_units(window) or 0)
    output = max(0, _affordable(free + held, demand))
    units = demand.units(output)
    if units > held and pool.change(units - held, window):
        return Grant(units, output, window)
    return Grant(held, min(output, demand.wanted_output), window)


def why_not(pool: Pool, grant: Grant, units: int) -> Refusal | None:
    """Say why a hold cannot be made one of `units`; None where it can."""
    free = pool.free_units(grant.window)
    if free is not None and units <= free + grant.held:
        return None
    return pool.refusal(units)


def _affordable(free: int | None, demand: Demand) -> int:
    """Give the longest output up to the wanted one that `free` units pay for; -1 if none."""
    if free is None:
        return -1
    lengths = range(demand.wanted_output + 1)
    return bisect_right(lengths, free, key=demand.units) - 1


_HOLD = """
UPDATE tenant SET held_micros = held_micros + ?
WHERE id = ? AND (? IS NULL OR balance_micros - held_micros >= ?)
"""
