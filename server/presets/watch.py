"""Notice that preset files changed, and load them again: whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from server.errors import ConfigError
from server.presets.load import Presets, load_presets

SETTLE_S = 0.3

_Stamps = dict[Path, tuple[int, int]]  # size, mtime in nanoseconds


class Watcher:
    """Looks at a presets folder whenever it is asked to; keeps no thread and no clock.

    Make it before the first `load_presets`, so that no change falls between the two.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = _stamps(folder)
        self._seen = self._known
        self._since = 0.0

    def poll(self, now_monotonic: float) -> Presets | ConfigError | None:
        """Give the presets anew when files changed, once all stood still for `SETTLE_S`.

        A `ConfigError` says that the change cannot be used and the old presets stay; it is
        given once for one state of the files. None: nothing to do.
        """
        stamps = _stamps(self._folder)
        if stamps != self._seen:
            self._seen, self._since = stamps, now_monotonic
        if self._seen == self._known or now_monotonic - self._since < SETTLE_S:
            return None
        try:
            presets: Presets | ConfigError = load_presets(self._folder)
        except ConfigError as err:
            presets = err
        if _stamps(self._folder) != stamps:
            return None  # written to while being read: what was read may be half of each
        self._known = stamps
        return presets


def _stamps(folder: Path) -> _Stamps:
    """Take size and mtime of every file below `folder`, skill files included."""
    stamps: _Stamps = {}
    # `os.walk` passes over what cannot be listed, where `rglob` would raise and end the watch: a
    # folder that an editor or a checkout removes meanwhile, for one.
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            with suppress(OSError):  # gone since it was listed; the next poll sees that
                stat = path.stat()
                stamps[path] = (stat.st_size, stat.st_mtime_ns)
    return stamps
