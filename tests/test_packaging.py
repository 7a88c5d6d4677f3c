"""The wheel and the archive it can be built from: the source whole, away from the checkout."""

import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path
from urllib.request import urlopen
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gatewayctl", "server")
WHAT_A_BUILD_READS = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Copy the tree: a build leaves folders behind."""
    copy = tmp_path_factory.mktemp("tree")
    for name in WHAT_A_BUILD_READS:
        shutil.copy(ROOT / name, copy)
    for folder in (*PACKAGES, "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    """Build the wheel from the tree."""
    return _built_from(tree, tmp_path_factory.mktemp("built"))


def _built_from(source, folder):
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder, source)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into an environment of its own, which borrows what it depends on."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    _pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    (own,) = home.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


@pytest.fixture
def run(installed, tmp_path):
    """Run a program of that environment in an empty folder that is also the home."""

    def call(*words):
        return subprocess.run(**_command(installed, tmp_path, words), text=True, check=False)

    return call


def _command(programs, home, words):
    return {
        "args": [programs / words[0], *words[1:]],
        "cwd": home,
        "env": {"HOME": str(home), "PATH": "/usr/bin:/bin"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


def _pip(*words):
    quiet = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*quiet, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _source():
    """Give every file of the packages by its name."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    files = [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in files}


def _held_by(wheel):
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return {name: archive.read(name) for name in names}


def test_the_wheel_holds_every_file_of_the_source_and_nothing_else(wheel):
    held, source = _held_by(wheel), _source()

    assert held.keys() == source.keys()
    assert held == source
    assert {"server/py.typed", "gatewayctl/py.typed"} < held.keys()


def test_the_archive_of_the_source_holds_all_of_it_and_makes_the_same_wheel(tree, tmp_path):
    build = f"from setuptools.build_meta import build_sdist as b; b({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tree, capture_output=True, check=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = path.with_name(path.name.removesuffix(".tar.gz"))
    files = [each for each in unpacked.rglob("*") if each.is_file()]
    texts = {str(each.relative_to(unpacked)): each.read_bytes() for each in files}

    beside = {name: (ROOT / name).read_bytes() for name in WHAT_A_BUILD_READS}
    assert {name: texts.get(name) for name in _source() | beside} == _source() | beside
    made = {name for name in texts.keys() - _source().keys() if ".egg-info/" not in name}
    assert made == {*beside, "PKG-INFO", "setup.cfg"}
    assert _held_by(_built_from(unpacked, tmp_path)) == _source()


def test_opentelemetry_comes_only_with_its_extra(wheel):
    with ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        needs = archive.read(metadata).decode().split("Requires-Dist: ")[1:]

    named = [need.splitlines()[0] for need in needs if need.startswith("opentelemetry")]
    assert {need.partition("; ")[2] for need in named} == {'extra == "otel"', 'extra == "test"'}


def test_the_installed_command_sets_a_gateway_up(run, tmp_path):
    made = run("gatewayctl", "init")
    checks = [run("gatewayctl", noun, "check") for noun in ("config", "presets", "db")]

    assert (made.returncode, made.stdout[:4]) == (0, "gwk_"), made.stderr
    assert [check.returncode for check in checks] == [0, 0, 0], checks
    assert {"config.yaml", "presets", "gateway.db"} <= {path.name for path in tmp_path.iterdir()}


def test_the_installed_command_knows_its_version(run):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert run("gatewayctl", "--version").stdout == f"gatewayctl {project['version']}\n"


def test_the_installed_command_serves_at_once(installed, tmp_path):
    words = ("gatewayctl", "quickstart", "--port", "0", "--json")
    with subprocess.Popen(**_command(installed, tmp_path, words)) as process:
        try:
            said = b""
            while not said.endswith(b"\n}\n") and (line := process.stdout.readline()):
                said += line
            url = json.loads(said)["url"]
            with urlopen(f"{url}/readyz", timeout=10) as answer:
                ready = answer.read()
        finally:
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=20)

    assert ready == b'{"status":"ready"}'
    assert (process.returncode, told) == (0, b"")


def test_the_installed_packages_are_the_wheels_own(run, installed):
    code = "import gatewayctl, server; print(gatewayctl.__file__, server.__file__)"

    told = run("python", "-c", code)

    assert all(Path(file).is_relative_to(installed.parent) for file in told.stdout.split())
    assert len(told.stdout.split()) == 2, told.stderr
