import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.billing.money import dollars, micros


@pytest.mark.parametrize(
    ("usd", "expected"),
    [
        ("4.00", 4_000_000),
        ("0.075", 75_000),
        ("0.000001", 1),
        ("10", 10_000_000),
        ("0", 0),
        ("-2.5", -2_500_000),
        ("0.1000000", 100_000),
    ],
)
def test_dollars_become_whole_micros(usd, expected):
    assert micros(usd) == expected


def test_a_fraction_of_a_micro_is_refused_and_not_rounded():
    with pytest.raises(ValueError, match=r"0\.0000005 has more than six decimal places"):
        micros("0.0000005")


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (4_000_000, "$4.00"),
        (1_500_000, "$1.50"),
        (125, "$0.000125"),
        (0, "$0.00"),
        (-41_250, "-$0.04125"),
        (1_234_567_890_000, "$1,234,567.89"),
    ],
)
def test_micros_are_printed_with_cents_and_every_digit(amount, expected):
    assert dollars(amount) == expected


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_what_is_printed_is_the_same_amount(amount):
    assert micros(dollars(amount).replace("$", "").replace(",", "")) == amount
