import pytest

from server.billing.money import dollars, micros, millionths


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


def test_a_factor_becomes_whole_millionths():
    assert (millionths("1.75"), millionths("0.000001")) == (1_750_000, 1)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (4_000_000, "$4.00"),
        (1_234_500, "$1.2345"),
        (10_000, "$0.01"),
        (1, "$0.000001"),
        (-2_500_000, "-$2.50"),
        (-1, "-$0.000001"),
    ],
)
def test_micros_are_written_as_dollars_with_every_place_that_counts(amount, text):
    assert dollars(amount) == text
