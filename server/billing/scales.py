"""What tokens come to, in the unit that a key pays in: micros, or weighted tokens."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from server.billing import pricing
from server.billing.allowance import Weights
from server.billing.pricing import Price, Tokens
from server.protocols.extras import Extras

Units = Callable[[int], int]  # output tokens -> units


class Bill(Struct, frozen=True):
    """What a request came to: micros of the balance, or weighted tokens of the quota.

    `anomaly` names what the provider says that it billed and that has no price here.
    """

    cost_micros: int = 0
    quota_tokens: int = 0
    extras: str | None = None
    anomaly: str | None = None


def columns_of(tokens: Tokens, bill: Bill) -> dict[str, Any]:
    """Give what a request's row says of its tokens and its bill, by column."""
    return {
        "input_tokens": tokens.input,
        "cache_read_input_tokens": tokens.cache_read,
        "cache_write_5m_tokens": tokens.cache_write_5m,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "output_tokens": tokens.output,
        "cost_micros": bill.cost_micros,
        "quota_tokens": bill.quota_tokens,
        "extras": bill.extras,
    }


class Scale(Protocol):
    """Turns tokens into units, before and after they are known."""

    def upfront(self, input_tokens: int) -> Units:
        """Bound what a request with at most that input needs."""

    def exact(self, tokens: Tokens) -> Units:
        """Give what a request needs whose input is known."""

    def bill(self, tokens: Tokens, uses: Mapping[str, int], settings: Mapping[str, str]) -> Bill:
        """Give what a request came to, with the extras that its answer reported."""


class InMicros(Struct, frozen=True):
    """Counts money, at the price in force when the request came.

    Where `is_sure`, what is held covers every use of a server tool and the dearest cache; else
    one use of each and the cache of five minutes, for tools offer a search with every request
    and few make one.
    """

    price: Price
    extras: Extras
    is_sure: bool = False

    def upfront(self, input_tokens: int) -> Units:
        extras = self._held_extras()

        def units(output_tokens: int) -> int:
            return pricing.worst_micros(
                self.price,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                caches_5m=True,
                caches_1h=self.is_sure,
                extras=extras,
            )

        return units

    def exact(self, tokens: Tokens) -> Units:
        extras = pricing.worst_extras(self.price, self._held_extras())

        def units(output_tokens: int) -> int:
            known = replace(tokens, output=output_tokens)
            return pricing.cost_micros(self.price, known, extras)

        return units

    def bill(self, tokens: Tokens, uses: Mapping[str, int], settings: Mapping[str, str]) -> Bill:
        extras = pricing.billed_extras(self.extras, uses, settings)
        cost = pricing.cost_micros(self.price, tokens, extras)
        if not extras:
            return Bill(cost_micros=cost)
        anomaly = None
        if unpriced := pricing.unpriced(self.price, extras):
            anomaly = f"no price for {', '.join(unpriced)}"
        return Bill(cost_micros=cost, extras=pricing.extras_json(extras), anomaly=anomaly)

    def _held_extras(self) -> Extras:
        if self.is_sure or not self.extras.uses:
            return self.extras
        uses = {tool: 1 if most is None else min(1, most) for tool, most in self.extras.uses}
        return Extras(tuple(uses.items()), self.extras.settings, self.extras.unreported)


class InQuota(Struct, frozen=True):
    """Counts weighted tokens."""

    weights: Weights

    def upfront(self, input_tokens: int) -> Units:
        return partial(self._worst, input_tokens)

    def exact(self, tokens: Tokens) -> Units:
        return lambda output_tokens: self.weights.weigh(replace(tokens, output=output_tokens))

    def bill(self, tokens: Tokens, uses: Mapping[str, int], settings: Mapping[str, str]) -> Bill:  # noqa: ARG002 - see Scale
        return Bill(quota_tokens=self.weights.weigh(tokens))

    def _worst(self, input_tokens: int, output_tokens: int) -> int:
        return self.weights.worst(input_tokens=input_tokens, output_tokens=output_tokens)
