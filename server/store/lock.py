"""The lock that decides who serves a database; the operating system frees it with its holder."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from server.store.problems import LockHeld

_ATTEMPTS, _PAUSE_S = 5, 0.02


class ServeLock:
    """The exclusive right to serve or to migrate a database, held until `release`.

    `flock` on `<database>.lock`; the holder's pid stands in the file. The file stays: removing
    it would let a process lock a name that nobody else sees any more.
    """

    def __init__(self, database: Path) -> None:
        self._path = _lock_path(database)
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock at once.

        Raises:
            LockHeld: another process has it; the message names its pid.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_lock(fd, fcntl.LOCK_EX):
            pid = _read_pid(fd)
            os.close(fd)
            holder = f"process {pid}" if pid else "another process"
            raise LockHeld(f"The database is in use by {holder}; stop it first.", pid=pid)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; doing it twice is harmless."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def is_held(database: Path) -> int | None:
    """Tell the pid that serves `database` (0 if it has not written it yet), None for nobody."""
    try:
        fd = os.open(_lock_path(database), os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(fd, fcntl.LOCK_SH) else _read_pid(fd)
    finally:
        os.close(fd)


def _lock_path(database: Path) -> Path:
    # A symbolic link to it leads to the same lock. `resolve` would crash on links in a circle.
    real = Path(os.path.realpath(database))
    return real.with_name(real.name + ".lock")


def _try_lock(fd: int, kind: int) -> bool:
    # `is_held` takes the lock for an instant; without a second look it could turn a server away.
    for _ in range(_ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return True
        time.sleep(_PAUSE_S)
    return False


def _read_pid(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0
