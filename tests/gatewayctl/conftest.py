import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatewayctl.main import run

LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        return json.loads(self.err)["error"]

    @property
    def rows(self):
        return [line.split("\t") for line in self.out.splitlines()]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home that is also the working folder, without settings from outside."""
    for name in ("GATEWAYCTL_CONFIG", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "NO_COLOR", "TZ"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(home, capsys):
    """Run the real `gatewayctl` in this process, its output piped."""

    def call(*words):
        capsys.readouterr()
        code = run([str(word) for word in words])
        said = capsys.readouterr()
        return Result(int(code), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def completed(tmp_path_factory):
    """A folder that `init` has completed once, and what it printed."""
    folder, said = tmp_path_factory.mktemp("completed"), io.StringIO()
    with redirect_stdout(said), redirect_stderr(io.StringIO()):
        assert run(["--config", str(folder / "config.yaml"), "init"]) == 0
    return folder, said.getvalue()


@pytest.fixture
def ready(home, completed):
    """A copy of what `init` makes, as the working folder; the result holds the first secret."""
    folder, said = completed
    shutil.copytree(folder, home, dirs_exist_ok=True)
    return Result(0, said, "")


@pytest.fixture
def terminal(home, monkeypatch):
    """Run `gatewayctl` as a person does: both streams on a terminal of 120 columns."""

    def call(*words, **environ):
        main_fd, fd = os.openpty()
        settings = {"TERM": "xterm-256color", "COLUMNS": "120", **environ}
        done = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *map(str, words)],
            stdin=fd,
            stdout=fd,
            stderr=fd,
            env={**os.environ, **settings},
        )
        os.close(fd)
        shown = b""
        while chunk := _read(main_fd):
            shown += chunk
        os.close(main_fd)
        return Result(done.wait(), shown.decode().replace("\r\n", "\n"), "")

    return call


def _read(fd):
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux says EIO where the other end is closed
        return b""


@pytest.fixture
def config(home):
    """Change one text of config.yaml for another."""

    def change(old, new):
        path = Path("config.yaml")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change
