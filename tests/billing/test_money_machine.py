"""Whatever happens in whatever order: nothing is lost, invented, overdrawn or charged twice."""

import pytest
from support.money_machine import exercise


def test_no_order_of_events_loses_or_invents_anything(empty_database):
    assert exercise(empty_database, examples=45, steps=50, derandomize=True) >= 45


@pytest.mark.slow
def test_no_order_of_very_many_events_loses_or_invents_anything(empty_database):
    assert exercise(empty_database, examples=600, steps=100) >= 600
