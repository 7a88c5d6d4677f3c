"""One HTTP/1.1 connection, with full control of the bytes that leave it."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httptools

_BODY_LIMIT_BYTES = 128 * 1024 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close sends RST


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body has been read to its end; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    too_large: bool
    keep_alive: bool


@dataclass(slots=True)
class _Incoming:
    url: bytearray = field(default_factory=bytearray)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    too_large: bool = False


class Connection(asyncio.Protocol):
    """Parses requests, serves them one after the other, and notices when the client goes."""

    def __init__(
        self, serve: "Callable[[Exchange], Awaitable[None]]", peers: "set[Connection]"
    ) -> None:
        self._serve = serve
        self._peers = peers
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = _Incoming()
        self._pending: deque[Request] = deque()
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not checked: uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self._peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the callback's form
        self._peers.discard(self)
        self._lost.set()
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def on_message_begin(self) -> None:
        self._incoming = _Incoming()

    def on_url(self, url: bytes) -> None:
        self._incoming.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._incoming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._incoming.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        incoming = self._incoming
        if len(incoming.body) + len(body) > _BODY_LIMIT_BYTES:
            incoming.too_large = True  # read on, so that the client can hear the 413
        else:
            incoming.body += body

    def on_message_complete(self) -> None:
        incoming = self._incoming
        self._pending.append(
            Request(
                method=self._parser.get_method().decode("latin-1"),
                path=incoming.url.partition(b"?")[0].decode("latin-1"),
                headers=incoming.headers,
                body=bytes(incoming.body),
                too_large=incoming.too_large,
                keep_alive=self._parser.should_keep_alive(),
            )
        )
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def wait_closed(self) -> None:
        """Wait until the connection is gone and its task has ended."""
        await self._lost.wait()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the client does not read."""
        self.transport.write(data)
        await self._writable.wait()

    async def _run(self) -> None:
        finished = False
        try:
            while self._pending and not self.transport.is_closing():
                request = self._pending.popleft()
                await self._serve(Exchange(request, self))
                if not request.keep_alive:
                    self.transport.close()
            finished = True
        finally:
            self._task = None
            if not finished:
                self.transport.abort()


class Exchange:
    """One request, and the means to answer it well or badly."""

    def __init__(self, request: Request, connection: Connection) -> None:
        self.request = request
        self.bytes_sent = 0
        self.status: int | None = None
        self._connection = connection

    async def respond(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Answer with a whole body and its length."""
        headers = {**headers, "content-length": str(len(body))}
        self.bytes_sent += len(body)
        shown = b"" if self.request.method == "HEAD" else body
        await self.raw(self._head(status, headers) + shown)

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of an answer whose body follows: chunked, unless a length is given."""
        if "content-length" not in headers:
            headers = {**headers, "transfer-encoding": "chunked"}
        await self.raw(self._head(status, headers))

    async def send(self, data: bytes) -> None:
        """Send `data` as one chunk."""
        self.bytes_sent += len(data)
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """Send the last chunk."""
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        """Put `data` on the wire as it is."""
        await self._connection.write(data)

    def close(self) -> None:
        """Close in good order (FIN) once everything is sent."""
        self._connection.transport.close()

    def reset(self) -> None:
        """Drop the connection with RST."""
        peer: socket.socket = self._connection.transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._connection.transport.abort()

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        self.status = status
        reason = HTTPStatus(status).phrase if status in _PHRASES else "Overloaded"
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
        if not self.request.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_PHRASES = frozenset(HTTPStatus)
