"""A listener that passes every byte on, and keeps the requests that came by."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

PIECE_BYTES = 65536


@dataclass(frozen=True)
class Seen:
    """A request as it was sent; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Tee:
    """Where it listens, and what came by, in order of each request's last byte."""

    url: str = ""
    requests: list[Seen] = field(default_factory=list)


@asynccontextmanager
async def tee(url: str):
    """Stand before the server at `url`; either side's end ends the other."""
    target, found = urlsplit(url), Tee()
    tasks, writers = set(), set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        back_reader, back_writer = await asyncio.open_connection(target.hostname, target.port)
        writers.update((writer, back_writer))
        ways = [
            asyncio.create_task(_requests(reader, back_writer, found)),
            asyncio.create_task(_pass(back_reader, writer)),
        ]
        with suppress(asyncio.CancelledError):  # asyncio would log it
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back_writer):
            end.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{target.path}"
    try:
        yield found
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()  # closed is not enough where a side had stopped reading


async def _requests(reader, writer, found):
    """Pass on what a client sends, and cut copies of it into requests."""
    left = bytearray()
    while piece := await _read(reader):
        writer.write(piece)
        left += piece
        while (request := _take(left)) is not None:
            found.requests.append(request)
        await writer.drain()


async def _pass(reader, writer):
    while piece := await _read(reader):
        writer.write(piece)
        await writer.drain()


async def _read(reader):
    try:
        return await reader.read(PIECE_BYTES)
    except ConnectionError:
        return b""


def _take(left: bytearray) -> Seen | None:
    """Cut a whole request off the front of `left`; None while there is none."""
    head, end, rest = left.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert "transfer-encoding" not in headers, "chunked requests are not followed"
    length = int(headers.get("content-length", "0"))
    if len(rest) < length:
        return None
    del left[: len(head) + 4 + length]
    method, path, _ = first.split(" ")
    return Seen(method, path, headers, bytes(rest[:length]))
