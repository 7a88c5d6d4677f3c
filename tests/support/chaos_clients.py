"""Clients of a chaos run: each asks in its manner, and remembers what it was given."""

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from support.across import PATHS, asking
from support.chaos_schedule import Ask
from support.wires import Wire, request

NOBODYS = "gwk_nobody0000000000000000000000000000000000"
BROKEN = (OSError, EOFError, ValueError)  # of a connection; ValueError: an empty chunk size
SMALL_BYTES = 4096
LONGEST_END = 40
GOOD_ENDS = {
    "anthropic": (b"event: message_stop\n",),
    "openai": (b"data: [DONE]\n",),
    "responses": (b"event: response.completed\n", b"event: response.incomplete\n"),
}
BAD_ENDS = {
    "anthropic": (b"event: error\n",),
    "openai": (b'data: {"error"',),
    "responses": (b"event: response.failed\n", b"event: error\n"),
}


@dataclass
class Got:
    """What a client was given; `is_whole`: the answer came to the end that HTTP knows."""

    ask: Ask
    begun: float
    ended: float = 0.0
    status: int | None = None
    request_id: str | None = None
    is_event_stream: bool = False
    is_whole: bool = False
    has_left: bool = False  # it did not wait for the end
    has_good_end: bool = False
    has_bad_end: bool = False
    problem: str | None = None
    tail: bytes = field(default=b"", repr=False)

    @property
    def is_good(self) -> bool:
        """Tell whether it is a whole answer without an error in it."""
        is_ended = self.has_good_end or not self.is_event_stream
        return self.is_whole and self.status == 200 and is_ended

    def take(self, data: bytes) -> None:
        """Look at a piece of the answer for what ends a stream."""
        seen, protocol = self.tail + data, self.ask.protocol
        self.has_good_end |= any(end in seen for end in GOOD_ENDS[protocol])
        self.has_bad_end |= any(end in seen for end in BAD_ENDS[protocol])
        self.tail = seen[-LONGEST_END:]


async def play(ask: Ask, url: str, secret: str) -> list[Got]:
    """Ask in the ask's manner; give what came of it."""
    if ask.manner == "twice":
        pair = await asyncio.gather(*(_visit(ask, url, secret) for _ in range(2)))
        return [each for gots in pair for each in gots]
    return await _visit(ask, url, secret)


async def _visit(ask: Ask, url: str, secret: str) -> list[Got]:
    got = Got(ask, time.monotonic())
    gots = [got]
    try:
        async with asyncio.timeout(ask.patience_s if ask.manner == "hang_up" else None):
            async with _connection(url, is_small=ask.manner == "crawl") as connection:
                is_open = await _exchange(connection, secret, got)
                if ask.manner == "again" and is_open:
                    got.ended = time.monotonic()
                    got = Got(ask, time.monotonic())
                    gots.append(got)
                    await _exchange(connection, secret, got)
    except TimeoutError:
        got.has_left = True
    except BROKEN as exc:
        got.problem = repr(exc)
    got.ended = time.monotonic()
    return gots


@asynccontextmanager
async def _connection(url: str, *, is_small: bool):
    """Connect; of a small connection the client's system takes little that nobody reads."""
    client = socket.socket()
    client.setblocking(False)
    if is_small:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    parts = urlsplit(url)
    try:
        await asyncio.get_running_loop().sock_connect(client, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(
            sock=client, limit=SMALL_BYTES if is_small else 2**20
        )
    except BaseException:
        client.close()
        raise
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def _exchange(connection: Wire, secret: str, got: Got) -> bool:
    """Ask once and read the answer; tell whether one more may be asked."""
    ask = got.ask
    fields = asking(ask.protocol, ask.model, stream=ask.stream, limit=ask.max_tokens)
    # The id is the client's own, the same for all who send the same: nobody may go by it.
    headers = {"x_api_key": secret, "x_request_id": f"mine-{ask.at_s}"}
    data = request("POST", ask.root + PATHS[ask.protocol], json.dumps(fields).encode(), **headers)
    if ask.manner == "half_sent":
        await connection.send(data[: len(data) - 1 - int(ask.patience_s * 100)])
        got.has_left = True
        return False
    await connection.send(data)
    head = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.lower().split("\r\n")[:-2]
    named = dict(line.split(": ", 1) for line in lines)
    got.request_id, got.status = named["request-id"], int(first.split()[1])
    got.is_event_stream = named["content-type"].startswith("text/event-stream")
    await _read(connection.reader, named, got)
    got.is_whole = True
    return named.get("connection") != "close"


async def _read(reader: asyncio.StreamReader, named: dict[str, str], got: Got) -> None:
    if "content-length" in named:
        await _read_some(reader, int(named["content-length"]), got)
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await _read_some(reader, size, got)
        await reader.readexactly(2)
    await reader.readexactly(2)


async def _read_some(reader: asyncio.StreamReader, size: int, got: Got) -> None:
    while size:
        data = await reader.read(min(size, 2**16))
        if not data:
            raise asyncio.IncompleteReadError(data, size)
        size -= len(data)
        got.take(data)
        if got.ask.manner == "crawl" and time.monotonic() < got.begun + got.ask.patience_s:
            await asyncio.sleep(0.02)
