"""The writer: one thread that commits the jobs of many callers in one transaction."""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from peewee import SqliteDatabase

from server.counts import counted
from server.errors import StoreUnavailable
from server.store import problems
from server.store.transaction import immediate

P = ParamSpec("P")
T = TypeVar("T")

_GROUP_JOBS = 512
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Job:
    """A call to make inside a transaction, and the future that waits for its commit."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    future: asyncio.Future[Any]
    is_retried: bool
    result: Any = None
    error: BaseException | None = None


class _GroupLostError(Exception):
    """SQLite dropped the transaction under a job: its whole group is undone."""


class _Attempt:
    """Runs one job in a savepoint; what the job raises is kept for its own caller."""

    __slots__ = ("_connection", "_job")

    def __init__(self, connection: sqlite3.Connection, job: _Job) -> None:
        self._connection = connection
        self._job = job

    def __enter__(self) -> None:
        self._job.error = None
        self._connection.execute("SAVEPOINT job")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if error is None:
            self._connection.execute("RELEASE job")
            return False
        # Without a transaction the group's next job would commit alone, by itself, while the
        # jobs before it are gone.
        if problems.is_unavailable(error) or not self._connection.in_transaction:
            raise _GroupLostError from error
        self._connection.execute("ROLLBACK TO job")
        self._connection.execute("RELEASE job")
        self._job.error = _as_future_error(error)
        return True


class Writer:
    """Runs jobs one after another, many to a commit; belongs to the loop that made it.

    Jobs run first in, first out, each in a savepoint of its own. No future resolves before
    COMMIT has returned. Where SQLite fails the transaction as a whole, the jobs of `write` fail
    with `StoreUnavailable` and have changed nothing; the jobs of `enqueue` run again, in order.
    `on_commit` is told, in the writer's thread, how long each group took, its commit included.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._inbox: list[_Job] = []
        self._batches: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._unfinished = 0
        self.on_commit: Callable[[float], None] = _nothing
        self._patience_s = 0.0
        self._give_up_at: float | None = None
        self._pause_s = 0.0
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Count the jobs whose callers wait still."""
        return self._unfinished

    async def write(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in a transaction and return its result once that is committed.

        A job once queued always runs: cancelling the caller only drops its result.
        """
        return await self._submit(call, args, kwargs, is_retried=False)

    def enqueue(
        self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """Queue `call` and return at once; it is retried until it is committed."""
        return self._submit(call, args, kwargs, is_retried=True)

    async def close(self, patience_s: float = 10.0) -> None:
        """Commit what is queued, then stop; what still fails after `patience_s` is given up."""
        if not self._is_closed:
            self._is_closed = True
            self._patience_s = patience_s
            self._flush()
            self._batches.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    def _submit(
        self,
        call: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_retried: bool,
    ) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        if self._is_closed:
            future.set_exception(StoreUnavailable("The gateway is stopping.", retry_after_s=5))
            return future
        if not self._inbox:
            self._loop.call_soon(self._flush)
        self._inbox.append(_Job(call, args, kwargs, future, is_retried))
        self._unfinished += 1
        return future

    def _flush(self) -> None:
        if self._inbox:
            self._batches.put(self._inbox)
            self._inbox = []

    def _run(self) -> None:
        backlog: deque[_Job] = deque()
        while self._collect(backlog):
            group = [backlog.popleft() for _ in range(min(len(backlog), _GROUP_JOBS))]
            try:
                self._commit(group)
            except (*problems.DATABASE_ERRORS, _GroupLostError) as exc:
                # What waits behind the group fails with it: settlements that go on failing could
                # fill every group to come, and a hold behind them would never get its answer.
                backlog = deque(self._fail([*group, *backlog], exc))
                if backlog:
                    time.sleep(self._pause_s)
        self._database.close()
        self._loop.call_soon_threadsafe(self._stopped.set_result, None)

    def _collect(self, backlog: deque[_Job]) -> bool:
        """Move everything queued to `backlog`; block while there is nothing, unless closing."""
        while not self._batches.empty() or (not backlog and self._give_up_at is None):
            batch = self._batches.get()
            if batch is None:
                self._give_up_at = time.monotonic() + self._patience_s
            else:
                backlog.extend(batch)
        return bool(backlog)

    def _commit(self, group: list[_Job]) -> None:
        begun = time.perf_counter()
        with immediate(self._database) as connection:
            for job in group:
                with _Attempt(connection, job):
                    job.result = job.call(*job.args, **job.kwargs)
        if self._pause_s:
            _log.warning("the database accepts writes again")
        self._pause_s = 0.0
        self._loop.call_soon_threadsafe(self._resolve, group)
        self.on_commit(time.perf_counter() - begun)

    def _fail(self, jobs: list[_Job], error: Exception) -> list[_Job]:
        """Tell the callers that wait; return the jobs to run again, in their order."""
        if not self._pause_s:
            refused = counted(len(jobs), "write")
            _log.error("the database refuses %s: %s", refused, error.__cause__ or error)
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        is_over = self._give_up_at is not None and time.monotonic() >= self._give_up_at
        failed = [job for job in jobs if is_over or not job.is_retried]
        for job in failed:
            job.error = problems.unavailable(error)
        self._loop.call_soon_threadsafe(self._resolve, failed)
        return [] if is_over else [job for job in jobs if job.is_retried]

    def _resolve(self, jobs: list[_Job]) -> None:
        self._unfinished -= len(jobs)
        for job in jobs:
            if job.future.cancelled():
                continue
            if job.error is None:
                job.future.set_result(job.result)
            else:
                job.future.set_exception(job.error)


def _nothing(_seconds: float) -> None:
    """Stand in for who watches the commits."""


def _as_future_error(error: BaseException) -> BaseException:
    # A future refuses StopIteration, and the refusal would leave the rest of the group waiting.
    if isinstance(error, StopIteration):
        return RuntimeError("a write job raised StopIteration").with_traceback(error.__traceback__)
    return error
