"""The vendors' own SDK tests against a real `gatewayctl serve`, written up as docs/sdk-suites.md.

    python tests/reports/sdk_suites.py FOLDER [--check]

FOLDER keeps the source distributions and an environment for them; both are made where they are
missing, and what they need comes from the package index. The suites themselves run without a
network (see sdk_guard.py). Each runs twice: on an upstream of its own protocol and on one of the
other. `--check` compares with the page instead of writing it. Exits with 1 where a test fails for
a reason that is not in REASONS, or the page is not what it was.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE.parent)]

from support.stages import UPSTREAM_KEY, serving, upstream  # noqa: E402 - the path comes first
from support.wires import run  # noqa: E402

PAGE = ROOT / "docs" / "sdk-suites.md"
LIMIT_S = 300
NEEDED = (
    "pytest>=9.0.3",
    "pytest-asyncio>=1.4",
    "dirty-equals",
    "http-snapshot[httpx]==0.1.9",
    "inline-snapshot>=0.28",
    "respx",
    "rich",
    "time-machine",
)


@dataclass(frozen=True)
class Suite:
    """An SDK's tests that concern what a gateway serves; `root` is where its base URL ends."""

    package: str
    version: str
    root: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.package}-{self.version}"


SUITES = (
    Suite(
        "anthropic",
        "2.12.0",
        "",
        ("test_messages.py", "test_models.py", "beta/test_messages.py", "beta/test_models.py"),
        ("-p", "tests._alias_httpx"),
    ),
    Suite(
        "openai",
        "3.54.0",
        "/v1",
        ("chat/test_completions.py", "test_responses.py", "responses", "test_models.py"),
    ),
)
SPOKEN = {"anthropic": "Messages", "openai": "Chat Completions"}
# The names that the suites ask for; free, so that nothing lacks a price.
MODELS = ("model_id", "gpt-6-astra")

REASONS = {
    r"There is nothing at /v1/responses/(compact|input_tokens)": "no such endpoint",
    r"There is nothing at /v1/(responses|chat/completions)/": "stored answers: nothing is kept",
    r"GET is not possible here; use POST": "stored answers: nothing is kept",
    r"DELETE is not possible here": "models are the config's, not a client's to delete",
    r"input is required": "a request that says nothing",
    r"previous_response_id is not supported": "names a stored response: nothing is kept",
    r"logprobs asks for something": "log probabilities, which a Messages upstream does not have",
}
UNEXPLAINED = "**unexplained**"
INTRODUCTION = """\
# The SDKs' own tests against the gateway

Written by `tests/reports/sdk_suites.py`.
The tests come from the SDKs' source distributions, and run against `gatewayctl serve` with the demo upstream behind it.
Each runs with the loose and the strict client, and asynchronously with both HTTP libraries; the numbers count all of these.
They prove that routes, keys and bodies are accepted, and that answers fit the SDKs' types.
What streams hold, and what the other protocol's upstream makes of a request, is proved in `tests/e2e/`.
"""  # noqa: E501 - a sentence is a line of the page
NAME = re.compile(
    r"test_(?:method|raw_response|streaming_response|path_params)_(\w+?)"
    r"(?:_with_all_params)?(?:_overload_\d)?$"
)


@dataclass(frozen=True)
class Case:
    """One test of one run; `reason` is why it failed."""

    group: str
    test: str
    outcome: str
    reason: str = ""


def prepare(folder: Path) -> Path:
    """Make the environment and unpack the sources, unless both are there; give its Python."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "venv" / "bin" / "python"
    pins = [f"{suite.package}=={suite.version}" for suite in SUITES]
    for suite, pin in zip(SUITES, pins, strict=True):
        if not (folder / suite.name).exists():
            archive = folder / f"{suite.name}.tar.gz"
            if not archive.exists():
                words = ("download", "--no-binary", ":all:", "--no-deps", "--dest", folder, pin)
                _run(sys.executable, "-m", "pip", *words)
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
    if not python.exists():
        _run(sys.executable, "-m", "venv", python.parents[1])
        extra = [pin.replace("==", "[aiohttp]==") for pin in pins]
        _run(python, "-m", "pip", "install", "--quiet", *extra, *NEEDED)
    return python


async def run_all(folder: Path) -> dict[tuple[str, str], list[Case]]:
    """Run each suite on an upstream of each protocol."""
    python, found = prepare(folder), {}
    for spoken in SPOKEN:
        with tempfile.TemporaryDirectory() as scratch:
            async with upstream() as provider:
                config = _config(provider.server.url, spoken)
                async with serving(Path(scratch) / "gateway", config) as gateway:
                    for suite in SUITES:
                        report = Path(scratch) / f"{suite.package}.xml"
                        await _play(python, folder, suite, gateway, report)
                        found[suite.package, spoken] = list(read(report))
    return found


def read(report: Path):
    """Read what a run's JUnit report says of each test."""
    for case in ET.parse(report).iter("testcase"):
        test = case.get("name").partition("[")[0]
        *parents, module, _ = case.get("classname").split(".")
        area = ".".join([*parents[2:], module.removeprefix("test_")])
        called = NAME.match(test)
        group = f"{area}.{called[1] if called else test.removeprefix('test_')}"
        marks = {mark.tag: mark.get("message", "") for mark in case}
        outcome = next((tag for tag in ("failure", "error", "skipped") if tag in marks), "passed")
        bad = outcome in ("failure", "error")
        yield Case(
            group,
            test,
            "failed" if bad else outcome,
            explain(marks[outcome]) if bad else "",
        )


