"""A file of whole lines: private, rotated by size, found again when something moved it."""

import errno
import os
import select
import stat
from contextlib import suppress
from pathlib import Path

from server.logs import KEPT_FILES, MAX_BYTES

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
PIPE_WAIT_MS = 1000  # for the reader of a pipe that is full


class LogFile:
    """Where lines are appended, each whole or not at all; it may be a pipe or a device too.

    Every call may raise OSError. Writing opens what is not open, so that it goes on by itself
    once the disk has room again. Old files are called `.1` to `.5`, as the other log's are.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fd: int | None = None

    def open(self) -> None:
        """Open the file, and make it, where it is not open; only its owner can read it."""
        if self._fd is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, FLAGS, 0o600)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def write(self, lines: bytes) -> None:
        """Append `lines`; where the disk has no room for all, none of them is there.

        A pipe is given one after another, until its reader stands still.
        """
        fd = self._opened()
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            _pour(fd, lines)
            return
        if status.st_size and status.st_size + len(lines) > self._max_bytes:
            self._rotate()
            fd = self._opened()
            status = os.fstat(fd)
        if os.write(fd, lines) == len(lines):
            return
        os.ftruncate(fd, status.st_size)  # half a line would spoil the next one as well
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _opened(self) -> int:
        """Give the open file that has the path now: logrotate may have moved the last one."""
        if self._fd is not None and not self._is_in_place(self._fd):
            self.close()
        self.open()
        assert self._fd is not None  # noqa: S101 - it was just opened
        return self._fd

    def _is_in_place(self, fd: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(fd))

    def _rotate(self) -> None:
        self.close()
        for number in range(KEPT_FILES - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._old(number).replace(self._old(number + 1))
        self._path.replace(self._old(1))

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _pour(fd: int, lines: bytes) -> None:
    """Write each line whole: a pipe takes all or nothing of up to PIPE_BUF bytes, no more.

    A batch is larger than a pipe holds, so without waiting most would end in half a line.
    """
    room = select.poll()
    room.register(fd, select.POLLOUT)
    for line in lines.splitlines(keepends=True):
        if not room.poll(PIPE_WAIT_MS):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        os.write(fd, line)
