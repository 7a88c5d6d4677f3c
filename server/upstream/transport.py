"""An httpx transport over our pool, for cold callers: `gatewayctl models check`, for one."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx

from server.config.schema import Timeouts
from server.errors import GatewayError, UpstreamError, UpstreamTimeout
from server.upstream.connection import Connection, Head, Origin
from server.upstream.handoff import Handoff
from server.upstream.pool import Pool

METHODS = frozenset({"GET", "POST"})  # the parser would wait for the body of a HEAD's answer
LONGEST_S = 86_400.0  # what httpx's None, no limit, comes to here

_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search


class Transport(httpx.AsyncBaseTransport):
    """Sends each request over a pooled connection; the body of the answer streams.

    Closing it closes the pool. A connection that proves stale is not tried again.
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool or Pool()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, and answer as soon as the head of the answer is there.

        Raises:
            httpx.TransportError: of the kind that httpx's own transport raises.
        """
        if request.method not in METHODS or request.url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"{request.method} {request.url} cannot be sent")
        body, answer = await request.aread(), _Answer()
        with _raising(httpx.ConnectTimeout, httpx.ConnectError):
            connection = await self._pool.send(
                _origin(request.url), answer, _head(request, body), body, _timeouts(request)
            )
        answer.attach(connection)
        try:
            with _raising(httpx.ReadTimeout, httpx.RemoteProtocolError):
                head = await answer.head
        except asyncio.CancelledError:
            await answer.aclose()
            raise
        return httpx.Response(head.status, headers=head.headers, stream=answer)

    async def aclose(self) -> None:
        await self._pool.close()


class _Answer(httpx.AsyncByteStream):
    """The sink of one exchange, and the body that httpx reads."""

    def __init__(self) -> None:
        self.head: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._body = Handoff()
        self._connection: Connection | None = None

    def attach(self, connection: Connection) -> None:
        self._connection = connection
        self._body.pause, self._body.resume = self._pause, self._resume

    def on_head(self, head: Head) -> None:
        if not self.head.done():
            self.head.set_result(head)

    def on_data(self, data: bytes) -> None:
        self._body.put(data)

    def on_end(self, error: GatewayError | None) -> None:
        self._connection = None  # it may carry another exchange from now on
        self._body.close(error)
        if not self.head.done():
            self.head.set_exception(error or UpstreamError("There was no answer."))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _raising(httpx.ReadTimeout, httpx.RemoteProtocolError):
            while data := await self._body.get():
                yield data

    async def aclose(self) -> None:
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()


@contextmanager
def _raising(
    too_slow: type[httpx.TransportError], broken: type[httpx.TransportError]
) -> Iterator[None]:
    try:
        yield
    except UpstreamTimeout as err:
        raise too_slow(str(err)) from err
    except GatewayError as err:
        raise broken(str(err)) from err


def _origin(url: httpx.URL) -> Origin:
    tls = url.scheme == "https"
    return Origin(url.host, url.port or (443 if tls else 80), tls)


def _head(request: httpx.Request, body: bytes) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    for name, value in request.headers.raw:
        if _CONTROL(name + value):
            raise httpx.LocalProtocolError(f"the header {name!r} holds a control character")
        if name.lower() not in _FRAMING:
            lines.append(b"%b: %b" % (name, value))
    if body or request.method == "POST":
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join((*lines, b"", b""))


def _timeouts(request: httpx.Request) -> Timeouts:
    limits = request.extensions.get("timeout", {})
    connect_s, read_s, write_s = (
        LONGEST_S if limits.get(name) is None else limits[name]
        for name in ("connect", "read", "write")
    )
    return Timeouts(connect_s=connect_s, first_byte_s=read_s, idle_s=read_s, write_s=write_s)
