"""Money and quota as they should be, in plain Python: what the real ones are held against.

Nothing here is kept that can be derived: what is held is the sum of what open requests hold, what
is used the sum of what the window's requests used. Amounts are fractions until they are rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil

from server.billing.rates import CLASSES, Rates, Tokens

DAY_MS = 24 * 60 * 60 * 1000
Units = Callable[[int], int]


@dataclass
class Asked:
    """A request: what it holds, where, and in the end what it came to."""

    request_id: str
    tenant: int
    model: str | None  # what priced it; None: free, or of a subscription
    window: int | None  # the quota window; None: money, or nothing
    instance: int
    held: int
    covered: int  # the output that is granted
    progress: Tokens
    is_open: bool = True
    counts: bool = True  # as one of its window's requests
    used: int = 0
    month: str | None = None  # None: its key never has a cap
    cost: int = 0


@dataclass
class Subscribed:
    """A subscription as it was last told of, and its window."""

    tier: str
    status: str
    grace_until: int | None
    cancel_at: int | None
    window: int = 0
    began: int | None = None

    def is_entitled(self, now: int) -> bool:
        if self.cancel_at is not None and self.cancel_at <= now:
            return False
        late = self.status == "past_due" and (self.grace_until or 0) > now
        return late or self.status in {"active", "trialing"}

    def is_over(self, now: int) -> bool:
        return self.began is None or now - self.began >= DAY_MS


@dataclass
class Books:
    """All that happened, to two tenants; a tenant is its number."""

    rates: dict[str, Rates]
    weights: dict[str, Fraction]
    limits: dict[str, tuple[int | None, int | None]]  # tier -> tokens, requests
    requests: list[Asked] = field(default_factory=list)
    entries: dict[int, list[tuple[str, str, int, int]]] = field(default_factory=dict)
    last_at: dict[int, int] = field(default_factory=dict)
    subscribed: dict[int, Subscribed] = field(default_factory=dict)
    debts: dict[int, int] = field(default_factory=dict)  # how far an overdraft can be explained
    caps: dict[int, int | None] = field(default_factory=dict)  # of each tenant's limited keys

    def balance(self, tenant: int) -> int:
        return sum(amount for _, _, amount, _ in self.entries[tenant])

    def held(self, tenant: int) -> int:
        return sum(each.held for each in self.requests if _holds_money(each, tenant))

    def available(self, tenant: int) -> int:
        return self.balance(tenant) - self.held(tenant)

    def spent(self, tenant: int, month: str) -> tuple[int, int]:
        """Give what a tenant's limited keys were charged and hold, all of them together."""
        found = [each for each in self.requests if (each.tenant, each.month) == (tenant, month)]
        return sum(each.cost for each in found), sum(each.held for each in found if each.is_open)

    def spendable(self, tenant: int, month: str | None) -> int:
        """Tell how much more can be held: of the balance, and under the cap of limited keys."""
        cap = None if month is None else self.caps.get(tenant)
        if month is None or cap is None:
            return self.available(tenant)
        return min(self.available(tenant), cap - sum(self.spent(tenant, month)))

    def of_window(self, tenant: int, window: int) -> tuple[int, int, int]:
        """Give what is used, held and counted in a window."""
        found = [each for each in self.requests if (each.tenant, each.window) == (tenant, window)]
        return (
            sum(each.used for each in found if not each.is_open),
            sum(each.held for each in found if each.is_open),
            sum(each.counts for each in found),
        )

    def post(
        self, tenant: int, kind: str, amount: int, ref: str, now: int, *, bounded: bool
    ) -> str | None:
        """Give "refused", or "known", or None where an entry was written."""
        if any((kind, ref) == each[:2] for rows in self.entries.values() for each in rows):
            return "known"
        if bounded and amount < 0 and self.available(tenant) < -amount:
            return "refused"
        self.entries[tenant].append((kind, ref, amount, self.balance(tenant) + amount))
        self.last_at[tenant] = max(self.last_at[tenant], now)
        if not bounded:
            self.debts[tenant] += max(0, -amount)
        return None

    def worst_money(self, model: str, estimate: int, *, sure: bool) -> Units:
        """Price an input of which only the size is known; `sure`: it may be cached for an hour."""
        rates = self.rates[model]
        dear = [rates.input, rates.cache_read, rates.cache_write_5m]
        per_token = max([*dear, rates.cache_write_1h] if sure else dear)
        return lambda output: _micros(estimate * per_token + output * rates.output)

    def exact_money(self, model: str, tokens: Tokens) -> Units:
        rates = self.rates[model]
        known = sum(getattr(tokens, name) * getattr(rates, name) for name in CLASSES[2:])
        known += tokens.input * rates.input
        return lambda output: _micros(known + output * rates.output)

    def worst_quota(self, estimate: int) -> Units:
        dearest = max(self.weights[name] for name in ("input", "cache_read", "cache_write"))
        return lambda output: ceil(estimate * dearest + output * self.weights["output"])

    def exact_quota(self, tokens: Tokens) -> Units:
        written = tokens.cache_write_5m + tokens.cache_write_1h
        known = tokens.input * self.weights["input"] + written * self.weights["cache_write"]
        known += tokens.cache_read * self.weights["cache_read"]
        return lambda output: ceil(known + output * self.weights["output"])

    def room(self, tenant: int, now: int) -> int | None:
        """Tell how much quota a new request can hold; None: it cannot begin at all."""
        row = self.subscribed.get(tenant)
        if row is None or row.tier not in self.limits or not row.is_entitled(now):
            return None
        tokens, requests = self.limits[row.tier]
        used, held, counted = (0, 0, 0) if row.is_over(now) else self.of_window(tenant, row.window)
        if requests is not None and counted >= requests:
            return None
        return 2**62 if tokens is None else tokens - used - held

    def use_window(self, tenant: int, now: int) -> int:
        """Give the number of the window that a request which begins now belongs to."""
        row, second = self.subscribed[tenant], now - now % 1000
        if row.is_over(now):
            row.window, row.began = row.window + 1, second
        else:
            row.began = min(row.began, second)
        return row.window

    def room_to_grow(self, asked: Asked) -> int:
        """Tell how much more a running request can hold."""
        if asked.window is None:
            return self.spendable(asked.tenant, asked.month)
        row = self.subscribed[asked.tenant]
        tokens = self.limits.get(row.tier, (None, None))[0]
        if tokens is None or asked.window != row.window:
            return 2**62
        used, held, _ = self.of_window(asked.tenant, row.window)
        return tokens - used - held

    def grow(self, asked: Asked, units: Units, wanted: int) -> None:
        """Fit a hold to what is wanted, or to the most that there is."""
        free = self.room_to_grow(asked)
        if units(wanted) <= asked.held + max(0, free):
            asked.held, asked.covered = units(wanted), wanted
            return
        output = longest(units, wanted, asked.held + max(0, free))
        asked.held = max(asked.held, units(output) if output >= 0 else 0)
        asked.covered = max(0, output)

    def settle(self, asked: Asked, tokens: Tokens, now: int, *, served: bool) -> tuple[int, int]:
        """End a request; give its cost and the quota it used."""
        cost = used = 0
        if asked.window is not None:
            used = self.exact_quota(tokens)(tokens.output)
        elif asked.model is not None:
            cost = self.exact_money(asked.model, tokens)(tokens.output)
            self.debts[asked.tenant] += max(0, cost - asked.held)
        asked.is_open, asked.used, asked.counts = False, used, served or used > 0
        asked.cost = cost
        if cost:
            self.post(asked.tenant, "charge", -cost, asked.request_id, now, bounded=False)
            self.debts[asked.tenant] -= cost
        return cost, used


def longest(units: Units, wanted: int, budget: int) -> int:
    """Try every length of output; -1 if not even none can be paid for."""
    return max((n for n in range(wanted + 1) if units(n) <= budget), default=-1)


def _holds_money(asked: Asked, tenant: int) -> bool:
    return asked.is_open and asked.tenant == tenant and asked.window is None


def _micros(millionths: int) -> int:
    return ceil(Fraction(millionths, 10**6))
