"""The machine's systemd: where its units are, and what it is asked."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gatewayctl.exits import CommandError, ExitStatus

_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Systemd:
    """The systemd of the user who calls, or with `is_system` the machine's."""

    is_system: bool

    @property
    def folder(self) -> Path:
        """Where its administrator puts units."""
        if self.is_system:
            return Path("/etc/systemd/system")
        config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(config) / "systemd" / "user"

    @property
    def command(self) -> tuple[str, ...]:
        """The words before what it is asked to do."""
        return ("systemctl",) if self.is_system else ("systemctl", "--user")

    def require(self) -> None:
        """Refuse where there is none that answers.

        Raises:
            CommandError: as it says.
        """
        if shutil.which("systemctl") is None:
            raise _missing("There is no systemd on this machine.")
        if self._run("show-environment").returncode != 0:
            raise _missing(f"`{' '.join(self.command)}` cannot reach a systemd here.")

    def tell(self, *words: str) -> None:
        """Have it do something.

        Raises:
            CommandError: it did not.
        """
        done = self._run(*words)
        if done.returncode != 0:
            why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise CommandError(f"`{' '.join((*self.command, *words))}` failed: {why}")

    def ask(self, *words: str) -> str:
        """Give its one word, such as `enabled` or `inactive`."""
        return self._run(*words).stdout.strip()

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.command, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )


def _missing(message: str) -> CommandError:
    return CommandError(
        message,
        status=ExitStatus.UNAVAILABLE,
        code="no_systemd",
        hint="`gatewayctl service install --print` prints the unit; `gatewayctl serve` needs none.",
    )
