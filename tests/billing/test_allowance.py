"""What a tier allows, and how much of it a request takes."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.billing.allowance import Limits, Weights, limits_of
from server.billing.rates import Tokens
from server.config.schema import QuotaWeights, Tier

DEFAULT = Weights.of(QuotaWeights())
COUNT = st.integers(0, 10**9) | st.integers(0, 12)
WEIGHTS = st.builds(Weights, *[st.integers(0, 10**7)] * 4)


def test_limits_are_those_of_the_config():
    tiers = {
        "team": Tier(name="Team", price_cents=2000),
        "solo": Tier(name="Solo", price_cents=500, quota_tokens=1000, quota_requests=50),
    }

    assert limits_of(tiers) == {"team": Limits(None, None), "solo": Limits(1000, 50)}


def test_weights_are_read_exactly():
    weights = QuotaWeights(input="1", output="2.5", cache_read="0.000001", cache_write="0")

    assert Weights.of(weights) == Weights(1_000_000, 2_500_000, 1, 0)


@pytest.mark.parametrize(
    ("tokens", "weighted"),
    [
        (Tokens(), 0),
        (Tokens(input=1), 1),
        (Tokens(output=7), 7),
        (Tokens(cache_read=10), 1),
        (Tokens(cache_read=1), 1),
        (Tokens(cache_read=11), 2),
        (Tokens(cache_write_5m=4), 5),
        (Tokens(cache_write_5m=1, cache_write_1h=1), 3),
        (Tokens(input=100, cache_read=1000, cache_write_5m=10, cache_write_1h=10, output=50), 275),
    ],
)
def test_a_request_is_weighed_whole_and_rounded_up_once(tokens, weighted):
    assert DEFAULT.weigh(tokens) == weighted


@given(WEIGHTS, st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT))
def test_weighing_agrees_with_fractions(weights, tokens):
    parts = (
        (tokens.input, weights.input),
        (tokens.output, weights.output),
        (tokens.cache_read, weights.cache_read),
        (tokens.cache_write_5m, weights.cache_write),
        (tokens.cache_write_1h, weights.cache_write),
    )

    assert weights.weigh(tokens) == ceil(sum(Fraction(n * each, 10**6) for n, each in parts))


@given(WEIGHTS, st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT))
def test_nothing_weighs_more_than_the_worst(weights, tokens):
    worst = weights.worst(input_tokens=tokens.total_input, output_tokens=tokens.output)

    assert weights.weigh(tokens) <= worst


def test_the_worst_is_what_the_dearest_class_weighs():
    assert DEFAULT.worst(input_tokens=10, output_tokens=3) == 16
    assert Weights(1, 1, 3_000_000, 2).worst(input_tokens=10, output_tokens=0) == 30
