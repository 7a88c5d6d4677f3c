"""The systemd unit of a gateway: one process, an SQLite file, nothing else to write."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from server.config.load import Settings

NAME = "gatewayctl.service"
MARK = "# Written by `gatewayctl service install`."

# What `server.drain_s` does not count: cutting what is late, settling it, closing the store.
_AFTER_DRAIN_S = 20
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - nothing is written there
_PRIVILEGED_PORTS = 1024
_STEERS_QUOTES = str.maketrans({"\\": "\\\\", '"': '\\"', "%": "%%"})
_STEERS_GLOBS = str.maketrans({each: f"\\{each}" for each in "\\*?["})

_TEMPLATE = """\
{mark} `gatewayctl service uninstall` takes it back.
[Unit]
Description=gatewayctl, a gateway between coding tools and model providers
Documentation=man:systemd.exec(5)
{network}StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=exec
{user}ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
WorkingDirectory={folder}
EnvironmentFile=-{environment}
Restart=on-failure
RestartSec=2
# A config that cannot be used does not mend itself.
RestartPreventExitStatus=2
# A reload that comes before it listens for one ends it, which would count as a clean end.
RestartForceExitStatus=SIGHUP
KillSignal=SIGTERM
KillMode=mixed
# Above server.drain_s: every stream is finished or settled by then.
TimeoutStopSec={stop_s}
LimitNOFILE=65536
UMask=0077

NoNewPrivileges=yes
PrivateTmp={tmp}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{more}
[Install]
WantedBy={target}
"""

_NETWORK = """\
After=network-online.target
Wants=network-online.target
"""
# A user's own systemd protects files only inside a user namespace, and it may not drop
# capabilities that it does not have: those lines would keep the unit down (systemd.exec(5), 252).
_UNPRIVILEGED = """\
PrivateUsers=yes
"""
_PRIVILEGED = """\
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
"""


class UnfitPath(ValueError):
    """A path that no unit file can name."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a unit says: who starts which gateway; `user` is None for that user's own systemd."""

    settings: Settings
    program: Path
    user: str | None

    @property
    def environment_path(self) -> Path:
        """The file for the providers' keys, beside the config."""
        return self.settings.folder / "gateway.env"

    @property
    def written(self) -> list[Path]:
        """The folders that it writes to; the unit keeps it down until they are there."""
        settings = self.settings
        files = (settings.database_path, settings.log_path, settings.access_log_path)
        return sorted({path.resolve().parent for path in files if path is not None})

    @property
    def unit(self) -> str:
        """Give the unit file.

        Raises:
            UnfitPath: a path has a control character in it, or ends with a blank.
        """
        settings = self.settings
        return _TEMPLATE.format(
            mark=MARK,
            network="" if self.user is None else _NETWORK,
            user="" if self.user is None else f"User={self.user}\n",
            command=f"{_word(self.program)} --config {_word(settings.path)} serve",
            folder=_literal(settings.folder),
            environment=_literal(self.environment_path).translate(_STEERS_GLOBS),
            stop_s=math.ceil(settings.config.server.drain_s) + _AFTER_DRAIN_S,
            tmp="no" if any(map(_is_temporary, (self.program, *self.written))) else "yes",
            writable=" ".join(_quoted(each) for each in self.written),
            more=_UNPRIVILEGED if self.user is None else self._privileged(),
            target="default.target" if self.user is None else "multi-user.target",
        )

    @property
    def needs_privileged_port(self) -> bool:
        """Whether it listens where only root may."""
        return 0 < self.settings.config.server.port < _PRIVILEGED_PORTS

    def _privileged(self) -> str:
        needed = "CAP_NET_BIND_SERVICE" if self.needs_privileged_port else ""
        return _PRIVILEGED.format(capabilities=needed)


def environment_text(variables: Iterable[str]) -> str:
    """Give the first content of the environment file: the names, each without a value."""
    head = "# The keys that config.yaml refers to, one a line: NAME=value. Keep them private.\n"
    return head + "".join(f"#{name}=\n" for name in variables)


def _is_temporary(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _TEMPORARY)


def _word(value: Path) -> str:
    return _quoted(value).replace("$", "$$")


def _quoted(value: Path) -> str:
    return f'"{_fit(value).translate(_STEERS_QUOTES)}"'


def _literal(value: Path) -> str:
    return _fit(value).replace("%", "%%")


def _fit(value: Path) -> str:
    text = str(value)
    if not text.isprintable() or text != text.strip():
        raise UnfitPath(f"{text!r} cannot stand in a unit file; choose a plainer path.")
    return text
