import pytest

from server.counts import counted


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 requests"), (1, "1 request"), (2000, "2,000 requests")]
)
def test_one_of_a_thing_is_no_plural(count, said):
    assert counted(count, "request") == said


def test_a_plural_may_be_of_its_own():
    assert (counted(1, "entry", "entries"), counted(2, "entry", "entries")) == (
        "1 entry",
        "2 entries",
    )
