"""Notice that files changed, and load them again: whole or not at all."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from server.errors import ConfigError

SETTLE_S = 0.3

Stamps = Mapping[Path, tuple[int, int]]  # size, mtime in nanoseconds
T = TypeVar("T")


class Watcher(Generic[T]):
    """Looks at files whenever it is asked to; keeps no thread and no clock.

    Make it before they are first loaded, so that no change falls between the two.
    """

    def __init__(self, stamps: Callable[[], Stamps], load: Callable[[], T]) -> None:
        self._stamps = stamps
        self._load = load
        self._seen = stamps()
        self._known: Stamps | None = self._seen
        self._since = 0.0

    def expect_change(self) -> None:
        """Load again at the next poll that finds the files still, changed or not."""
        self._known = None

    def poll(self, now_monotonic: float) -> T | ConfigError | None:
        """Give what was loaded anew when files changed, once all stood still for `SETTLE_S`.

        A `ConfigError` says that the change cannot be used and what was loaded before stays; it
        is given once for one state of the files. None: nothing to do.
        """
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen, self._since = stamps, now_monotonic
        if self._seen == self._known or now_monotonic - self._since < SETTLE_S:
            return None
        try:
            loaded: T | ConfigError = self._load()
        except ConfigError as err:
            loaded = err
        if self._stamps() != stamps:
            return None  # written to while being read: what was read may be half of each
        self._known = stamps
        return loaded


def stamps_of(paths: Iterable[Path]) -> Stamps:
    """Take size and mtime of each file that is there."""
    stamps = {}
    for path in paths:
        with suppress(OSError):  # gone, or not to be read; a later look sees it again
            stat = path.stat()
            stamps[path] = (stat.st_size, stat.st_mtime_ns)
    return stamps
