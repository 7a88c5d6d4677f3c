"""The commands of README.md, run as a new user runs them: in a fresh clone, with an empty home."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.clients import TEXT, codex
from support.readme import ROOT, blocks

from gatewayctl.welcome import ways_to_call

LAUNCH = """\
#!/bin/sh
exec '{python}' -c 'import sys; from gatewayctl.main import run; sys.exit(run())' "$@"
"""
CLAUDE = """\
#!/bin/sh
echo "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN ${ANTHROPIC_API_KEY-unset}"
"""
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q -e . && "
PATIENCE_S = 20
WAYS = [title for title, _ in ways_to_call("http://127.0.0.1:1", "gwk_fake")][1:]


@dataclass(frozen=True)
class Quickstart:
    """A running `quickstart`: its clone, and what it printed."""

    folder: Path
    env: dict
    out: str
    err: str

    @property
    def secret(self):
        return re.search(r"export GATEWAY_KEY=(gwk_\w+)", self.err)[1]

    @property
    def url(self):
        return re.search(r"serves at (http://[\d.:]+)", self.err)[1]

    @property
    def ways(self):
        """The titled commands, as they were printed."""
        return dict(re.findall(r"(?ms)^# (.*?)\n(.*?)\n(?=\n)", self.err))

    def paste(self, title):
        """Paste the key and one way to call into a shell, and give what it prints."""
        script = "\n".join([next(iter(self.ways.values())), self.ways[title]])
        done = subprocess.run(
            ["sh", "-e"], input=script, env=self.env, text=True, capture_output=True, check=True
        )
        return done.stdout


def clone(folder):
    """Clone the checkout into `folder`."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone of the repository")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder


def bare_environment(home):
    """Give what little a shell has, and how this machine reaches a package index."""
    home.mkdir()
    network = re.compile("pip_.*|.*_proxy|ssl_cert.*|requests_ca_bundle", re.IGNORECASE)
    passed = {name: value for name, value in os.environ.items() if network.fullmatch(name)}
    path = os.pathsep.join([str(home), str(Path(sys.executable).parent), os.defpath])
    return {**passed, "PATH": path, "HOME": str(home)}


@contextmanager
def serving(command, folder, env):
    """Run a command line of README.md until the block ends, then press Ctrl-C."""
    out, err = Path(env["HOME"], "out.txt"), Path(env["HOME"], "err.txt")
    with out.open("w") as out_file, err.open("w") as err_file:
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder,
            env=env,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
    try:
        yield Quickstart(folder, env, *_wait_until_ready(process, out, err))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE_S)
    assert "Stopped." in err.read_text()


def _wait_until_ready(process, out, err, patience_s=300):
    deadline = time.monotonic() + patience_s
    while "Ctrl-C stops" not in err.read_text():
        assert process.poll() is None, err.read_text()
        assert time.monotonic() < deadline, err.read_text()
        time.sleep(0.05)
    return out.read_text(), err.read_text()


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def command_with(word):
    """Find the one-line block of README.md that holds `word`."""
    (text,) = {block.text.strip() for block in blocks("sh") if word in block.text}
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """README's first command in a clone, with this Python in the place of a new environment."""
    base = tmp_path_factory.mktemp("readme")
    folder, env = clone(base / "gatewayctl"), bare_environment(base / "home")
    executable(folder / ".venv/bin/gatewayctl", LAUNCH.format(python=sys.executable))
    executable(base / "home/claude", CLAUDE)
    command = command_with("gatewayctl quickstart")
    assert command.startswith(INSTALL)
    with serving(command.removeprefix(INSTALL) + " --port 0", folder, env) as running:
        yield running


def test_the_first_command_prints_what_the_readme_shows(quickstart):
    (shown,) = blocks("text")[:1]
    printed = quickstart.err.replace(quickstart.url, "http://127.0.0.1:8080")
    printed = printed.replace(quickstart.secret, "gwk_…")
    title, *lines = shown.text.splitlines()

    assert title.strip("─ ") in printed.splitlines()
    assert set(lines) - set(printed.splitlines()) == {"…"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_whole_answer(quickstart):
    reply = json.loads(quickstart.paste("curl, whole"))

    assert (reply["type"], reply["stop_reason"]) == ("message", "end_turn")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_gets_a_stream_to_its_end(quickstart):
    stream = quickstart.paste("curl, streaming")

    assert stream.startswith("event: message_start\n")
    assert "event: message_stop\n" in stream


def test_claude_code_is_given_its_route_and_its_key(quickstart):
    expected = f"{quickstart.url}/claudecode {quickstart.secret} unset\n"

    assert quickstart.paste("Claude Code") == expected


def test_the_openai_sdk_prints_an_answer(quickstart):
    pytest.importorskip("openai")

    assert quickstart.paste("OpenAI SDK (pip install openai)").strip()


def test_every_printed_way_is_tried_above(quickstart):
    assert list(quickstart.ways)[1:] == WAYS
    assert WAYS == [
        "curl, whole",
        "curl, streaming",
        "Claude Code",
        "OpenAI SDK (pip install openai)",
    ]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.text.split()[1])
def test_the_readmes_sdk_snippets_print_an_answer(quickstart, block):
    pytest.importorskip(block.text.split()[1])
    code = block.text.replace("http://127.0.0.1:8080", quickstart.url)
    code = code.replace("gwk_…", quickstart.secret)

    done = subprocess.run(
        [sys.executable, "-c", code], env=quickstart.env, text=True, capture_output=True, check=True
    )

    assert done.stdout.strip()


@pytest.mark.clients
def test_codex_creates_a_file_with_the_readmes_config(quickstart, tmp_path):
    (block,) = blocks("toml")
    config = block.text.replace("http://127.0.0.1:8080", quickstart.url)
    client = codex(tmp_path, quickstart.url, quickstart.secret, config=config)

    done = asyncio.run(client.run())

    assert done.code == 0, done.said
    assert (client.work / "hello.txt").read_text() == TEXT


@pytest.mark.slow
def test_both_commands_of_the_readme_work_in_a_fresh_clone(tmp_path):
    """Word for word, pip included; only the port is another, by a config that is there already."""
    folder, env = clone(tmp_path / "gatewayctl"), bare_environment(tmp_path / "home")
    config = (folder / "config.example.yaml").read_text().replace("port: 8080", "port: 0")
    (folder / "config.yaml").write_text(config)

    with serving(command_with("gatewayctl quickstart"), folder, env) as running:
        assert json.loads(running.paste("curl, whole"))["type"] == "message"
    tested = subprocess.run(
        ["sh", "-c", command_with("bin/pytest")],
        check=False,
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )

    assert tested.returncode == 0, tested.stdout[-4000:]
