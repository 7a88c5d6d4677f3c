"""Files that hold secrets: nobody but their owner can read them, not even for a moment."""

import os
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all, as a file of mode 0600.

    Missing folders are made with mode 0700. What was there before is replaced.

    Raises:
        OSError: it cannot be written; it names `path`, or the folder that cannot be made.
    """
    make_private_folder(path.parent)
    try:
        _replace(path, text)
    except OSError as exc:  # of a name that nobody has asked for, or of none
        raise OSError(exc.errno, exc.strerror, str(path)) from exc


def _replace(path: Path, text: str) -> None:
    # It is created with mode 0600, which the rename keeps: there is no readable moment.
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, delete=False
    ) as stream:
        temporary = Path(stream.name)
        try:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def make_private_folder(path: Path) -> None:
    """Make the folder `path`, and those above it that are missing, with mode 0700.

    Folders that exist keep their mode.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
