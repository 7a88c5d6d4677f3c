"""Configs with several places for one model, and providers that answer by the key and the ask."""

import asyncio
import json
import re
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from support.wires import COMPLETION, MESSAGE, http_answer, until

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
WHOLE = {"anthropic": http_answer(200, MESSAGE), "openai": http_answer(200, COMPLETION)}
USED = {"anthropic": (25, 42), "openai": (40, 33)}  # by the streams of `support.relays`
PRICE = '{input: "4", output: "20", cache_read: "0.4", cache_write_5m: "5", cache_write_1h: "8"}'
QUICK = {"backoff_s": 0.02, "longest_backoff_s": 0.05, "breaker_failures": None}
SESSION = "x-claude-code-session-id"

_KEY = re.compile(rb"\r\n(?:x-api-key: |authorization: Bearer )(\S+)\r\n")


def place(name: str, url: str, protocol: str = "anthropic", **more: Any) -> str:
    """Write an upstream's line; its key names it, unless `more` has others."""
    section = {"protocol": protocol, "base_url": url, "api_key": key_of(name), **more}
    return f"  {name}: {json.dumps(section)}\n"


def key_of(name: str) -> str:
    """Give the key of an upstream."""
    return f"sk-fake-{name}-key"


def model(name: str, *targets: dict[str, Any] | str, paid: str = f"price: {PRICE}", **more: Any):
    """Write a model's line; a target that is but a name comes behind those before it."""
    whole = [
        {"upstream": each, "model": f"{each}-model", "order": at} if isinstance(each, str) else each
        for at, each in enumerate(targets, 1)
    ]
    keys = "".join(f", {key}: {json.dumps(value)}" for key, value in more.items())
    return f"  {name}: {{targets: {json.dumps(whole)}, {paid}{keys}}}\n"


def routed(upstreams: list[str], models: list[str], more: str = "", **routing: Any) -> str:
    """Write a config; back-offs are short, and no breaker opens unless told so."""
    return (
        f"upstreams:\n{''.join(upstreams)}models:\n{''.join(models)}"
        f"routing: {json.dumps({**QUICK, **routing})}\n"
        f"tiers: {{team: {{name: Team, price_cents: 2000}}}}\n{more}"
    )


def asked(text: str = "hello", model: str = "smart", *, stream: bool = False) -> dict[str, Any]:
    """Write a request, for either protocol."""
    ask = {"model": model, "max_tokens": 300, "messages": [{"role": "user", "content": text}]}
    return {**ask, "stream": True, "stream_options": {"include_usage": True}} if stream else ask


@dataclass
class Provider:
    """An upstream that answers by who asks; `calls` keeps each key, and the request's body."""

    answer: Callable[[str, dict[str, Any]], bytes]
    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """Give the keys that it was called with, in turn."""
        return [key for key, _ in self.calls]

    def keys_for(self, text: str) -> list[str]:
        """Give the keys that came with conversations which began with `text`."""
        return [key for key, body in self.calls if body["messages"][0]["content"] == text]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head)[1])
                body = json.loads(await reader.readexactly(length))
                key = _KEY.search(head)[1].decode()
                self.calls.append((key, body))
                writer.write(self.answer(key, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def provider(answer: Callable[[str, dict[str, Any]], bytes]):
    """Run a `Provider` on a free port."""
    made = Provider(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, limit=1024 * 1024)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()


def tried(row: dict[str, Any]) -> list[tuple[str, int, str | None]] | None:
    """Give what a row tells of its attempts: where, with which key, and what went wrong."""
    if row["attempts"] is None:
        return None
    told = json.loads(row["attempts"])
    assert all(each["ms"] >= 0 and each["model"] for each in told)
    return [(each["upstream"], each["key"], each.get("error")) for each in told]


async def idle(gateway: Any) -> None:
    """Wait until no request is on its way, and all that was queued is written."""

    async def is_over():
        return not gateway.gateway.pumps

    await until(is_over)
    await gateway.services.store.write(lambda: None)
