"""What tokens come to in micros and in weighted tokens, before and after they are known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.billing.allowance import Weights
from server.billing.rates import LongContext, Price, Rates, Tokens
from server.billing.scales import Bill, InMicros, InQuota
from server.protocols.extras import NONE, Extras

SMART = Price(
    number=1,
    model="smart",
    rates=Rates(
        input=4_000_000,
        output=20_000_000,
        cache_read=400_000,
        cache_write_5m=5_000_000,
        cache_write_1h=8_000_000,
    ),
    long_context=LongContext(1000, Rates(8_000_000, 30_000_000, 800_000, 10_000_000, 16_000_000)),
    uses={"web_search": 10_000},
    factors={"speed": {"fast": 6_000_000}, "service_tier": {"flex": 500_000}},
)
WEIGHTS = Weights(input=1_000_000, output=1_000_000, cache_read=100_000, cache_write=1_250_000)
COUNT = st.integers(0, 1500)
TOKENS = st.builds(Tokens, COUNT, COUNT, COUNT, COUNT)
ASKED = st.builds(
    Extras,
    st.lists(st.tuples(st.just("web_search"), st.none() | st.integers(0, 5)), max_size=3).map(
        tuple
    ),
    st.sampled_from([(), (("speed", "fast"),), (("service_tier", "flex"),)]),
)


def test_upfront_the_input_is_taken_at_its_dearest():
    """A provider caches unasked for five minutes, never for an hour."""
    likely, sure = (InMicros(SMART, NONE, sure).upfront(100) for sure in (False, True))

    assert (likely(0), likely(10)) == (500, 700)
    assert (sure(0), sure(10)) == (800, 1000)


def test_input_that_may_be_long_is_held_at_the_rates_of_long():
    units = InMicros(SMART, NONE).upfront(1001)

    assert units(10) == 10_010 + 300


def test_once_the_input_is_known_a_hold_is_what_it_costs():
    units = InMicros(SMART, NONE).exact(Tokens(10, 100, 20, 30, 999))

    assert (units(0), units(7)) == (40 + 40 + 100 + 240, 420 + 140)


@pytest.mark.parametrize(
    ("uses", "searches"),
    [
        ((("web_search", 3),), 3),
        ((("web_search", None),), 10),
        ((("web_search", 0),), 0),
        ((("web_search", 2), ("web_search", 5)), 7),
    ],
)
def test_a_hold_covers_every_use_of_a_tool_that_is_still_allowed(uses, searches):
    scale = InMicros(SMART, Extras(uses), is_sure=True)

    assert scale.upfront(100)(0) == 800 + searches * 10_000
    assert scale.exact(Tokens(input=100))(0) == 400 + searches * 10_000


def test_a_discount_that_was_asked_for_is_not_counted_on():
    """A provider may answer at its standard price all the same."""
    scale = InMicros(SMART, Extras(settings=(("service_tier", "flex"),)))

    assert scale.upfront(100)(10) == 700
    assert scale.exact(Tokens(input=100))(10) == 600
    assert scale.bill(Tokens(input=100, output=10), {}, {"service_tier": "default"}) == Bill(
        cost_micros=600
    )
    assert scale.bill(Tokens(input=100, output=10), {}, {}) == Bill(
        cost_micros=300, extras='{"service_tier":"flex"}'
    )


@given(TOKENS, COUNT, ASKED, st.integers(0, 5), st.booleans())
def test_no_bill_is_above_what_was_held(tokens, output, asked, uses, is_standard):
    """However much of what was allowed was used, and whatever the provider made of a setting."""
    scale = InMicros(SMART, asked, is_sure=True)
    allowed = sum(10 if most is None else most for _, most in asked.uses)
    reported = {"web_search": min(uses, allowed)}
    settings = {name: "standard" for name, _ in asked.settings} if is_standard else {}

    bill = scale.bill(replace(tokens, output=output), reported, settings)

    assert bill.cost_micros <= scale.exact(tokens)(output)
    assert bill.cost_micros <= scale.upfront(tokens.total_input)(output)
    assert bill.quota_tokens == 0


@given(TOKENS, COUNT)
def test_no_use_of_a_quota_is_above_what_was_held(tokens, output):
    scale = InQuota(WEIGHTS)

    bill = scale.bill(replace(tokens, output=output), {"web_search": 3}, {})

    assert bill == Bill(quota_tokens=scale.exact(tokens)(output))
    assert bill.quota_tokens <= scale.upfront(tokens.total_input)(output)


def test_what_a_provider_bills_and_nobody_priced_is_told():
    reported = {"speed": "fast", "inference_geo": "us"}

    bill = InMicros(SMART, NONE).bill(Tokens(input=10), {"code_execution": 2}, reported)

    assert bill.cost_micros == 10 * 4 * 6
    assert bill.extras == '{"code_execution":2,"inference_geo":"us","speed":"fast"}'
    assert bill.anomaly == "no price for inference_geo us, code_execution"


def test_a_bill_with_every_extra_priced_is_no_anomaly():
    bill = InMicros(SMART, NONE).bill(Tokens(input=10), {"web_search": 2}, {"speed": "fast"})

    assert (bill.cost_micros, bill.anomaly) == (240 + 20_000, None)


@pytest.mark.parametrize(("most", "held"), [(None, 1), (3, 1), (0, 0)])
def test_a_tool_that_is_only_offered_is_held_for_once(most, held):
    """Cline offers a search with every request; a cent each for ten of them would block a team."""
    scale = InMicros(SMART, Extras((("web_search", most),)))

    assert scale.upfront(100)(0) == 500 + held * 10_000
    assert scale.exact(Tokens(input=100))(0) == 400 + held * 10_000
