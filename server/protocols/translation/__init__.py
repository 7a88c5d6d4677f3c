"""From one protocol to the other: requests, answers and streams, as pure functions.

A request is translated whole. An answer that is not streamed is, too; a stream goes through a
`Machine`, which holds the state of that one stream and knows nothing of sockets, clocks or money.
"""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Raw, Struct


class Translated(Struct, frozen=True):
    """A request in the other protocol.

    `names` leads from a tool's name as it leaves back to the one that the client knows, for those
    that had to be changed.
    """

    fields: dict[str, Raw]
    names: Mapping[str, str]


class Context(Struct, frozen=True):
    """What the translation of an answer has to know of its request.

    `model` is the name that the client asked for. `ident` is unique to the request and fit to be
    part of an id. `created` is in seconds since 1970. `input_tokens` is an estimate.
    `include_usage` is a Chat client's wish for the stream's usage chunk.
    """

    model: str
    ident: str
    created: int
    input_tokens: int
    names: Mapping[str, str]
    include_usage: bool = True


class Machine(Protocol):
    """Turns a provider's stream into a client's.

    Providers' errors and cuts are not its business: whoever drives it ends the stream then, and
    `finish` is never called.
    """

    def feed(self, whole_events: bytes) -> bytes:
        """Take one or more whole events, each with its blank line; give what the client gets now.

        Never raises, whatever they hold: what cannot be read is passed over.
        """

    def finish(self) -> bytes:
        """Give the rest, once the provider's stream has ended as it should. Called once."""
