"""Lets a request pass within its limits, counts it while it runs, and takes what it came to.

The counters are rates, and no money is owed by them: they live in memory, and a reload of the
config leaves them alone. In the mode `shadow` what would be refused passes, is told, and is not
counted, just as if it had been refused.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from itertools import product
from typing import TypeAlias

from server.config.schema import Config
from server.errors import GatewayError, KeyNotAllowed
from server.limits.account import Account, Hit
from server.limits.bounds import Bound
from server.limits.bucket import Taken

Clock: TypeAlias = Callable[[], int]
Hits: TypeAlias = Counter[tuple[str, str]]

LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "models",
    "networks",
)
MODES = ("enforce", "shadow")
REMEMBERED_OWNERS = 1024  # until those that have nothing out are looked for


class Pass:
    """What a request was let through with, to be ended when it is over.

    `would_block` names the limit that would have refused it, had that been enforced; that is
    counted at the end, for until then the request may be judged anew.
    """

    __slots__ = ("_entered", "_hits", "_is_over", "_now_ns", "would_block")

    def __init__(
        self,
        now_ns: Clock,
        hits: Hits,
        entered: Sequence[tuple[Account, Taken | None]] = (),
        *,
        would_block: str | None = None,
    ) -> None:
        self._now_ns = now_ns
        self._hits = hits
        self._entered = entered
        self._is_over = False
        self.would_block = would_block

    def end(self, tokens: int) -> None:
        """Give back what the request occupied, and take the tokens that it came to; only once."""
        if not self._is_over and self.would_block is not None:
            self._hits[self.would_block, "shadow"] += 1
        for account, taken in self._leave():
            account.leave(taken, tokens, self._now_ns())

    def undo(self) -> None:
        """Give all back, as for a request that will be judged anew; only once."""
        for account, taken in self._leave():
            account.undo(taken, self._now_ns())

    def _leave(self) -> Sequence[tuple[Account, Taken | None]]:
        entered, self._entered, self._is_over = self._entered, (), True
        return entered


class Limiter:
    """The counters of all limits, and how often each of them was hit.

    `now_ns` is a clock that never goes back, in nanoseconds.
    """

    def __init__(self, now_ns: Clock) -> None:
        self._now_ns = now_ns
        self.hits: Hits = Counter(dict.fromkeys(product(LIMITS, MODES), 0))
        self._accounts: dict[tuple[str, int], Account] = {}
        self._sweep_at = REMEMBERED_OWNERS
        self._unbound = Pass(now_ns, self.hits)

    def count(self, refusal: GatewayError) -> None:
        """Count a refusal that is told, if a limit is behind it; those that are not told, never."""
        if refusal.limit is not None:
            self.hits[refusal.limit, "enforce"] += 1

    def turn_away(self, config: Config) -> str:
        """Refuse a client that is outside of the networks of its limits.

        Where that is not enforced, counts it and gives the name of the limit instead.

        Raises:
            KeyNotAllowed: always, where it is.
        """
        away = KeyNotAllowed("This API key may not be used from your address.")
        limit = _refuse(Hit("networks", away), config)
        self.hits[limit, "shadow"] += 1
        return limit

    def admit(
        self,
        bounds: Sequence[Bound],
        model: str,
        estimate: Callable[[], int],
        config: Config,
    ) -> Pass:
        """Let a request for a logical model pass where all of its limits have room; it takes that.

        `estimate` gives its input tokens, and is asked only where they count.

        Raises:
            KeyNotAllowed: a limit leaves the model out.
            RateLimited: a limit has no room; tells after which whole second it will have.
        """
        if not bounds:
            return self._unbound
        if not allows(bounds, model):
            hit = _not_allowed(model, bounds, config)
            return Pass(self._now_ns, self.hits, would_block=_refuse(hit, config))
        now_ns = self._now_ns()
        tokens = estimate() if any(each.limits.tokens_per_minute for each in bounds) else 0
        if len(self._accounts) >= self._sweep_at:
            self._sweep(now_ns)
        met = [(bound, self._accounts.setdefault(bound.owner, Account())) for bound in bounds]
        hits = [hit for bound, account in met for hit in account.hits(bound, tokens, now_ns)]
        if hits:
            longest = max(hits, key=lambda hit: hit.wait_s)
            return Pass(self._now_ns, self.hits, would_block=_refuse(longest, config))
        entered = [(each, each.enter(bound.limits, tokens, now_ns)) for bound, each in met]
        return Pass(self._now_ns, self.hits, entered)

    def _sweep(self, now_ns: int) -> None:
        """Forget the owners that have nothing out; as often as their number has doubled."""
        kept = {
            owner: account
            for owner, account in self._accounts.items()
            if not account.is_as_new(now_ns)
        }
        self._accounts = kept
        self._sweep_at = max(REMEMBERED_OWNERS, 2 * len(kept))


def _refuse(hit: Hit, config: Config) -> str:
    if config.limits.mode == "enforce":
        hit.refusal.limit = hit.limit
        raise hit.refusal
    return hit.limit


def is_inside(bounds: Sequence[Bound], client: str) -> bool:
    """Tell whether a client's address is in one of the networks of each of its limits."""
    return all(_is_in(bound.limits.networks, client) for bound in bounds)


def _is_in(networks: Sequence[str] | None, client: str) -> bool:
    if networks is None:
        return True
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in ip_network(network) for network in networks)


def allows(bounds: Sequence[Bound], model: str) -> bool:
    """Tell whether no limit leaves a logical model out."""
    return all(
        any(fnmatchcase(model, glob) for glob in bound.limits.models)
        for bound in bounds
        if bound.limits.models is not None
    )


def _not_allowed(model: str, bounds: Sequence[Bound], config: Config) -> Hit:
    allowed = [f"`{each}`" for each in config.models if allows(bounds, each)]
    instead = f"Use one of: {', '.join(allowed)}." if allowed else "It may use none of those here."
    message = f"This API key may not use the model `{model}`. {instead}"
    return Hit("models", KeyNotAllowed(message, param="model"))
