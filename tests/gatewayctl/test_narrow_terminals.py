import pytest


@pytest.mark.parametrize("columns", ["20", "40", "60"])
def test_a_narrow_terminal_takes_no_digit_from_a_figure(terminal, cli, ready, columns):
    cli("credits", "grant", "12345.678901", "--reason", "November", "--ref", "first")

    prices = terminal("models", "list", "--no-color", COLUMNS=columns).out.split()
    ledger = terminal("credits", "ledger", "--no-color", COLUMNS=columns).out.split()

    assert {"smart", "fast", "20.00", "0.075"} <= set(prices)
    assert ledger.count("$12345.678901") == 2


def test_what_can_be_folded_is_folded_before_a_terminal_is_exceeded(terminal, cli, ready):
    cli("credits", "grant", "1.500001", "--reason", "November", "--ref", "f" * 60)

    shown = terminal("credits", "ledger", "--no-color", COLUMNS="80").out

    assert "$1.500001" in shown
    assert max(map(len, shown.splitlines())) <= 80
