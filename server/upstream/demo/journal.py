"""What the demo upstream served: the other side's proof for tests that compare rows."""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from server import clock
from server.upstream.demo.usage import Usage

Outcome = Literal["open", "completed", "cut", "client_gone", "fault"]
_KEPT_ENTRIES = 10_000


@dataclass(slots=True)
class Entry:
    """One request: what came, and how far its answer got.

    `usage` is what has been reported on the wire so far, null before any was; `bytes` counts
    body bytes handed to the socket. `prefix` is a hash of tools and system prompt.
    """

    number: int
    request_id: str | None
    path: str
    arrived_at: str
    protocol: str | None = None
    model: str | None = None
    stream: bool = False
    prefix: str | None = None
    upstream_request_id: str | None = None
    status: int | None = None
    usage: Usage | None = None
    events: int = 0
    bytes: int = 0
    outcome: Outcome = "open"

    def as_json(self) -> dict[str, Any]:
        """Give the entry as `GET /__log` shows it."""
        return asdict(self)


@dataclass(slots=True)
class Journal:
    """The latest entries in memory, and every one in a file if a path is given.

    The file has a line when a request arrives and another when it ends, each flushed at once,
    so that it can be compared after either process was killed.
    """

    path: Path | None = None
    entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=_KEPT_ENTRIES))
    open: int = 0
    served: int = 0
    _file: TextIO | None = None

    def arrive(self, path: str, headers: Mapping[str, str]) -> Entry:
        """Note that a request has come."""
        entry = Entry(
            number=self.served + self.open + 1,
            request_id=headers.get("x-request-id"),
            path=path,
            arrived_at=clock.rfc3339(clock.now()),
        )
        self.open += 1
        self.entries.append(entry)
        self._write("arrived", entry)
        return entry

    def end(self, entry: Entry) -> None:
        """Note that the request of `entry` has ended, whichever way."""
        self.open -= 1
        self.served += 1
        self._write("ended", entry)

    def close(self) -> None:
        """Close the file; later entries would open it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, what: str, entry: Entry) -> None:
        if self.path is None:
            return
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        line = msgspec.json.encode({"line": what, **entry.as_json()})
        self._file.write(line.decode() + "\n")
        self._file.flush()
