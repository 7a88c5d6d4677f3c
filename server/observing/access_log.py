"""The access log: a line for each request, written in batches by a thread of its own."""

import asyncio
import logging
import queue
import threading
from contextlib import suppress

import msgspec

from server.observing.lines import line_of
from server.observing.log_file import LogFile
from server.observing.record import Record

FLUSH_AFTER_S = 0.25
BATCH_LINES = 128
MOST_WAITING = 10_000  # some 10 MB
CLOSE_WAIT_S = 2.0

# A lone surrogate, a moment beyond the calendar (which is an OSError where C says so), a type.
_UNWRITABLE = (ValueError, OverflowError, OSError, TypeError, msgspec.MsgspecError)

_log = logging.getLogger(__name__)


class AccessLog:
    """Takes records on the event loop that made it, and writes them where that harms nobody.

    One batch is at the thread, the next gathers here. Where the file cannot be written, or not
    fast enough, lines are dropped and counted, and that is said once; so is a line that holds what
    JSON cannot. What a killed process had not written yet is lost; the usage rows have it.
    """

    def __init__(self, file: LogFile) -> None:
        self.dropped = 0
        self._file = file
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Record] = []
        self._timer: asyncio.TimerHandle | None = None
        self._is_writing = self._is_failing = False
        self._batches: queue.SimpleQueue[list[Record] | None] = queue.SimpleQueue()
        self._stopped = asyncio.Event()
        # A daemon: a disk that never answers must not keep the process from ending.
        threading.Thread(target=self._run, name="access-log", daemon=True).start()

    def take(self, record: Record) -> None:
        """Have a request's line written soon."""
        waiting = self._waiting
        if len(waiting) >= MOST_WAITING:
            self._drop(1, "it is too slow")
            return
        waiting.append(record)
        if self._timer is None and not self._is_writing:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self._hand_over)
        elif len(waiting) == BATCH_LINES:
            self._hand_over()

    async def close(self) -> None:
        """Write what is waiting, unless that takes long, and close the file."""
        self._batches.put(self._waiting)
        self._batches.put(None)
        self._waiting, self._is_writing = [], True  # whatever comes now is too late
        if self._timer is not None:
            self._timer.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), CLOSE_WAIT_S)

    def _hand_over(self) -> None:
        if self._is_writing:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_writing = True
        self._batches.put(self._waiting)
        self._waiting = []

    def _written(self, lost: int, problem: str | None) -> None:
        self._is_writing = False
        if problem is not None:
            self._drop(lost, problem)
        elif self._is_failing:
            self._is_failing = False
            _log.warning("the access log is written again; lines lost so far: %d", self.dropped)
        if len(self._waiting) >= BATCH_LINES:
            self._hand_over()
        elif self._waiting:
            self._timer = self._loop.call_later(FLUSH_AFTER_S, self._hand_over)

    def _drop(self, lines: int, problem: str) -> None:
        self.dropped += lines
        if not self._is_failing:
            self._is_failing = True
            _log.error("the access log cannot be written (%s): its lines are dropped", problem)

    # in the thread

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._tell_loop(self._written, *self._write(batch))
        with suppress(OSError):
            self._file.close()
        self._tell_loop(self._stopped.set)

    def _write(self, batch: list[Record]) -> tuple[int, str | None]:
        """Write a batch; give how many lines of it are lost, and why."""
        lines, problem = [], None
        for record in batch:
            try:
                lines.append(line_of(record))
            except _UNWRITABLE as exc:  # that one alone: this thread has to outlive it
                problem = f"a line: {exc}"
        try:
            if lines:
                self._file.write(b"".join(lines))
        except OSError as exc:
            return len(batch), exc.strerror or str(exc)
        return len(batch) - len(lines), problem

    def _tell_loop(self, call: object, *args: object) -> None:
        with suppress(RuntimeError):  # the loop did not wait for this
            self._loop.call_soon_threadsafe(call, *args)  # type: ignore[arg-type]
