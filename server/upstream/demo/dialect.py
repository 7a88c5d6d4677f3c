"""What the demo needs to know of a protocol; `messages` and `chat` are the two."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from server.upstream.demo.model import Prompt, Reply
from server.upstream.demo.usage import PrefixCache, Usage


class Event(NamedTuple):
    """One server-sent event, ready for the wire; `usage` is what it reports."""

    data: bytes
    usage: Usage | None = None
    is_delta: bool = False


@dataclass(frozen=True, slots=True)
class Stamp:
    """What makes an answer unlike the one before."""

    id: str  # without the protocol's prefix
    created: int  # seconds since 1970


class Dialect(Protocol):
    """A protocol, as functions; a module can be one."""

    NAME: str

    def read(self, body: Mapping[str, Any]) -> Prompt:
        """Understand a request, or raise `BadRequestError`."""

    def measure(self, body: Mapping[str, Any], cache: PrefixCache) -> tuple[Usage, str]:
        """Count the input and name its stable prefix."""

    def headers(self, stamp: Stamp) -> dict[str, str]:
        """Give the headers that the provider sends with every answer."""

    def tool_call_id(self, ident: str) -> str:
        """Give a new tool call's id."""

    def whole(self, prompt: Prompt, reply: Reply, stamp: Stamp) -> bytes:
        """Render the answer to a request that does not stream."""

    def events(self, prompt: Prompt, reply: Reply, stamp: Stamp) -> Iterator[Event]:
        """Render the answer as a stream, the terminal event included."""

    def error(self, status: int, message: str, *, param: str | None, request_id: str) -> bytes:
        """Render an error body."""

    def error_event(self, status: int, message: str) -> Event:
        """Render an error inside a stream."""
