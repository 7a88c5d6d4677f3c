"""A tiny forward proxy: CONNECT for https, absolute-form for http."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class ForwardProxy:
    """What a proxy was asked; `refuses` makes it answer 403 to everything."""

    url: str = ""
    lines: list[bytes] = field(default_factory=list)
    open: int = 0
    refuses: bool = False


@asynccontextmanager
async def forward_proxy(**options):
    proxy, tasks = ForwardProxy(**options), set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        proxy.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            proxy.lines.append(line)
            if proxy.refuses:
                writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
                return
            method, target, version = line.split(b" ")
            if method == b"CONNECT":
                host, port = target.decode().split(":")
                first, greeting = b"", b"HTTP/1.1 200 Connected\r\n\r\n"
            else:
                url = urlsplit(target.decode())
                host, port = url.hostname, url.port
                first, greeting = b" ".join((method, url.path.encode(), version)), b""
                first += b"\r\n" + rest
            upstream = await asyncio.open_connection(host, int(port))
            upstream[1].write(first)
            writer.write(greeting)
            await _join((reader, writer), upstream)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            proxy.open -= 1
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _join(one, other):
    """Copy both ways until either side ends."""

    async def copy(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    ways = [
        asyncio.create_task(copy(one[0], other[1])),
        asyncio.create_task(copy(other[0], one[1])),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for _, writer in (one, other):
            writer.close()
