"""Real coding tools, each run in a world of its own: no environment, a new home, a hard limit."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
FOLDER = Path(os.environ.get("GATEWAYCTL_CLIENTS") or CACHE / "gatewayctl-clients")
LIMIT_S = 60

TEXT = "hello from the gateway"
TASK = f'Create a file hello.txt with exactly the text "{TEXT}" and nothing else.'

CODEX = """\
model = "{model}"
model_provider = "gateway"

[model_providers.gateway]
name = "gateway"
base_url = "{url}"
env_key = "GATEWAY_KEY"
wire_api = "responses"
"""


@dataclass(frozen=True)
class Done:
    """How a client ended, and what it wrote."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Client:
    """A tool's command line and the environment that it needs; it works in `folder`/work."""

    folder: Path
    words: tuple[str, ...]
    environ: dict[str, str]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    async def run(self) -> Done:
        """Run it to its end."""
        begun = time.monotonic()
        async with self.started() as process, asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
        seconds = time.monotonic() - begun
        return Done(process.returncode, out.decode(), err.decode(), seconds)

    @asynccontextmanager
    async def started(self):
        """Give its running process; at the end nothing of its group is left."""
        for each in (self.work, self.folder / "tmp"):
            each.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *self.words,
            cwd=self.work,
            env=_bare_environ(self.folder) | self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill(process)
            await process.wait()


def kill(process: asyncio.subprocess.Process) -> None:
    """Kill a client and all that it started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def claude(
    folder: Path, url: str, secret: str, prompt: str = TASK, *, auth="AUTH_TOKEN", **environ: str
) -> Client:
    """Claude Code, as `claude -p` with `url` for ANTHROPIC_BASE_URL."""
    words = (_binary("claude"), "-p", prompt, "--permission-mode", "acceptEdits")
    settings = {
        "ANTHROPIC_BASE_URL": url,
        f"ANTHROPIC_{auth}": secret,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
    }
    return Client(folder, words, settings | environ)


def cline(folder: Path, url: str, secret: str, prompt: str = TASK) -> Client:
    """Cline with its Anthropic provider at `url`."""
    model = "claude-sonnet-4-5"
    settings = folder / ".cline/data/settings"
    provider = {
        "settings": {
            "provider": "anthropic",
            "apiKey": secret,
            "model": model,
            "baseUrl": url,
        },
        "updatedAt": "2026-11-22T00:00:00.000Z",
        "tokenSource": "manual",
    }
    _write(
        settings / "providers.json",
        {"version": 1, "lastUsedProvider": "anthropic", "providers": {"anthropic": provider}},
    )
    _write(settings / "global-settings.json", {"telemetryOptOut": True, "autoUpdateEnabled": False})
    # Else it leaves a daemon behind, in a process group of its own, and later runs use it.
    environ = {"CLINE_SESSION_BACKEND_MODE": "local"}
    return Client(folder, (_binary("cline"), "-P", "anthropic", "-m", model, prompt), environ)


def opencode(folder: Path, url: str, secret: str, prompt: str = TASK, *, package: str) -> Client:
    """opencode, with the AI SDK's `package` for a provider at `url`."""
    provider = {
        "npm": package,
        "name": "gateway",
        "options": {"baseURL": url, "apiKey": secret},
        "models": {"auto": {"name": "auto"}},
    }
    settings = folder / ".config/opencode"
    _write(
        settings / "opencode.json",
        {
            "autoupdate": False,
            "share": "disabled",
            "model": "gateway/auto",
            "small_model": "gateway/auto",
            "provider": {"gateway": provider},
        },
    )
    # Else it installs, from the internet, what plugins would need; there are none.
    (settings / "node_modules").mkdir()
    plugins = {"dependencies": {"@opencode-ai/plugin": "*"}}
    _write(settings / "package-lock.json", {"packages": {"": plugins}})
    switches = ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    words = (_binary("opencode"), "run", prompt)
    return Client(folder, words, {f"OPENCODE_DISABLE_{name}": "1" for name in switches})


def codex(
    folder: Path, url: str, secret: str, prompt: str = TASK, *, model="auto", config=None
) -> Client:
    """codex, as `codex exec` with a provider at `url`; `config` is another config.toml."""
    path = folder / ".codex/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(config or CODEX.format(model=model, url=url))
    words = [_binary("codex"), "exec", "--skip-git-repo-check"]
    # Its sandbox needs what a container may not grant; the demo only asks for files in `work`.
    words += ["--sandbox", "danger-full-access"]
    # Its plugins come from the internet, at every start.
    words += ["--disable", "plugins", "-c", "analytics.enabled=false"]
    words += ["-c", "check_for_update_on_startup=false", prompt]
    return Client(folder, tuple(words), {"GATEWAY_KEY": secret})


def _binary(name: str) -> str:
    """Find a client's command; without it the test is skipped, or fails where it may not be."""
    found = FOLDER / "node_modules" / ".bin" / name
    if found.exists() and shutil.which("node"):
        return str(found)
    problem = f"{name} is not in {FOLDER}, or Node is missing: run .ci/install-clients"
    if os.environ.get("GATEWAYCTL_REQUIRE_CLIENTS") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


def _bare_environ(folder: Path) -> dict[str, str]:
    node = Path(shutil.which("node") or "/usr/bin/node").parent
    path = f"{node}:/usr/local/bin:/usr/bin:/bin"
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder / "tmp")}


def _write(path: Path, document: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
