"""A plain, rotating log file beside the config."""

import logging
import os
import time
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 10 * 1024 * 1024
KEPT_FILES = 5
FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


class _PrivateLog(RotatingFileHandler):
    """A rotating log whose every file, the next ones too, only its owner can read."""

    def _open(self) -> TextIOWrapper:
        os.close(os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        return super()._open()


def open_log(path: Path, level: str) -> logging.Handler:
    """Send what the server and Sanic log to `path`, readable by its owner only.

    The handler comes back so that `close_log` can take it off again.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = _PrivateLog(path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
    formatter = logging.Formatter(FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(_is_worth_a_line)
    for name in _LOGGERS:
        logging.getLogger(name).addHandler(handler)
    set_level(level)
    return handler


def set_level(level: str) -> None:
    """Log what is at least as grave as `level`."""
    for name, floor in _LOGGERS.items():
        wanted = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger(name).setLevel(max(floor, wanted))


def close_log(handler: logging.Handler) -> None:
    """Take the handler off all loggers and close its file."""
    for name in _LOGGERS:
        logging.getLogger(name).removeHandler(handler)
    handler.close()


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # Anybody could fill the log with what Sanic says of a body that no handler asked for.
    return not (record.name == "sanic.error" and str(record.msg).endswith("body not consumed."))


_LOGGERS = {"server": logging.DEBUG, "sanic": logging.ERROR, "asyncio": logging.WARNING}
