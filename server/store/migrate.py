"""The schema of a database file: how far it is, and how it is brought up to date."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path

from peewee import SqliteDatabase
from playhouse.migrations import MigrationError, Runner

from server import clock
from server.store import audit, problems
from server.store.lock import ServeLock
from server.store.problems import (
    NoDatabase,
    SchemaTooNew,
    SchemaTooOld,
    StoreError,
    UnusableDatabase,
)
from server.store.transaction import immediate

MIGRATIONS = Path(__file__).parent / "migrations"
CHECKED_BYTES = 256 * 1024 * 1024  # a quarter of a second to read
_HISTORY = "schema_migration"


class SchemaState(StrEnum):
    """How a file's schema compares with the one that this release needs."""

    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"
    MISSING = "missing"


def check(path: Path, *, migrations: Path = MIGRATIONS) -> SchemaState:
    """Compare the schema of the file at `path` with this release's, without touching the file.

    Raises:
        UnusableDatabase: not a database, damaged, or another program's.
    """
    if not path.exists():
        return SchemaState.MISSING
    known = {script.stem for script in migrations.glob("[0-9]*.py")}
    applied = _applied(path)
    if applied - known:
        return SchemaState.NEWER
    return SchemaState.OLDER if known - applied else SchemaState.CURRENT


def require_current(path: Path) -> None:
    """Refuse to go on with a file whose schema is not exactly this release's.

    Raises:
        NoDatabase, SchemaTooOld, SchemaTooNew: the message names the command that helps.
        UnusableDatabase: as `check`.
    """
    match check(path):
        case SchemaState.MISSING:
            raise NoDatabase(f"There is no database at {path}; run `gatewayctl init`.")
        case SchemaState.OLDER:
            raise SchemaTooOld(
                f"{path} was made by an older release; stop the server and run "
                "`gatewayctl db migrate`."
            )
        case SchemaState.NEWER:
            raise _too_new(path)
        case SchemaState.CURRENT:
            return


def migrate(path: Path, *, actor: str = audit.SERVE, migrations: Path = MIGRATIONS) -> list[str]:
    """Create the database or bring its schema up to date; return the migrations applied.

    Damage is looked for first, unless the file is over `CHECKED_BYTES`: a server that found a
    broken page later would have served what it cannot charge.

    Nothing pending changes nothing. Otherwise a backup goes into `backups/` beside the file
    first, and all migrations are one transaction: a failure leaves the file as it was. The
    audit log says that `actor` did it.

    Raises:
        LockHeld: the server runs.
        SchemaTooNew, UnusableDatabase: the file was left alone.
        StoreError: the backup or a migration failed.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ServeLock(path):
        state = check(path, migrations=migrations)
        if state is SchemaState.NEWER:
            raise _too_new(path)
        if state is SchemaState.MISSING:
            with _new_file(path):
                return _apply(path, migrations, actor)
        if path.stat().st_size <= CHECKED_BYTES:
            _require_whole(path)
        if state is SchemaState.CURRENT:
            return []
        back_up(path)
        return _apply(path, migrations, actor)


def back_up(path: Path) -> Path:
    """Copy the database into `backups/` beside it, safe while it is in use; return the copy."""
    folder = path.parent / "backups"
    copy = folder / f"{path.stem}-{clock.now():%Y%m%dT%H%M%SZ}{path.suffix}"
    unfinished = copy.with_name(copy.name + ".part")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(unfinished)) as to:
            source.backup(to)
        unfinished.replace(copy)
    except (sqlite3.Error, OSError) as exc:
        with suppress(OSError):
            unfinished.unlink()
        raise StoreError(f"{path} could not be backed up into {folder}: {exc}.") from exc
    return copy


def _apply(path: Path, migrations: Path, actor: str) -> list[str]:
    # Foreign keys stay off meanwhile (SQLite's default): rebuilding a table drops the old one.
    database = SqliteDatabase(str(path))
    try:
        with immediate(database) as connection:
            applied: list[str] = Runner(database, str(migrations), _HISTORY).up()
            _require_whole_references(database)
            told = audit.row(
                audit.Action.DB_MIGRATED, path.name, actor=actor, at=clock.now(), applied=applied
            )
            connection.execute(audit.APPEND, told)
        database.execute_sql("PRAGMA journal_mode = WAL")
    except (*problems.DATABASE_ERRORS, MigrationError) as exc:
        raise StoreError(
            f"{path} could not be migrated and is as it was: {exc}. "
            "Go on with the release that made it, and report this."
        ) from exc
    finally:
        database.close()
    return applied


def _require_whole_references(database: SqliteDatabase) -> None:
    if database.execute_sql("PRAGMA foreign_key_check").fetchone():
        raise MigrationError("a row refers to one that is gone")


@contextmanager
def _new_file(path: Path) -> Iterator[None]:
    """Create the file for its owner alone; take it away again if the block fails."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield
    except StoreError:
        path.unlink()
        raise


def _applied(path: Path) -> set[str]:
    with _reading(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if tables and _HISTORY not in tables:
            raise UnusableDatabase(f"{path} is a database of another program.")
        rows = connection.execute(f"SELECT name FROM {_HISTORY}") if tables else ()  # noqa: S608 - our constant
        return {name for (name,) in rows}


def _require_whole(path: Path) -> None:
    with _reading(path) as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _damaged(path, found.splitlines()[-1])


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    # Not `mode=ro`: such a connection leaves its -wal and -shm files behind.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            yield connection
    except sqlite3.Error as exc:
        if problems.code_of(exc) in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
            raise _damaged(path, exc) from exc
        raise StoreError(f"{path} cannot be used: {exc}.") from exc


def _damaged(path: Path, found: object) -> UnusableDatabase:
    return UnusableDatabase(
        f"{path} is not a gatewayctl database, or is damaged ({found}); restore it from a backup."
    )


def _too_new(path: Path) -> SchemaTooNew:
    return SchemaTooNew(f"{path} was made by a newer release; upgrade gatewayctl.")
