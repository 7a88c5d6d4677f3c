"""What is told of a request when it has ended, and to whom."""

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from server.observing.caller_trace import CallerTrace
from server.usage.record import Closing, Opening


class Served(Struct, frozen=True):
    """A request that left: its row, opened and closed, and what the row does not keep.

    `hold_ms` is how long it waited for its hold, `sent_bytes` what its client was given; `key_id`
    and `tenant` are the ids that people know; `would_block` names the limit that would have
    refused it, had that been enforced. It holds no part of what was asked or answered.
    """

    opening: Opening
    closing: Closing
    key_id: str
    tenant: str
    client: str
    provider: str
    hold_ms: int | None
    sent_bytes: int
    attempts: int
    ended_at: float  # seconds since 1970
    would_block: str | None = None
    caller_trace: CallerTrace | None = None


class Refused(Struct, frozen=True):
    """A request that was answered with an error and never left; who asked may be unknown."""

    request_id: str
    method: str
    path: str  # without its query
    protocol: str
    status: int
    error: str
    client: str
    key_id: str | None
    tenant: str | None
    member: str | None
    ended_at: float  # seconds since 1970


Record: TypeAlias = Served | Refused
Sink: TypeAlias = Callable[[Record], None]


class Feed:
    """Tells every subscriber of every request that has ended, on the event loop, at once."""

    def __init__(self) -> None:
        self._sinks: tuple[Sink, ...] = ()

    def subscribe(self, sink: Sink) -> None:
        """Tell `sink` from now on; it must neither wait nor raise."""
        self._sinks = (*self._sinks, sink)

    def tell(self, record: Record) -> None:
        for sink in self._sinks:
            sink(record)
