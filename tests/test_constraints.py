"""The dependencies that CI installs: every one by exact version and hash, and by no address."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".ci" / "constraints.txt").read_text()
PIN = re.compile(r"([a-z0-9-]+)==([0-9][\w.!+]*)((?: --hash=sha256:[0-9a-f]{64})+)")
# Wheels of several Pythons and platforms: the file is not of the machine that wrote it alone.
BUILT_PER_PLATFORM = ("httptools", "msgspec", "multidict", "pydantic-core", "pyyaml", "uvloop")
MANY = 20


def _pins():
    lines = re.sub(r" \\\n +", " ", TEXT).splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), "a line is not a version with its hashes"
    return {match[1]: (match[2], match[3].split()) for match in found}


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed():
    """Name what the project and its tests need, and what that needs, as far as it is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    waiting = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    waiting += project["project"]["optional-dependencies"]["test"]
    found = {}
    while waiting:
        name = _normal(re.match(r"[\w.-]+", waiting.pop())[0])
        if name in found:
            continue
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue  # for another platform or an older Python
        found[name] = installed.version
        waiting += [each for each in installed.requires or () if "extra ==" not in each]
    return found


def test_every_line_is_an_exact_version_with_hashes_and_without_an_address():
    assert _pins()
    assert not re.search(r"://|@|--(?!hash=)|\bfile:|[\w-]+\.(?:com|org|net|io)\b", TEXT)


def test_all_that_is_installed_for_the_project_is_pinned():
    needed = _needed()

    assert needed.keys() >= {"sanic", "httptools", "pytest", "setuptools", "pydantic-core"}
    assert needed.keys() - _pins().keys() == set()


@pytest.mark.parametrize("name", BUILT_PER_PLATFORM)
def test_files_for_other_platforms_are_known_too(name):
    _, hashes = _pins()[name]

    assert len(hashes) == len(set(hashes)) >= MANY


def test_nothing_is_installed_that_the_constraints_do_not_know():
    steps = (ROOT / ".ci" / "install").read_text()

    commands = [line for line in steps.splitlines() if "pip install" in line]
    assert all("--require-hashes" in line or "--no-index" in line for line in commands)
    assert any("--require-hashes -r .ci/constraints.txt" in line for line in commands)
