"""The prices in force: numbered rows that are never changed."""

from datetime import timedelta

import pytest
from support.money import NOW, SMART, config, run

from server.billing import prices
from server.billing.rates import LongContext, Rates
from server.config import schema
from server.store.models import Price

LATER = NOW + timedelta(days=1, microseconds=999)
DEARER = schema.Price(input="5.00", output="20.00")
RICH = schema.Price(
    input="4.00",
    output="20.00",
    long_context=schema.LongContext(input="8", output="30", above_input_tokens=200_000),
    per_request=schema.PerRequest(web_search="0.01", speed={"fast": "6"}),
)

pytestmark = pytest.mark.usefixtures("store")


def in_force(now=NOW, **models):
    return run(prices.in_force, config(models), now)


def test_each_price_has_a_number_and_a_row():
    numbered = in_force(smart=SMART, fast=DEARER)

    assert {name: price.number for name, price in numbered.items()} == {"smart": 1, "fast": 2}
    row = Price.get_by_id(1)
    assert (row.model, row.input, row.output, row.cache_read) == (
        *("smart", 4_000_000, 20_000_000, 400_000),
    )
    assert (row.long_above_tokens, row.extras, row.created_at) == (None, None, NOW)


def test_a_free_model_has_no_price():
    assert in_force(local=None) == {}
    assert Price.select().count() == 0


def test_the_same_price_keeps_its_number():
    first = in_force(smart=SMART, rich=RICH)

    assert in_force(LATER, smart=SMART, rich=RICH) == first
    assert Price.select().count() == 2


@pytest.mark.parametrize(
    "spelling",
    [
        {"input": "4", "output": "20.0", "cache_write_5m": "5", "cache_write_1h": "8.000000"},
        {"input": "4.000", "output": "20", "cache_write_5m": "5.0", "cache_write_1h": "8"},
    ],
)
def test_the_same_amounts_are_the_same_price_however_they_are_written(spelling):
    in_force(smart=SMART)

    assert in_force(smart=schema.Price(cache_read="0.4", **spelling))["smart"].number == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"input": "4.000001"},
        {"output": "21"},
        {"cache_read": "0"},
        {"cache_write_5m": "6"},
        {"cache_write_1h": "6"},
        {"long_context": RICH.long_context},
        {"per_request": schema.PerRequest(web_search="0.01")},
        {"per_request": schema.PerRequest(speed={"fast": "6"})},
    ],
)
def test_a_change_is_a_new_row_and_the_old_one_stays(changed):
    old = in_force(smart=SMART)["smart"]
    fields = {name: getattr(SMART, name) for name in schema.Price.__struct_fields__}

    new = in_force(LATER, smart=schema.Price(**fields | changed))["smart"]

    assert (old.number, new.number) == (1, 2)
    assert prices.by_number(1) == old
    assert prices.by_number(2) == new != old


def test_a_price_that_comes_back_is_a_new_row():
    """A row tells since when it was in force, so one cannot stand for two spans."""
    first = in_force(smart=SMART)["smart"]
    in_force(smart=DEARER)

    again = in_force(LATER, smart=SMART)["smart"]

    assert (first.number, again.number) == (1, 3)
    assert first.rates == again.rates
    assert Price.get_by_id(3).created_at == NOW + timedelta(days=1)
    assert in_force(smart=SMART)["smart"].number == 3


def test_a_model_that_was_free_or_gone_for_a_while_keeps_its_price():
    in_force(smart=SMART)
    in_force(smart=None)
    in_force()

    assert in_force(smart=SMART)["smart"].number == 1


def test_prices_of_models_are_apart():
    in_force(smart=SMART, other=SMART)

    assert prices.latest("smart").number == 1
    assert prices.latest("other").number == 2
    assert prices.latest("nobody") is None


def test_all_of_a_price_comes_back_from_its_row():
    price = in_force(rich=RICH)["rich"]

    assert price.number == 1
    assert price.long_context == LongContext(
        200_000, Rates(8_000_000, 30_000_000, 8_000_000, 8_000_000, 8_000_000)
    )
    assert price.uses == {"web_search": 10_000}
    assert price.factors == {"speed": {"fast": 6_000_000}}
    assert prices.by_number(1) == price


def test_a_number_that_was_never_given_is_an_error():
    with pytest.raises(KeyError, match=r"^7$"):
        prices.by_number(7)
