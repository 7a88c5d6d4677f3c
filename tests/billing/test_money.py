import pytest

from server.billing.money import micros


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
