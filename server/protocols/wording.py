"""A prompt that is too long, as each server says so: clients match the words to recover."""

import re

CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
TOO_LONG = "prompt is too long"
TOGETHER = "input length and `max_tokens` exceed context limit"

# As the servers' own sources, and people who met them, quote them (2026-11).
_TOO_LONG = re.compile(
    r"prompt (?:is )?too long"  # Anthropic, Ollama
    r"|`max_tokens` exceed context limit"  # Anthropic
    r"|maximum context length"  # OpenAI, DeepSeek, OpenRouter, SGLang, vLLM, Mistral
    r"|input tokens exceed the configured limit"  # OpenAI
    r"|context length is only \d"  # vLLM
    r"|(?:longer|greater) than the (?:model's )?context length"  # SGLang, LM Studio
    r"|exceeds the maximum allowed (?:input )?length"  # SGLang, OpenRouter
    r"|exceeds? the (?:model's )?(?:available )?context"  # OpenAI, llama.cpp
    r"|context window exceeds limit"  # MiniMax
    r"|exceeded model token limit"  # Moonshot
    r"|maximum prompt length is \d",  # xAI
    re.IGNORECASE,
)
_MOST = re.compile(
    r"(?:context length (?:is |is only |of |\()|allowed (?:input )?length (?:of |\()"
    r"|limit of |context size \()(\d+)",
    re.IGNORECASE,
)
_INPUT = re.compile(
    r"(?:passed|has|contains at least) (\d+) input tokens"
    r"|(?:input|input length|request) \(?(\d+)(?: tokens\)?)? (?:is longer|exceeds)",
    re.IGNORECASE,
)
_ALL = re.compile(r"(?:resulted in|requested(?: about| a total of)?) (\d+) tokens", re.IGNORECASE)
_OUTPUT = re.compile(
    r"(\d+) (?:tokens )?(?:in|for) the (?:completion|output)"
    r"|requested (\d+) output tokens|is too large: (\d+)",
    re.IGNORECASE,
)


def known_code(message: str, code: str | None) -> str | None:
    """Give the code of a refusal; a prompt that is too long has OpenAI's, whoever refused it."""
    return CONTEXT_LENGTH_EXCEEDED if _TOO_LONG.search(message) else code


def as_messages_words_it(message: str, code: str | None) -> str:
    """Give a provider's message as a Messages client has to read it; `code` is the known one.

    Where Claude Code (2.1.330) reads "prompt is too long: N tokens > M maximum" it compacts the
    conversation; where it reads that input and `max_tokens` together exceed the limit, it asks
    for less output, which is what helps where the prompt alone would fit.
    """
    if code != CONTEXT_LENGTH_EXCEEDED or _is_anthropics(message):
        return message
    most, output = _number(_MOST, message), _number(_OUTPUT, message)
    sent = _number(_INPUT, message)
    if sent is None and (total := _number(_ALL, message)) is not None:
        sent = total - (output or 0)
    if most is None or sent is None:
        return f"{TOO_LONG}: {message}"
    if sent > most:
        return f"{TOO_LONG}: {sent} tokens > {most} maximum. {message}"
    if output is None or sent + output <= most:
        return f"{TOO_LONG}: {message}"
    advice = "decrease input length or `max_tokens` and try again"
    return f"{TOGETHER}: {sent} + {output} > {most}, {advice}. {message}"


def _is_anthropics(message: str) -> bool:
    return TOO_LONG in message.lower() or TOGETHER in message


def _number(pattern: re.Pattern[str], message: str) -> int | None:
    found = pattern.search(message)
    return None if found is None else int(next(filter(None, found.groups())))
