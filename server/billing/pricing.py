"""What a request costs and at most can cost, and the price lists of the API.

A cost is rounded once, upward, for the whole request.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType

from server.billing.rates import (
    CLASSES,
    MILLION,
    LongContext,
    Price,
    Rates,
    Tokens,
    as_columns,
    canonical,
    from_columns,
    price_of,
)
from server.config.schema import Config, Model
from server.errors import InvalidRequest
from server.protocols.extras import FREE_TOOLS, Extras, is_plain

__all__ = [
    "DEFAULT_USES",
    "UNLIMITED_OUTPUT",
    "LongContext",
    "Price",
    "Rates",
    "Tokens",
    "as_columns",
    "billed_extras",
    "check_extras",
    "cost_micros",
    "extras_json",
    "from_columns",
    "price_json",
    "price_of",
    "rates_json",
    "tiers_json",
    "worst_extras",
    "worst_micros",
]

QUOTA_WINDOW_S = 86_400
TOPUP = {"min_cents": 500, "max_cents": 100_000}
TOOL_ROUTES = ["claudecode", "cline", "cursor", "roocode", "codex"]
NO_EXTRAS: Mapping[str, str | int] = MappingProxyType({})
DEFAULT_USES = 10  # what a server tool without `max_uses` is held for
UNLIMITED_OUTPUT = 2**31 - 1  # the most that anybody can ask for: its cost fits 64 bits


def cost_micros(price: Price, tokens: Tokens, extras: Mapping[str, str | int] = NO_EXTRAS) -> int:
    """Give what a request costs, rounded up once; what has no price in `extras` adds nothing."""
    return _rounded(price.rates_at(tokens.total_input).times(tokens), price, extras)


def worst_micros(
    price: Price,
    *,
    input_tokens: int,
    output_tokens: int,
    caches_5m: bool,
    caches_1h: bool,
    extras: Extras,
) -> int:
    """Bound the cost of a request with at most that input and output, whatever the classes.

    `caches_5m` and `caches_1h`: the provider may bill writes to that cache. A server tool that
    names no `max_uses` counts as `DEFAULT_USES` uses. Settings that nobody asked for and the
    answer reports all the same are beyond the bound.
    """
    tiers = _tiers(price, input_tokens, caches_5m=caches_5m, caches_1h=caches_1h)
    dearest = max(fixed + output_tokens * rate for fixed, rate in tiers)
    return _rounded(dearest, price, worst_extras(price, extras))


def worst_extras(price: Price, extras: Extras) -> dict[str, str | int]:
    """Give the most that can be billed for what is asked.

    Every tool as often as it may be used, and no setting that makes the request cheaper: a
    provider may answer without it.
    """
    worst: dict[str, str | int] = {
        setting: value
        for setting, value in extras.settings
        if price.factor(setting, value) > MILLION
    }
    uses: dict[str, int] = {}
    for tool, most in extras.uses:
        uses[tool] = uses.get(tool, 0) + (DEFAULT_USES if most is None else most)
    return worst | uses


def check_extras(price: Price | None, extras: Extras) -> None:
    """Refuse what has no price; where the model itself is free, everything is.

    Raises:
        InvalidRequest: an extra that the model's price does not know; `param` names it.
    """
    if price is None:
        return
    for tool, _ in extras.uses:
        if tool not in price.uses:
            raise _unpriced(price, "The server tool", tool, param=tool)
    for setting, value in extras.settings:
        if value not in price.factors.get(setting, {}):
            raise _unpriced(price, setting, value, param=setting)


def billed_extras(
    extras: Extras, reported_uses: Mapping[str, int], reported_settings: Mapping[str, str]
) -> dict[str, str | int]:
    """Give what a bill says: settings as the answer reports them, else as asked; uses as reported.

    What costs nothing is left out. What is reported and has no price stays, and costs nothing.
    """
    settings = dict(extras.settings) | dict(reported_settings)
    unreported = {tool: most or 0 for tool, most in extras.uses if tool in extras.unreported}
    uses = unreported | dict(reported_uses)
    billed: dict[str, str | int] = {
        setting: value for setting, value in settings.items() if not is_plain(setting, value)
    }
    return billed | {tool: n for tool, n in uses.items() if n and tool not in FREE_TOOLS}


def unpriced(price: Price, extras: Mapping[str, str | int]) -> list[str]:
    """Name what a bill holds that has no price: a provider may add what nobody asked for."""
    return [
        name if isinstance(what, int) else f"{name} {what}"
        for name, what in extras.items()
        if (
            name not in price.uses
            if isinstance(what, int)
            else what not in price.factors.get(name, {})
        )
    ]


def extras_json(extras: Mapping[str, str | int]) -> str | None:
    """Write extras as they are stored: canonical JSON, None for none."""
    return canonical(extras) if extras else None


def rates_json(config: Config) -> dict[str, object]:
    """Give `GET /pricing/tokens`: a row for each model, and `auto` with its default's.

    Prices are integer micros per million tokens.
    """
    rows = [{"id": name, **price_json(name, model)} for name, model in config.models.items()]
    default = config.auto.default
    if default is not None:
        rows.insert(0, {"id": "auto", **price_json(default, config.models[default])})
    return {
        "object": "list",
        "currency": "usd",
        "unit": "micros_per_million_tokens",
        "rounding": "ceil_per_request",
        "data": rows,
        "topup": TOPUP,
    }


def price_json(name: str, model: Model) -> dict[str, object]:
    """Show a model's price as the API does; all classes of a free model cost 0.

    A cache class without a price of its own costs what plain input costs.
    """
    price = price_of(name, model)
    if price is None:
        return dict.fromkeys(CLASSES, 0)
    shown: dict[str, object] = asdict(price.rates)
    if price.long_context is not None:
        long = price.long_context
        limit = {"above_input_tokens": long.above_input_tokens}
        shown["long_context"] = limit | asdict(long.rates)
    uses = {f"{tool}_micros": per_use for tool, per_use in price.uses.items()}
    factors = {f"{setting}_millionths": given for setting, given in price.factors.items()}
    if uses or factors:
        shown["per_request"] = uses | factors
    return shown


def tiers_json(config: Config, *, sells: bool) -> dict[str, object]:
    """Give `GET /pricing`: the tiers that there are, and what each allows.

    One with a lookup key can be bought where the gateway `sells`: where Stripe is configured.
    """
    rows = [
        {
            "id": name,
            "object": "tier",
            "name": tier.name,
            "price_cents": tier.price_cents,
            "interval": tier.interval,
            "quota": {
                "window_seconds": QUOTA_WINDOW_S,
                "tokens": tier.quota_tokens,
                "requests": tier.quota_requests,
            },
            "routes": TOOL_ROUTES,
            "checkout_available": sells and tier.stripe_lookup_key is not None,
        }
        for name, tier in config.tiers.items()
    ]
    return {"object": "list", "currency": "usd", "data": rows}


def _rounded(millionths: int, price: Price, extras: Mapping[str, str | int]) -> int:
    """Give micros for what the tokens cost at plain rates, in millionths of a micro."""
    factor, scale, uses = _weigh(price, extras)
    return -(-millionths * factor // scale) + uses


def _weigh(price: Price, extras: Mapping[str, str | int]) -> tuple[int, int, int]:
    """Give the tokens' factor, as numerator and denominator, and the micros of all uses."""
    factor, scale, uses = 1, MILLION, 0
    for name, what in extras.items():
        if isinstance(what, int):
            uses += price.uses.get(name, 0) * what
        else:
            factor *= price.factor(name, what)
            scale *= MILLION
    return factor, scale, uses


def _tiers(
    price: Price, input_tokens: int, *, caches_5m: bool, caches_1h: bool
) -> Iterator[tuple[int, int]]:
    """Give, for each tier that the request may end in, its dearest input and its output rate.

    In millionths of a micro, and those per token.
    """
    plain, long = price.rates, price.long_context
    most = input_tokens if long is None else min(input_tokens, long.above_input_tokens)
    yield most * plain.dearest_input(caches_5m=caches_5m, caches_1h=caches_1h), plain.output
    if long is not None and input_tokens > most:
        dearest = long.rates.dearest_input(caches_5m=caches_5m, caches_1h=caches_1h)
        yield input_tokens * dearest, long.rates.output


def _unpriced(price: Price, kind: str, name: str, *, param: str) -> InvalidRequest:
    return InvalidRequest(
        f'{kind} "{name}" has no price for the model "{price.model}" here; leave it out, or ask '
        "whoever runs this gateway to price it.",
        param=param,
    )
