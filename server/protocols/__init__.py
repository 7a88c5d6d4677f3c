"""The two wire protocols, as pure functions over bytes."""

from enum import StrEnum


class Protocol(StrEnum):
    """How a client speaks, or an upstream: Anthropic Messages, or OpenAI Chat Completions.

    `RESPONSES`, OpenAI's Responses API, is for clients alone: no upstream is asked in it.
    """

    ANTHROPIC = "anthropic"
    OPENAI = "openai"
    RESPONSES = "responses"


UPSTREAM_PROTOCOLS = (Protocol.ANTHROPIC, Protocol.OPENAI)
