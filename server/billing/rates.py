"""A model's price: what the config says, as the numbered row that bills refer to.

All amounts are integers: a rate is micros per million tokens, a factor millionths.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import msgspec
from msgspec import Struct

from server.billing.money import micros, millionths
from server.config import schema

MILLION = 1_000_000
CLASSES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


class Tokens(Struct, frozen=True):
    """The tokens of one request; the classes do not overlap."""

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0

    @property
    def total_input(self) -> int:
        """All input, cached or not."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


@dataclass(frozen=True, slots=True)
class Rates:
    """Micros per million tokens of each class."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    def times(self, tokens: Tokens) -> int:
        """Give what `tokens` cost, in millionths of a micro: nothing is rounded."""
        return (
            tokens.input * self.input
            + tokens.cache_read * self.cache_read
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
            + tokens.output * self.output
        )

    def dearest_input(self, *, caches_5m: bool, caches_1h: bool) -> int:
        """Give the most that a token of input can cost; a provider may read its cache unasked."""
        rates = [self.input, self.cache_read]
        if caches_5m:
            rates.append(self.cache_write_5m)
        if caches_1h:
            rates.append(self.cache_write_1h)
        return max(rates)


@dataclass(frozen=True, slots=True)
class LongContext:
    """The rates of all tokens of a request with more input, caches included, than the limit."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """An immutable row of table `price`: what a model costs. Number 0 is not stored yet.

    `uses` are micros for one use of a server tool; `factors` multiply what the tokens cost, by
    setting and value, in millionths.
    """

    number: int
    model: str
    rates: Rates
    long_context: LongContext | None = None
    uses: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def rates_at(self, input_tokens: int) -> Rates:
        """Give the rates of a request with so much input, caches included."""
        long = self.long_context
        return self.rates if long is None or input_tokens <= long.above_input_tokens else long.rates

    def factor(self, setting: str, value: str) -> int:
        """Give a setting's factor in millionths; one without a price changes nothing."""
        return self.factors.get(setting, {}).get(value, MILLION)


def price_of(name: str, model: schema.Model) -> Price | None:
    """Give the price that the config sets for a model; None for a free one."""
    price = model.price
    if price is None:
        return None
    long, extras = price.long_context, price.per_request
    uses = {"web_search": extras.web_search, "code_execution": extras.code_execution}
    factors = {
        "speed": extras.speed,
        "service_tier": extras.service_tier,
        "inference_geo": extras.inference_geo,
    }
    return Price(
        number=0,
        model=name,
        rates=_rates(price),
        long_context=None if long is None else LongContext(long.above_input_tokens, _rates(long)),
        uses={tool: micros(usd) for tool, usd in uses.items() if usd is not None},
        factors={
            setting: {value: millionths(factor) for value, factor in given.items()}
            for setting, given in factors.items()
            if given
        },
    )


def dollars_by_class(priced: schema.Rates) -> dict[str, str]:
    """Apply the rule for what is left out: a cache class costs what plain input costs."""
    write_5m = priced.cache_write_5m or priced.input
    return {
        "input": priced.input,
        "output": priced.output,
        "cache_read": priced.cache_read or priced.input,
        "cache_write_5m": write_5m,
        "cache_write_1h": priced.cache_write_1h or write_5m,
    }


def as_columns(price: Price) -> dict[str, int | str | None]:
    """Give a price as its row in table `price`; `number` is the row's id."""
    long = price.long_context
    classes = asdict(price.rates)
    long_rates = dict.fromkeys(classes) if long is None else asdict(long.rates)
    extras = {"factors": price.factors, "uses": price.uses}
    return {
        "number": price.number,
        "model": price.model,
        **classes,
        "long_above_tokens": None if long is None else long.above_input_tokens,
        **{f"long_{name}": rate for name, rate in long_rates.items()},
        "extras": canonical(extras) if price.factors or price.uses else None,
    }


def from_columns(row: Mapping[str, object]) -> Price:
    """Read a row of table `price`; columns that say nothing of the price are passed over."""
    above = row["long_above_tokens"]
    plain = {name: row[name] for name in CLASSES}
    long = {name: row[f"long_{name}"] for name in CLASSES}
    stored = _EXTRAS.decode(str(row["extras"] or "{}"))
    return Price(
        number=msgspec.convert(row["number"], int),
        model=str(row["model"]),
        rates=msgspec.convert(plain, Rates),
        long_context=None
        if above is None
        else LongContext(msgspec.convert(above, int), msgspec.convert(long, Rates)),
        uses=stored.uses,
        factors=stored.factors,
    )


def canonical(value: object) -> str:
    """Write a value as JSON of one form: keys sorted, no spaces."""
    return _CANONICAL.encode(value).decode()


def _rates(priced: schema.Rates) -> Rates:
    return Rates(**{name: micros(usd) for name, usd in dollars_by_class(priced).items()})


class _Extras(msgspec.Struct):
    uses: dict[str, int] = {}
    factors: dict[str, dict[str, int]] = {}


_EXTRAS = msgspec.json.Decoder(_Extras)
_CANONICAL = msgspec.json.Encoder(order="sorted")
