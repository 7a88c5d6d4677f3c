"""A prompt that is too long, as each protocol says so: clients match the words to recover."""

import re

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
TOO_LONG = "prompt is too long"

# OpenAI, vLLM, SGLang, Ollama and DeepSeek, as their pages and users quote them (2026-11).
_CHAT = re.compile(
    r"maximum context length|context length of only|longer than the model's context"
    r"|exceeds? the (?:model's )?(?:available )?context",
    re.IGNORECASE,
)
_NUMBERS = re.compile(
    r"(?:maximum context length (?:is|of) (?P<most>\d+)).*?"
    r"(?:resulted in|requested|has|contains at least|you request) (?:about )?(?P<sent>\d+)",
    re.IGNORECASE | re.DOTALL,
)


def as_messages_words_it(message: str, code: str | None) -> str:
    """Give a provider's message as a Messages client has to read it.

    Claude Code compacts a conversation where it reads "prompt is too long: N tokens > M maximum".
    """
    if TOO_LONG in message.lower():
        return message
    if code != CONTEXT_LENGTH_EXCEEDED and not _CHAT.search(message):
        return message
    numbers = _NUMBERS.search(message)
    if numbers is None:
        return f"{TOO_LONG}: {message}"
    return f"{TOO_LONG}: {numbers['sent']} tokens > {numbers['most']} maximum. {message}"


def chat_code(message: str) -> str | None:
    """Give the code by which a Chat client knows such a message; None where it is another."""
    return CONTEXT_LENGTH_EXCEEDED if message.lower().startswith(TOO_LONG) else None
