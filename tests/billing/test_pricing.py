import msgspec

from server.billing.pricing import rates_json, tiers_json
from server.config.schema import Config

TARGETS = [{"upstream": "demo", "model": "m"}]
PRICE = {"input": "4.00", "output": "20.00"}


def config(**keys):
    models = {"smart": {"targets": TARGETS, "price": PRICE}}
    return msgspec.convert(
        {"upstreams": {"demo": {"protocol": "demo"}}, "models": models, **keys}, Config
    )


def rates(price):
    model = {"targets": TARGETS, "free": price is None, "price": price}
    (row,) = rates_json(config(models={"m": model}))["data"]
    return [row.pop("id"), *row.values()]


def test_each_class_is_told_in_micros_per_million_tokens():
    price = PRICE | {"cache_read": "0.20", "cache_write_5m": "5.00", "cache_write_1h": "8.00"}

    assert rates_json(config(models={"smart": {"targets": TARGETS, "price": price}})) == {
        "object": "list",
        "currency": "usd",
        "unit": "micros_per_million_tokens",
        "rounding": "ceil_per_request",
        "data": [
            {
                "id": "smart",
                "input": 4_000_000,
                "output": 20_000_000,
                "cache_read": 200_000,
                "cache_write_5m": 5_000_000,
                "cache_write_1h": 8_000_000,
            }
        ],
        "topup": {"min_cents": 500, "max_cents": 100_000},
    }


def test_a_cache_class_without_a_price_costs_what_input_costs():
    assert rates(PRICE) == ["m", 4_000_000, 20_000_000, 4_000_000, 4_000_000, 4_000_000]


def test_a_long_cache_write_without_a_price_costs_what_a_short_one_costs():
    priced = PRICE | {"cache_write_5m": "5.00"}

    assert rates(priced) == ["m", 4_000_000, 20_000_000, 4_000_000, 5_000_000, 5_000_000]


def test_a_cache_read_that_is_priced_at_nothing_is_free():
    assert rates(PRICE | {"cache_read": "0"})[3] == 0


def test_a_free_model_costs_nothing():
    assert rates(None) == ["m", 0, 0, 0, 0, 0]


def test_what_else_a_model_bills_is_told_in_whole_numbers():
    long = {"above_input_tokens": 200_000, "input": "8.00", "output": "30.00", "cache_read": "0.40"}
    extras = {"web_search": "0.01", "speed": {"fast": "6"}, "service_tier": {"flex": "0.5"}}
    price = PRICE | {"long_context": long, "per_request": extras}

    (row,) = rates_json(config(models={"m": {"targets": TARGETS, "price": price}}))["data"]

    assert row["long_context"] == {
        "above_input_tokens": 200_000,
        "input": 8_000_000,
        "output": 30_000_000,
        "cache_read": 400_000,
        "cache_write_5m": 8_000_000,
        "cache_write_1h": 8_000_000,
    }
    assert row["per_request"] == {
        "web_search_micros": 10_000,
        "speed_millionths": {"fast": 6_000_000},
        "service_tier_millionths": {"flex": 500_000},
    }


def test_auto_comes_first_with_the_rates_of_its_default():
    first, second = rates_json(config(auto={"default": "smart"}))["data"]

    assert first == second | {"id": "auto"}


def test_a_tier_is_told_with_its_quota_and_the_routes_it_opens():
    tier = {"name": "Team", "price_cents": 2000, "quota_tokens": 500_000}

    assert tiers_json(config(tiers={"team": tier}), sells=True) == {
        "object": "list",
        "currency": "usd",
        "data": [
            {
                "id": "team",
                "object": "tier",
                "name": "Team",
                "price_cents": 2000,
                "interval": "month",
                "quota": {"window_seconds": 86_400, "tokens": 500_000, "requests": None},
                "routes": ["claudecode", "cline", "cursor", "roocode", "codex"],
                "checkout_available": False,
            }
        ],
    }


def test_a_tier_can_be_bought_where_stripe_is_configured_and_it_has_a_price_there():
    tiers = {
        "team": {"name": "Team", "price_cents": 2000, "stripe_lookup_key": "team"},
        "gift": {"name": "Gift", "price_cents": 0},
    }

    shown = [tiers_json(config(tiers=tiers), sells=sells)["data"] for sells in (True, False)]

    assert [[row["checkout_available"] for row in rows] for rows in shown] == [
        [True, False],
        [False, False],
    ]
