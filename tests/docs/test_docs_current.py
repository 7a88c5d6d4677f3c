"""What scripts wrote into docs/ is what they would write today."""

import runpy

import pytest
from support.readme import ROOT

DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("make_cli_reference.py", "cli.md"),
        ("make_error_reference.py", "errors.md"),
        ("make_usage_picture.py", "usage.svg"),
    ],
)
def test_a_page_is_what_its_script_writes(script, name):
    render = runpy.run_path(str(DOCS / script))["render"]

    assert render().encode() == (DOCS / name).read_bytes(), f"run `python docs/{script}`"


def test_the_picture_fetches_no_fonts():
    assert "@font-face" not in (DOCS / "usage.svg").read_text(encoding="utf-8")
