"""One run of the command line: the only door to the configuration and the store."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.output import Output
from server.counts import counted
from server.errors import StoreUnavailable

if TYPE_CHECKING:  # takes longer to import than `--help` may take
    from server.config.load import Settings


@dataclass(slots=True)
class Session:
    """What the global options chose, and the ways in that follow from it."""

    out: Output = field(default_factory=Output)
    config_file: Path | None = None

    @classmethod
    def of(cls, ctx: Any) -> "Session":
        """Find the session that `main` gave to the running command."""
        session: Session = ctx.find_object(cls)
        return session

    def find_config(self) -> Path:
        """Find the config file, or raise ConfigError."""
        from server.config.load import find

        return find(self.config_file, os.environ, Path.cwd())

    def settings(self) -> "Settings":
        """Load the configuration, with its warnings on stderr.

        Raises:
            ConfigError: there is none, or it cannot be used.
        """
        from server.config.load import load

        settings = load(self.find_config())
        self.warn(settings.warnings)
        return settings

    def warn(self, warnings: Iterable[str]) -> None:
        """Tell the operator what should not stay as it is."""
        for warning in warnings:
            self.out.note(f"warning: {warning}.")

    def tell_draining(self, count: int) -> None:
        """Say why Ctrl-C does not end a server at once."""
        if count:
            requests = counted(count, "request")
            self.out.note(f"\nFinishing {requests}; Ctrl-C again cuts what is left.")

    @contextmanager
    def reading(self) -> Iterator["Settings"]:
        """Open the store for reading alone; the block sees one moment of it."""
        from server.store.db import open_database
        from server.store.problems import translated

        settings = self.settings()
        with store_failures(), translated():
            database = open_database(settings.database_path, query_only=True)
            try:
                with database.transaction("DEFERRED"):
                    yield settings
            finally:
                database.close()

    @contextmanager
    def changing(self) -> Iterator["Settings"]:
        """Open the store and hold one transaction, committed when the block ends well."""
        from server.store.db import open_database, transaction

        settings = self.settings()
        with store_failures():
            database = open_database(settings.database_path)
            try:
                with transaction():
                    yield settings
            finally:
                database.close()


@contextmanager
def store_failures() -> Iterator[None]:
    """Turn what the store says about its file into how a command ends."""
    from server.store import problems

    try:
        yield
    except problems.NoDatabase as exc:
        raise CommandError(str(exc), status=ExitStatus.NOT_FOUND, code="no_database") from exc
    except problems.StoreError as exc:
        code = _STORE_CODES.get(type(exc).__name__, "store_unusable")
        says_it = isinstance(exc, problems.UnusableDatabase)
        hint = None if says_it else _way_out(exc)
        raise CommandError(str(exc), status=ExitStatus.UNAVAILABLE, code=code, hint=hint) from exc
    except StoreUnavailable as exc:
        hint = _way_out(exc)
        if hint is None:  # locked, say: its own advice to try again is right
            raise
        message = f"The database cannot be used: {exc.__cause__}."
        raise CommandError(
            message, status=ExitStatus.UNAVAILABLE, code=exc.code, hint=hint
        ) from exc


def _way_out(failed: Exception) -> str | None:
    """Say what may help where SQLite could not open, read or write the file."""
    import sqlite3

    from server.store import problems

    code = problems.code_of(failed.__cause__) if failed.__cause__ else 0
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
        return "Run this as the user who owns the file and its folder; SQLite writes beside it."
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}:
        return "Look whether the disk is full, and make room."
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return "The file is damaged: stop the gateway, and restore a backup."
    return None


_STORE_CODES = {
    "SchemaTooOld": "schema_too_old",
    "SchemaTooNew": "schema_too_new",
    "LockHeld": "locked",
}
