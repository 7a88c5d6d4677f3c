"""Costs: exact to the micro, and never above what was held for the worst case."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.billing import pricing
from server.billing.pricing import LongContext, Price, Rates, Tokens
from server.errors import InvalidRequest
from server.protocols.extras import NONE, Extras

PLAIN = Rates(
    input=4_000_000,
    output=20_000_000,
    cache_read=200_000,
    cache_write_5m=5_000_000,
    cache_write_1h=8_000_000,
)
DOUBLE = Rates(*(2 * rate for rate in (4_000_000, 20_000_000, 200_000, 5_000_000, 8_000_000)))
SMART = Price(
    number=3,
    model="smart",
    rates=PLAIN,
    long_context=LongContext(200_000, DOUBLE),
    uses={"web_search": 10_000},
    factors={
        "speed": {"fast": 6_000_000},
        "service_tier": {"priority": 1_750_000, "flex": 500_000},
    },
)

RATE = st.integers(0, 10**12) | st.integers(0, 30)
RATES = st.builds(Rates, RATE, RATE, RATE, RATE, RATE)
COUNT = st.integers(0, 10**9) | st.integers(0, 20)
FACTOR = st.integers(1, 999_999_999)
PRICES = st.builds(
    Price,
    number=st.just(1),
    model=st.just("m"),
    rates=RATES,
    long_context=st.none() | st.builds(LongContext, st.integers(1, 10**9), RATES),
    uses=st.fixed_dictionaries({"web_search": RATE, "code_execution": RATE}),
    factors=st.fixed_dictionaries(
        {
            "speed": st.fixed_dictionaries({"fast": FACTOR}),
            "service_tier": st.fixed_dictionaries({"priority": FACTOR, "flex": FACTOR}),
        }
    ),
)
TOOLS = st.sampled_from(["web_search", "code_execution", "unpriced"])
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "speed": st.sampled_from(["fast", "unpriced"]),
        "service_tier": st.sampled_from(["priority", "flex"]),
    },
)
ASKED = st.builds(
    lambda uses, settings: Extras(tuple(uses), tuple(settings.items())),
    st.lists(st.tuples(TOOLS, st.none() | st.integers(0, 50)), max_size=3),
    SETTINGS,
)
BOUNDED = st.fixed_dictionaries(
    {
        "input_tokens": COUNT,
        "caches_5m": st.booleans(),
        "caches_1h": st.booleans(),
        "extras": ASKED,
    }
)


def worst(price, output_tokens=0, **asked):
    asked = {"input_tokens": 0, "caches_5m": True, "caches_1h": True, "extras": NONE} | asked
    return pricing.worst_micros(price, output_tokens=output_tokens, **asked)


def exactly(price, tokens, bill):
    """Compute a cost as a person would, in fractions of a dollar."""
    long = price.long_context
    inputs = (tokens.input, tokens.cache_read, tokens.cache_write_5m, tokens.cache_write_1h)
    rates = long.rates if long and sum(inputs) > long.above_input_tokens else price.rates
    each = (rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h)
    total = sum(Fraction(n * rate, 10**6) for n, rate in zip(inputs, each, strict=True))
    total += Fraction(tokens.output * rates.output, 10**6)
    for setting, values in price.factors.items():
        total *= Fraction(values.get(bill.get(setting), 10**6), 10**6)
    return total + sum(micros * bill.get(tool, 0) for tool, micros in price.uses.items())


def test_each_class_has_its_own_rate():
    tokens = Tokens(
        input=1000, cache_read=50_000, cache_write_5m=2000, cache_write_1h=300, output=400
    )

    # 1000 x 4 + 50,000 x 0.2 + 2000 x 5 + 300 x 8 + 400 x 20
    assert pricing.cost_micros(SMART, tokens) == 34_400


def test_a_fraction_of_a_micro_is_rounded_up_once_for_the_whole_request():
    cheap = Price(1, "m", Rates(75_000, 300_001, 7_500, 0, 0))

    assert pricing.cost_micros(cheap, Tokens(input=1)) == 1
    # 0.075 + 0.0075 + 0.300001: less than one, however many classes
    assert pricing.cost_micros(cheap, Tokens(input=1, cache_read=1, output=1)) == 1
    assert pricing.cost_micros(cheap, Tokens()) == 0


def test_one_token_above_the_limit_all_tokens_cost_the_rates_of_long_context():
    below = Tokens(input=100_000, cache_read=60_000, cache_write_5m=40_000, output=10)
    above = Tokens(input=100_000, cache_read=60_000, cache_write_5m=40_001, output=10)

    assert pricing.cost_micros(SMART, below) == 612_200
    assert pricing.cost_micros(SMART, above) == 2 * 612_200 + 10


def test_factors_multiply_the_tokens_and_uses_are_added():
    tokens = Tokens(input=1000, output=100)

    assert pricing.cost_micros(SMART, tokens) == 6_000
    assert pricing.cost_micros(SMART, tokens, {"speed": "fast"}) == 36_000
    assert pricing.cost_micros(SMART, tokens, {"speed": "fast", "service_tier": "flex"}) == 18_000
    assert pricing.cost_micros(SMART, tokens, {"web_search": 3}) == 36_000
    assert pricing.cost_micros(SMART, tokens, {"speed": "fast", "web_search": 3}) == 66_000


def test_what_has_no_price_adds_nothing():
    bill = {"speed": "warp", "mood": "good", "code_execution": 9}

    assert pricing.cost_micros(SMART, Tokens(input=1000), bill) == 4_000


@given(PRICES, st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT), SETTINGS, st.integers(0, 9))
def test_a_cost_is_the_exact_sum_rounded_up(price, tokens, settings, searches):
    bill = settings | {"web_search": searches}

    assert pricing.cost_micros(price, tokens, bill) == ceil(exactly(price, tokens, bill))


@given(PRICES, ASKED, st.data())
def test_no_mix_of_classes_costs_more_than_the_worst_case(price, extras, data):
    """However few of the tokens come, into whatever cache, and with the settings or without."""
    caches_5m, caches_1h = data.draw(st.booleans()), data.draw(st.booleans())
    tokens = Tokens(
        input=data.draw(COUNT),
        cache_read=data.draw(COUNT),
        cache_write_5m=data.draw(COUNT) if caches_5m else 0,
        cache_write_1h=data.draw(COUNT) if caches_1h else 0,
        output=data.draw(COUNT),
    )
    uses = pricing.worst_extras(price, extras)
    reported_uses = {
        tool: data.draw(st.integers(0, most)) for tool, most in uses.items() if type(most) is int
    }
    answered = data.draw(st.sampled_from(["as asked", "standard"]))
    settings = {} if answered == "as asked" else {name: answered for name, _ in extras.settings}
    bill = pricing.billed_extras(extras, reported_uses, settings)

    assert pricing.cost_micros(price, tokens, bill) <= pricing.worst_micros(
        price,
        input_tokens=tokens.total_input + data.draw(COUNT),
        output_tokens=tokens.output + data.draw(COUNT),
        caches_5m=caches_5m,
        caches_1h=caches_1h,
        extras=extras,
    )


@given(PRICES, BOUNDED, COUNT, COUNT)
def test_the_worst_case_grows_with_the_tokens(price, asked, more_input, more_output):
    larger = asked | {"input_tokens": asked["input_tokens"] + more_input}

    assert worst(price, 0, **asked) <= worst(price, more_output, **larger)


def test_a_cache_that_cannot_be_written_to_is_not_held_for():
    many = {"input_tokens": 1000}

    assert worst(SMART, **many, caches_5m=False, caches_1h=False) == 4_000
    assert worst(SMART, **many, caches_1h=False) == 5_000
    assert worst(SMART, **many, caches_5m=False) == 8_000


def test_a_request_that_may_become_long_is_held_for_at_the_dearer_rates():
    dear = Price(1, "m", PLAIN, LongContext(10, Rates(1, 1, 1, 1, 1)))

    assert worst(SMART, 10, input_tokens=200_000) == 1_600_200
    assert worst(SMART, 10, input_tokens=200_001) == 3_200_416
    # A long context that is cheaper is no reason to hold less: fewer tokens may come.
    assert worst(dear, 10, input_tokens=11) == worst(dear, 10, input_tokens=10) == 280


def test_a_tool_counts_as_often_as_it_may_be_used():
    limited, limitless = Extras((("web_search", 2),)), Extras((("web_search", None),))

    assert worst(SMART, extras=Extras((("web_search", 0),))) == 0
    assert worst(SMART, extras=limited) == 20_000
    assert worst(SMART, extras=limitless) == pricing.DEFAULT_USES * 10_000
    assert worst(SMART, extras=Extras((*limited.uses, *limitless.uses))) == 120_000


def test_a_cheaper_setting_is_not_counted_on():
    """A provider may serve a `flex` request at its standard tier."""
    flex = Extras(settings=(("service_tier", "flex"),))

    assert worst(SMART, 100, extras=flex) == worst(SMART, 100)


@pytest.mark.parametrize(
    ("extras", "param", "sentence"),
    [
        (Extras((("code_execution", 1),)), "code_execution", 'The server tool "code_execution"'),
        (Extras((("web_search", 1), ("advisor", None))), "advisor", 'The server tool "advisor"'),
        (Extras(settings=(("speed", "warp"),)), "speed", 'speed "warp"'),
        (Extras(settings=(("modalities", "audio"),)), "modalities", 'modalities "audio"'),
    ],
)
def test_what_has_no_price_is_refused_by_name(extras, param, sentence):
    with pytest.raises(InvalidRequest, match=f'{sentence} has no price for the model "smart"') as e:
        pricing.check_extras(SMART, extras)

    assert e.value.param == param


def test_what_has_a_price_and_anything_on_a_free_model_is_let_through():
    pricing.check_extras(SMART, Extras((("web_search", None),), (("speed", "fast"),)))
    pricing.check_extras(SMART, NONE)
    pricing.check_extras(None, Extras((("advisor", None),), (("speed", "warp"),)))


@pytest.mark.parametrize(
    ("extras", "uses", "settings", "bill"),
    [
        (NONE, {}, {}, {}),
        (NONE, {"web_fetch": 4, "web_search": 0}, {"service_tier": "standard"}, {}),
        (
            NONE,
            {"web_search": 2},
            {"inference_geo": "us"},
            {"web_search": 2, "inference_geo": "us"},
        ),
        (Extras(settings=(("speed", "fast"),)), {}, {}, {"speed": "fast"}),
        (Extras(settings=(("speed", "fast"),)), {}, {"speed": "standard"}, {}),
        (
            Extras(settings=(("service_tier", "flex"),)),
            {},
            {"service_tier": "priority"},
            {"service_tier": "priority"},
        ),
        (Extras((("web_search", 5),)), {}, {}, {}),
        (Extras((("web_search", 5),)), {"web_search": 7}, {}, {"web_search": 7}),
        (Extras((("web_search", 1),), unreported=("web_search",)), {}, {}, {"web_search": 1}),
        (Extras((("web_search", 1),), unreported=("web_search",)), {"web_search": 0}, {}, {}),
    ],
)
def test_a_bill_says_what_the_answer_reports_or_else_what_was_asked(extras, uses, settings, bill):
    assert pricing.billed_extras(extras, uses, settings) == bill


def test_a_bill_is_stored_as_canonical_json():
    assert pricing.extras_json({"web_search": 3, "speed": "fast"}) == (
        '{"speed":"fast","web_search":3}'
    )
    assert pricing.extras_json({}) is None


@given(PRICES, ASKED, COUNT)
def test_no_amount_is_ever_a_float(price, extras, count):
    bill = pricing.billed_extras(extras, {"web_search": count}, {})

    assert type(pricing.cost_micros(price, Tokens(input=count, output=count), bill)) is int
    assert type(worst(price, count, input_tokens=count, extras=extras)) is int
