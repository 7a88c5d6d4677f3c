"""Both official SDKs, strict and without retries, at a gateway with one demo upstream behind it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from support.gateways import started
from support.priced import check_books, settled
from support.stages import crossed, upstream
from support.wires import run

SPOKEN = ("anthropic", "openai")
FORMS = [(spoken, stream) for spoken in SPOKEN for stream in (False, True)]
STRICT = {"max_retries": 0, "_strict_response_validation": True}
HELLO = [{"role": "user", "content": "hello"}]
TASK = [{"role": "user", "content": "Create a file hello.txt containing hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path", "content"],
}
TOOL = {"name": "write_file", "description": "Write a file.", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}
FLAT = {"type": "function", "name": "write_file", "parameters": SCHEMA, "strict": False}

across = pytest.mark.parametrize(("spoken", "stream"), FORMS)
each_upstream = pytest.mark.parametrize("spoken", SPOKEN)


def on(
    folder: Path,
    spoken: str,
    scenario: Callable[[Any, Any], Awaitable[Any]],
    *names: str,
    is_sync: bool = False,
):
    """Run `scenario(anthropic client, openai client)`; give its result, the rows, the provider.

    The provider serves models of these names over the protocol `spoken` alone.
    """
    make = (anthropic.Anthropic, openai.OpenAI) if is_sync else ASYNC

    async def play():
        async with upstream() as provider:
            text = crossed(provider, spoken, names or ("demo-smart",))
            async with started(folder, text, usd=100) as gateway:
                key = {"api_key": gateway.secret, **STRICT}
                messages = make[0](base_url=gateway.url, **key)
                chat = make[1](base_url=f"{gateway.url}/v1", **key)
                try:
                    result = await scenario(messages, chat)
                finally:
                    for client in (messages, chat):
                        closing = client.close()
                        if not is_sync:
                            await closing
                return result, await settled(gateway), provider

    found = run(play)
    check_books(folder)
    return found


ASYNC = (anthropic.AsyncAnthropic, openai.AsyncOpenAI)


async def by_messages(client, stream, **fields):
    """Ask for a message, whole or through the SDK's stream helper."""
    asked = {"model": "auto", "max_tokens": 2000, **fields}
    if not stream:
        return await client.messages.create(**asked)
    async with client.messages.stream(**asked) as running:
        return await running.get_final_message()


async def by_chat(client, stream, **fields):
    """Ask for a chat completion, whole or through the SDK's stream helper."""
    asked = {"model": "auto", "max_tokens": 2000, **fields}
    if not stream:
        return await client.chat.completions.create(**asked)
    options = {"stream_options": {"include_usage": True}}
    async with client.chat.completions.stream(**asked, **options) as running:
        return await running.get_final_completion()


async def by_responses(client, stream, **fields):
    """Ask for a response, whole or through the SDK's stream helper."""
    asked = {"model": "auto", "max_output_tokens": 2000, **fields}
    if not stream:
        return await client.responses.create(**asked)
    async with client.responses.stream(**asked) as running:
        return await running.get_final_response()


def said_by(message) -> dict[str, Any]:
    """Give an SDK's assistant message as the turn that a client sends back."""
    if hasattr(message, "stop_reason"):
        return {"role": "assistant", "content": [each.to_dict() for each in message.content]}
    return message.model_dump(exclude_none=True, exclude={"parsed"})
