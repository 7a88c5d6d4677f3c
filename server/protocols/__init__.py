"""The two wire protocols, as pure functions over bytes."""

from enum import StrEnum


class Protocol(StrEnum):
    """How a client or an upstream speaks: Anthropic Messages, or OpenAI Chat Completions."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"
