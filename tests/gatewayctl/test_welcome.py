import subprocess

import pytest

from gatewayctl.welcome import credit_left, ways_to_call
from server.billing.ledger import Balance

SECRET = "gwk_" + "x" * 49


def test_the_secret_stands_in_the_first_way_alone():
    ways = [code for _, code in ways_to_call("http://127.0.0.1:8080", SECRET)]

    assert [SECRET in code for code in ways] == [True, False, False, False, False]


def test_no_line_is_wider_than_a_small_terminal():
    ways = ways_to_call("http://127.0.0.1:65535", SECRET)

    assert max(len(line) for _, code in ways for line in code.splitlines()) <= 80


@pytest.mark.parametrize("secret", [SECRET, None])
def test_every_way_is_valid_shell(secret):
    for _, code in ways_to_call("http://127.0.0.1:8080", secret):
        subprocess.run(["sh", "-n", "-c", code], check=True)


def test_who_listens_everywhere_is_called_on_this_machine():
    ways = "".join(code for _, code in ways_to_call("http://0.0.0.0:8080", SECRET))

    assert "0.0.0.0" not in ways
    assert "http://127.0.0.1:8080/claudecode" in ways


@pytest.mark.parametrize(
    ("balance", "held", "told"),
    [
        (10_000_000, 0, "$10.00 of credit; `gatewayctl credits show` tells what is left."),
        (10_000_000, 4_000_001, "$5.999999 of credit;"),
        (0, 0, "$0.00 of credit; keys that pay per token need some:\n  gatewayctl credits grant"),
        (-1_500_000, 0, "-$1.50 of credit; keys that pay per token need some:"),
    ],
)
def test_what_there_is_to_spend_is_told_in_dollars(balance, held, told):
    assert credit_left(Balance(balance, held)).startswith(told)
