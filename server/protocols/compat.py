"""What an OpenAI-compatible server needs to be told differently from OpenAI."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Struct


class Compat(Struct, frozen=True):
    """The ways of one server.

    `reasoning_field` is where it wants a turn's reasoning back; None: it does not. `stream_usage`
    tells whether it knows `stream_options`. `drop_params` are members that never leave.
    """

    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    reasoning_field: str | None = None
    reasoning_effort: bool = False
    supports_top_k: bool = False
    stream_usage: bool = True
    server_tools: Literal["drop", "refuse"] = "drop"
    drop_params: tuple[str, ...] = ()


OPENAI = Compat()

SERVERS: Mapping[str, Compat] = MappingProxyType({"openai": OPENAI})
