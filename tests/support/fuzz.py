"""How long a fuzzer looks: briefly each time, and ten times as long under the marker `slow`."""

import pytest
from hypothesis import HealthCheck, settings


def examples(quick: int):
    """Run a test with `quick` examples, and with ten times as many where time is no object."""
    many = pytest.param(10 * quick, marks=pytest.mark.slow, id="long")
    return pytest.mark.parametrize("examples", [pytest.param(quick, id="quick"), many])


def searching(examples: int) -> settings:
    """Give the settings of a search; how long a single example takes says nothing here."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