def explain(message: str) -> str:
    """Say in a few words why a test failed; what is new is quoted."""
    for pattern, reason in REASONS.items():
        if re.search(pattern, message):
            return reason
    return f"{UNEXPLAINED}: {' '.join(message.split())[:200]}"


def page(found: dict[tuple[str, str], list[Case]]) -> str:
    """Write the report."""
    texts = [INTRODUCTION]
    for suite in SUITES:
        texts += _section(suite, {spoken: found[suite.package, spoken] for spoken in SPOKEN})
    return "\n".join(texts)


def _section(suite: Suite, runs: dict[str, list[Case]]) -> list[str]:
    columns = [f"{label} upstream" for label in SPOKEN.values()]
    texts = [f"## {suite.package} {suite.version}", ""]
    texts += ["passed / failed / skipped", "", f"| call | {' | '.join(columns)} |", "|---|---|---|"]
    groups = sorted({case.group for cases in runs.values() for case in cases})
    for group in groups:
        cells = [_counts(case for case in cases if case.group == group) for cases in runs.values()]
        texts.append(f"| `{group}` | {' | '.join(cells)} |")
    texts.append(f"| **all** | {' | '.join(_counts(cases) for cases in runs.values())} |")
    failed = [case for cases in runs.values() for case in cases if case.outcome == "failed"]
    if failed:
        texts += ["", "| call | what fails | why |", "|---|---|---|"]
    for group, reason in sorted({(case.group, case.reason) for case in failed}):
        alike = (case for case in failed if (case.group, case.reason) == (group, reason))
        tests = sorted({f"`{case.test}`" for case in alike})
        texts.append(f"| `{group}` | {', '.join(tests)} | {reason} |")
    return [*texts, ""]


def _counts(cases) -> str:
    told = Counter(case.outcome for case in cases)
    return f"{told['passed']} / {told['failed']} / {told['skipped']}"


def _config(url: str, spoken: str) -> str:
    base = url + ("/v1" if spoken == "openai" else "")
    models = "".join(
        f"  {name}: {{targets: [{{upstream: there, model: demo}}], free: true}}\n"
        for name in MODELS
    )
    return f"""
upstreams:
  there: {{protocol: {spoken}, base_url: "{base}", api_key: {UPSTREAM_KEY}}}
models:
{models}
aliases: {{"*": {MODELS[0]}}}
auto: {{default: {MODELS[0]}}}
tiers: {{team: {{name: Team, price_cents: 2000}}}}
"""


async def _play(python, folder, suite, gateway, report) -> None:
    words = (python, "-m", "pytest", "-q", "-o", "addopts=", "-p", "sdk_guard", *suite.options)
    paths = (f"tests/api_resources/{path}" for path in suite.paths)
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        *(f"--junitxml={report}", *paths),
        cwd=folder / suite.name,
        env={
            "PATH": os.defpath,
            "HOME": str(report.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(HERE),
            "SUITE_KEY": gateway.secret,
            "TEST_API_BASE_URL": gateway.url + suite.root,
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode not in (0, 1):  # 1: some tests failed, which is what we came to see
        sys.exit(f"The suite of {suite.name} did not run:\n{said.decode()[-3000:]}")


def _run(*words) -> None:
    subprocess.run([str(word) for word in words], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="keeps the sources and their environment")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    chosen = parser.parse_args()
    text = page(run(partial(run_all, chosen.folder.resolve())))
    if not chosen.check:
        PAGE.write_text(text)
    elif text != PAGE.read_text():
        sys.exit("The results are not what docs/sdk-suites.md says.")
    if UNEXPLAINED in text:
        sys.exit("A test fails for a reason that nobody has looked at.")


if __name__ == "__main__":
    main()
