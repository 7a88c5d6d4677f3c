"""The open database: one connection for a command, a `Store` for the server."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from peewee import SqliteDatabase

from server.store import migrate, models, problems
from server.store.transaction import immediate
from server.store.writer import Writer

P = ParamSpec("P")
T = TypeVar("T")

_READERS = 2
_BUSY_S = 5
_LOOP_BUSY_MS = 100  # the event loop waits for nobody
_PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": "full",
    "foreign_keys": 1,
    # 16 MB instead of 4: a page that many commits touch is copied back once, which saved
    # a tenth of a request's CPU under load.
    "wal_autocheckpoint": 4000,
}


def open_database(path: Path, *, query_only: bool = False) -> SqliteDatabase:
    """Open the database for the calling thread and bind the models to it; the caller closes it.

    Raises:
        StoreError: no database, the wrong schema, or not a database; see `require_current`.
        StoreUnavailable: the file cannot be opened just now.
    """
    migrate.require_current(path)
    _take_plain_values()
    database = SqliteDatabase(
        str(path),
        pragmas=_PRAGMAS,
        timeout=_BUSY_S,
        # What forgets to begin a transaction properly still never upgrades a read lock.
        lock_type="IMMEDIATE",
        # A thread nobody planned for gets an error, not a connection nobody closes.
        autoconnect=False,
        check_same_thread=False,
    )
    with problems.translated():
        database.connect()
        if query_only:
            _forbid_writes(database)
    models.database.initialize(database)
    return database


def _take_plain_values() -> None:
    """Spare each NULL, boolean and blob the search for a way to store it.

    sqlite3 looks for an adapter for all but int, float and str, and where there is none asks
    two objects for a method that they lack: 2 µs for each value, a tenth of the writer's time.
    """
    for kind in (type(None), bytes):
        sqlite3.register_adapter(kind, _as_it_is)
    sqlite3.register_adapter(bool, int)


def _as_it_is(value: T) -> T:
    return value


@contextmanager
def transaction() -> Iterator[None]:
    """Change the open database in one transaction, as a command does.

    Raises:
        StoreUnavailable: locked, full or read-only; nothing was changed.
    """
    with problems.translated(), immediate(models.database.obj):
        yield


class Store:
    """The server's way to the database: a writer thread, reader threads, and point reads.

    Domain functions are plain and synchronous; `write` and `read` run them elsewhere, inside a
    transaction. Anything they raise reaches the caller; a locked, full or damaged database is
    `StoreUnavailable`.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._writer = Writer(database)
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="store-reader")
        self._reader_connections: list[sqlite3.Connection] = []
        self.write = self._writer.write
        self.enqueue = self._writer.enqueue

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database for the running event loop; raises as `open_database`."""
        database = open_database(path, query_only=True)
        database.execute_sql(f"PRAGMA busy_timeout = {_LOOP_BUSY_MS}")
        return cls(database)

    @property
    def queued(self) -> int:
        """Count the writes that are not committed yet."""
        return self._writer.queued

    def watch_commits(self, watcher: Callable[[float], None]) -> None:
        """Tell `watcher`, in the writer's thread, how many seconds each group of writes took."""
        self._writer.on_commit = watcher

    def point(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` here and now, on the loop's own connection; for reads of microseconds."""
        try:
            return fn(*args, **kwargs)
        except problems.DATABASE_ERRORS as exc:
            if problems.is_unavailable(exc):
                raise problems.unavailable(exc) from exc
            raise

    async def read(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `fn` in a reader thread, on one snapshot of the database."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, partial(fn, *args, **kwargs))

    async def close(self, patience_s: float = 10.0) -> None:
        """Commit what is queued, then close every connection; the loop's thread must call it."""
        await self._writer.close(patience_s)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._reader_connections:
            connection.close()
        self._database.close()

    def _read(self, fn: Callable[[], T]) -> T:
        with problems.translated():
            if self._database.connect(reuse_if_open=True):
                _forbid_writes(self._database)
                self._reader_connections.append(self._database.connection())
            with self._database.transaction("DEFERRED"):
                return fn()


def _forbid_writes(database: SqliteDatabase) -> None:
    database.execute_sql("PRAGMA query_only = 1")
