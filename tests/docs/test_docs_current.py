"""What scripts wrote into docs/ is what they would write today."""

import re
import runpy

import pytest
from support.readme import ROOT

DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("make_cli_reference.py", "cli.md"),
        ("make_error_reference.py", "errors.md"),
    ],
)
def test_a_page_is_what_its_script_writes(script, name):
    render = runpy.run_path(str(DOCS / script))["render"]

    assert render().encode() == (DOCS / name).read_bytes(), f"run `python docs/{script}`"


def test_the_fault_matrix_is_the_table_that_is_played():
    page = runpy.run_path(str(DOCS / "make_fault_matrix.py"))["page"]

    found = (DOCS / "reliability.md").read_text(encoding="utf-8")
    assert page() == found, "run `python docs/make_fault_matrix.py`"
    assert "| attempts |" in found


def test_the_picture_says_what_its_script_draws():
    """Colours and coordinates are rich's affair and may change with it; the words may not."""
    render = runpy.run_path(str(DOCS / "make_usage_picture.py"))["render"]
    words = re.compile(r">([^<>]+)</text>").findall

    assert words(render()) == words((DOCS / "usage.svg").read_text(encoding="utf-8"))


def test_the_picture_fetches_no_fonts():
    assert "@font-face" not in (DOCS / "usage.svg").read_text(encoding="utf-8")
