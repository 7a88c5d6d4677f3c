"""The configuration of this process: where its file is, and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import platformdirs

from server.config.checks import first_problem
from server.config.convert import convert
from server.config.document import Document, KeyPath, read
from server.config.masking import environment_variables, literal_secrets, masked
from server.config.references import resolve_reference
from server.config.schema import Config
from server.errors import ConfigError

__all__ = [
    "Settings",
    "environment_variables",
    "example_text",
    "find",
    "load",
    "masked",
    "place_to_write",
    "resolve_reference",
]


@dataclass(frozen=True, slots=True)
class Settings:
    """A valid configuration, where it stands, and what its operator should know about it."""

    config: Config
    path: Path
    source: Document = field(repr=False)
    warnings: tuple[str, ...] = ()

    def error(self, key: KeyPath, message: str) -> ConfigError:
        """Make the error about the value at `key`."""
        return self.source.error(key, message)

    @property
    def folder(self) -> Path:
        """The folder that the config's own paths start from."""
        return self.path.parent

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return self.folder / self.config.database

    @property
    def presets_path(self) -> Path:
        """The folder of presets."""
        return self.folder / self.config.presets

    @property
    def log_path(self) -> Path:
        """The log file."""
        return self.folder / self.config.log.file

    @property
    def access_log_path(self) -> Path | None:
        """The file of a line for each request; None where none is kept."""
        access = self.config.log.access
        return None if access is None else self.folder / access

    @property
    def tls_paths(self) -> tuple[Path, Path] | None:
        """The certificate and its key, where the gateway ends TLS itself."""
        tls = self.config.server.tls
        return None if tls is None else (self.folder / tls.cert, self.folder / tls.key)


def find(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Choose the config file: `explicit`, GATEWAYCTL_CONFIG, ./config.yaml, the user's folder.

    Raises:
        ConfigError: the file that was named is missing, or none was named and none is there.
    """
    chosen = place_to_write(explicit, environ, cwd)
    if _is_there(chosen):
        return chosen
    is_named = explicit is not None or bool(environ.get("GATEWAYCTL_CONFIG"))
    users = platformdirs.user_config_path("gatewayctl") / "config.yaml"
    if is_named or not _is_there(users):
        raise ConfigError("there is no such file; `gatewayctl init` writes one", file=chosen)
    return users


def place_to_write(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Choose where `init` writes: `explicit`, else GATEWAYCTL_CONFIG, else ./config.yaml."""
    return cwd / (explicit or environ.get("GATEWAYCTL_CONFIG") or "config.yaml")


def load(path: Path) -> Settings:
    """Read and check the config file `path`; no reference is looked up.

    Raises:
        ConfigError: it cannot be used; names the file, the key path and the line.
    """
    document = read(path)
    config = convert(document, Config)
    problem = first_problem(config)
    if problem is not None:
        raise document.error(*problem)
    warnings = tuple(
        f"{path}: {key}: is written out in the file; use ${{NAME}} or file:PATH instead"
        for key in literal_secrets(config)
    )
    return Settings(config, path.absolute(), document, warnings)


def example_text() -> str:
    """Give the commented config that `init` writes."""
    return (resources.files("server.config") / "config.example.yaml").read_text(encoding="utf-8")


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True
