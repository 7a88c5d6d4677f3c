"""What can be wrong with the database file, and which SQLite errors mean "not just now".

    StoreError                 for the operator; `str(err)` names the file and the way out
    ├── NoDatabase             nothing there yet
    ├── UnusableDatabase       not a database, damaged, or another program's
    ├── SchemaTooOld           made by an older release
    ├── SchemaTooNew           made by a newer release
    └── LockHeld               another process serves it

Failures of a single statement or commit reach callers as `errors.StoreUnavailable` (503).
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import peewee

from server.errors import StoreUnavailable

DATABASE_ERRORS = (peewee.PeeweeException, sqlite3.Error)
RETRY_AFTER_S = 1

# Primary result codes (sqlite.org/rescode.html, read 2026-11). Anything else, such as a broken
# constraint or a mistake in our SQL, is not cured by waiting and keeps its own exception.
_UNAVAILABLE_CODES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


class StoreError(Exception):
    """The database file cannot be used as it is; the message says what to do."""


class NoDatabase(StoreError):
    """There is no database yet."""


class UnusableDatabase(StoreError):
    """The file is not a gatewayctl database, or is damaged; it was not touched."""


class SchemaTooOld(StoreError):
    """The database was made by an older release and must be migrated first."""


class SchemaTooNew(StoreError):
    """The database was made by a newer release than this one."""


class LockHeld(StoreError):
    """Another process serves this database; `pid` is 0 while it has not said who it is."""

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


def code_of(error: BaseException) -> int:
    """Tell the primary SQLite result code behind `error`; 0 where SQLite had no part in it."""
    # peewee raises its own class while it handles sqlite3's, which alone carries the code.
    raw = error.__context__ if isinstance(error, peewee.PeeweeException) else error
    return getattr(raw, "sqlite_errorcode", 0) & 0xFF


def is_unavailable(error: BaseException) -> bool:
    """Whether `error` is the file's or the disk's fault: locked, full, read-only, damaged."""
    return code_of(error) in _UNAVAILABLE_CODES


def unavailable(cause: BaseException) -> StoreUnavailable:
    """Build the failure that callers see; the details stay in its cause, for the log."""
    error = StoreUnavailable(
        "The gateway's database cannot be used just now; nothing was changed. Retry shortly.",
        retry_after_s=RETRY_AFTER_S,
    )
    error.__cause__ = cause
    return error


@contextmanager
def translated() -> Iterator[None]:
    """Turn a locked, full, read-only or damaged database into `StoreUnavailable`."""
    try:
        yield
    except DATABASE_ERRORS as exc:
        if is_unavailable(exc):
            raise unavailable(exc) from exc
        raise
