"""Prices: from the config to a row of the database and back, with nothing lost."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.billing.rates import LongContext, Price, Rates, as_columns, from_columns, price_of
from server.config.schema import Model

RATES = st.builds(Rates, *[st.integers(0, 10**12)] * 5)
FACTORS = st.dictionaries(st.text(), st.integers(1, 10**9), min_size=1)
PRICES = st.builds(
    Price,
    number=st.integers(0),
    model=st.text(),
    rates=RATES,
    long_context=st.none() | st.builds(LongContext, st.integers(1), RATES),
    uses=st.dictionaries(st.sampled_from(["web_search", "code_execution"]), st.integers(0, 10**9)),
    factors=st.dictionaries(st.sampled_from(["speed", "service_tier"]), FACTORS),
)


def model(**keys):
    return msgspec.convert({"targets": [{"upstream": "demo", "model": "m"}], **keys}, Model)


def test_a_price_is_read_from_the_config_in_whole_numbers():
    price = {
        "input": "4.00",
        "output": "20.00",
        "cache_read": "0",
        "cache_write_5m": "5.00",
        "long_context": {
            "above_input_tokens": 200_000,
            "input": "8",
            "output": "30",
            "cache_write_1h": "16.000001",
        },
        "per_request": {"code_execution": "0.05", "inference_geo": {"us": "1.1"}},
    }

    assert price_of("smart", model(price=price)) == Price(
        number=0,
        model="smart",
        rates=Rates(4_000_000, 20_000_000, 0, 5_000_000, 5_000_000),
        long_context=LongContext(
            200_000, Rates(8_000_000, 30_000_000, 8_000_000, 8_000_000, 16_000_001)
        ),
        uses={"code_execution": 50_000},
        factors={"inference_geo": {"us": 1_100_000}},
    )


def test_a_free_model_has_no_price():
    assert price_of("local", model(free=True)) is None


@given(PRICES)
def test_a_price_survives_its_row(price):
    assert from_columns(as_columns(price) | {"created_at": 5}) == price


def test_a_plain_price_leaves_the_other_columns_empty():
    columns = as_columns(Price(7, "m", Rates(1, 2, 3, 4, 5)))

    empty = {name for name, value in columns.items() if value is None}
    assert {name: columns[name] for name in columns.keys() - empty} == {
        "number": 7,
        "model": "m",
        "input": 1,
        "output": 2,
        "cache_read": 3,
        "cache_write_5m": 4,
        "cache_write_1h": 5,
    }
    assert empty == {
        *("long_above_tokens", "long_input", "long_output", "long_cache_read"),
        *("long_cache_write_5m", "long_cache_write_1h", "extras"),
    }


def test_equal_prices_have_equal_rows_whatever_their_order_in_the_config():
    plain = {"input": "1", "output": "1"}
    first = {"speed": {"fast": "6", "slow": "0.5"}, "service_tier": {"flex": "0.5"}}
    second = {"service_tier": {"flex": "0.50"}, "speed": {"slow": "0.5", "fast": "6.0"}}

    rows = [
        as_columns(price_of("m", model(price=plain | {"per_request": extras})))
        for extras in (first, second)
    ]

    assert rows[0] == rows[1]
    assert rows[0]["extras"] == (
        '{"factors":{"service_tier":{"flex":500000},"speed":{"fast":6000000,"slow":500000}},'
        '"uses":{}}'
    )


@pytest.mark.parametrize("column", ["number", "input", "long_above_tokens"])
def test_a_row_that_holds_no_number_is_not_guessed_at(column):
    row = as_columns(Price(1, "m", Rates(1, 1, 1, 1, 1), LongContext(1, Rates(1, 1, 1, 1, 1))))

    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        from_columns(row | {column: "x"})
