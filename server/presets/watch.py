"""Notice that preset files changed."""

import os
from collections.abc import Iterator
from pathlib import Path

from server.config.watch import Watcher, stamps_of
from server.presets.load import Presets, load_presets


def watch_presets(folder: Path) -> Watcher[Presets]:
    """Watch every file below `folder`, skill files included."""
    return Watcher(lambda: stamps_of(_files(folder)), lambda: load_presets(folder))


def _files(folder: Path) -> Iterator[Path]:
    # `os.walk` passes over what cannot be listed, where `rglob` would raise and end the watch: a
    # folder that an editor or a checkout removes meanwhile, for one.
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if not name.startswith("."))
