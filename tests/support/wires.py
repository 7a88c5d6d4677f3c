"""Raw sockets: what is sent is exactly what was written, and nothing of an answer is tidied up."""

import asyncio
import json
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

PATIENCE_S = 10


@dataclass(frozen=True)
class Reply:
    """An answer as it came; header names are in lower case, repeated ones stay repeated."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) <= 1, f"{name} came twice"
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to a gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, *, head_only: bool = False) -> Reply:
        """Send `data` and read one whole answer."""
        await self.send(data)
        return await self.reply(head_only=head_only)

    async def reply(self, *, head_only: bool = False) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            status, headers = await self._head()
            while status == 100:
                status, headers = await self._head()
            named = dict(headers)
            if head_only:
                return Reply(status, headers, b"")
            if named.get("transfer-encoding") == "chunked":
                return Reply(status, headers, await self._chunks())
            length = int(named["content-length"])
            return Reply(status, headers, await self.reader.readexactly(length))

    async def end(self) -> str:
        """Wait until the other side ends the connection: `fin` or `rst`; nothing more may come."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                rest = await self.reader.read()
        except ConnectionResetError:
            return "rst"
        assert rest == b""
        return "fin"

    async def _head(self) -> tuple[int, list[tuple[str, str]]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = [tuple(line.split(": ", 1)) for line in lines[1:-2]]
        return int(lines[0].split(" ")[1]), [(name.lower(), value) for name, value in headers]

    async def _chunks(self) -> bytes:
        data = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            data += await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return data


@asynccontextmanager
async def wire(url: str, tls: ssl.SSLContext | None = None):
    """Connect to the gateway at `url`; the connection is reset at the end if it still stands."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=tls, limit=1024 * 1024
    )
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def request(method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """Write a request; `_` in a header's name stands for `-`, and a body has its length."""
    lines = [f"{method} {path} HTTP/1.1", "host: gateway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    """Run `scenario()` on the event loop that `serve` uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(scenario())


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 5) -> Any:
    """Poll until the awaitable `condition()` is true, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)
    return found


@dataclass
class Recorder:
    """An upstream that keeps what it is sent; it answers each request with the same bytes.

    Without an answer it stays silent. `open` counts the requests whose client is still there.
    """

    answer: bytes | None
    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                named = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                self.open += 1
                try:
                    body = await reader.readexactly(int(named[b"content-length"]))
                    self.heads.append(head)
                    self.bodies.append(body)
                    if self.answer is None:
                        await reader.read()
                        return
                    writer.write(self.answer)
                    await writer.drain()
                finally:
                    self.open -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def recording(answer: bytes | None):
    """Run a `Recorder` on a free port."""
    recorder = Recorder(answer)
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, limit=1024 * 1024)
    recorder.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield recorder
    finally:
        server.close()


def http_answer(status: int, body: dict[str, Any] | bytes, *headers: str) -> bytes:
    """Write an upstream's answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "content-type: application/json", *headers]
    lines.append(f"content-length: {len(data)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "upstream-model",
    "content": [{"type": "text", "text": "hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 7, "output_tokens": 3},
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "upstream-model",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
ASK = {"model": "smart", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
TOOLS = ("claudecode", "cline", "cursor", "roocode", "codex")
ROOTS = ("/v1", *(f"/{tool}{version}" for tool in TOOLS for version in ("/v1", "", "/v1/v1")))


def check_refusal(reply: Reply, protocol: str, status: int, kind: str) -> str:
    """Check an error answer whole, in the envelope of `protocol`; give its message.

    `kind` is Anthropic's `error.type` or OpenAI's `error.code`.
    """
    made = reply.header("request-id")
    assert re.fullmatch("req_[0-9a-f]{44}", made or "")
    assert reply.header("x-request-id") == made
    assert reply.status == status
    body = reply.json()
    error = body["error"]
    if protocol == "anthropic":
        assert body == {"type": "error", "error": error, "request_id": made}
        assert error["type"] == kind
    else:
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["code"] == kind
    assert "Traceback" not in error["message"]
    assert reply.header("content-type") == "application/json"
    return error["message"]
