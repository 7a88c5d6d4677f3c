"""What things cost: tiers and rates as the config has them, in the shapes of the API."""

from server.billing.money import micros
from server.config.schema import Config, Model

QUOTA_WINDOW_S = 86_400
TOPUP = {"min_cents": 500, "max_cents": 100_000}
TOOL_ROUTES = ["claudecode", "cline", "cursor", "roocode"]
CLASSES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


def rates_json(config: Config) -> dict[str, object]:
    """Give `GET /pricing/tokens`: a row for each model, and `auto` with its default's.

    Prices are integer micros per million tokens.
    """
    rows = [{"id": name, **rates_of(model)} for name, model in config.models.items()]
    default = config.auto.default
    if default is not None:
        rows.insert(0, {"id": "auto", **rates_of(config.models[default])})
    return {
        "object": "list",
        "currency": "usd",
        "unit": "micros_per_million_tokens",
        "rounding": "ceil_per_request",
        "data": rows,
        "topup": TOPUP,
    }


def rates_of(model: Model) -> dict[str, int]:
    """Give a model's price for each token class, in micros per million tokens.

    A cache class without a price of its own costs what plain input costs; a free model nothing.
    """
    price = model.price
    if price is None:
        return dict.fromkeys(CLASSES, 0)
    plain = price.input
    text = {
        "input": plain,
        "output": price.output,
        "cache_read": price.cache_read or plain,
        "cache_write_5m": price.cache_write_5m or plain,
        "cache_write_1h": price.cache_write_1h or price.cache_write_5m or plain,
    }
    return {name: micros(text[name]) for name in CLASSES}


def tiers_json(config: Config) -> dict[str, object]:
    """Give `GET /pricing`: the tiers that can be subscribed to, and what each allows."""
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
            "checkout_available": False,
        }
        for name, tier in config.tiers.items()
    ]
    return {"object": "list", "currency": "usd", "data": rows}
