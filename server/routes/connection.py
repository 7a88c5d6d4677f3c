"""One client connection: Sanic's own, but strict about chunks, refusals and deadlines."""

import asyncio
import re
import resource
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from sanic.exceptions import SanicException
from sanic.headers import format_http1_response
from sanic.http import Http, Stage
from sanic.http.http1 import HTTP_CONTINUE
from sanic.response import BaseHTTPResponse
from sanic.server.protocols.http_protocol import HttpProtocol

from server.errors import GatewayError, InvalidRequest, Unavailable, restarting
from server.routes import cors
from server.routes.paths import PROBES
from server.routes.services import Deadlines, Services

LINGER_S = 1.0  # for a client that still sends behind a head that was refused
TLS_CLOSE_S, TLS_STOP_S = 5.0, 1.0  # for a client to take the end of its answer

_CHUNK_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,12})").fullmatch
_LONGEST_SIZE_LINE = 16
_ASKED_FOR = re.compile(rb"[A-Z]{3,16} (/[!-~]*) ").match


class Conversation(Http):
    """The requests and answers of one connection.

    A body that nobody read is dropped after the answer, within limits, and the connection then
    ends: closing on a client that still sends would reset the connection and lose the answer.
    """

    protocol: Any
    request: Any
    request_body: Any  # True, "chunked" or None
    request_bytes_left: Any
    response_func: Any

    async def http1(self) -> None:
        """Serve the requests of the connection; one too many is told so before it asks."""
        if not self.protocol.is_surplus:
            serve: Callable[[], Coroutine[None, None, None]] = super().http1
            await serve()
            return
        begin: Callable[[], None] = self.init_for_request
        begin()
        self.stage, self.response_func = Stage.REQUEST, self.http1_response_header
        full = "Too many connections are open; try again shortly."
        await self.error_response(Unavailable(full, retry_after_s=5))

    async def http1_request_header(self) -> None:
        """Read a request's head within one deadline, however slowly it drips in.

        While the gateway stops, that is the end of all but probes: no handler has to ask.
        """
        read: Callable[[], Coroutine[None, None, None]] = super().http1_request_header
        if b"\r\n\r\n" in self.recv_buffer:
            await read()
        else:
            try:
                async with asyncio.timeout(self._deadlines.head_s):
                    await read()
            except TimeoutError as exc:
                raise InvalidRequest("The request's head did not arrive in time.") from exc
        if self.request.version == "1.0":
            self.expecting_continue = False  # it would take the 100 for the answer
        if self.protocol.services.is_draining and self.request.path not in PROBES:
            raise restarting()

    async def read(self) -> bytes | None:
        """Give the next piece of the body; None, and `request_body` unset, at its end.

        Stricter than Sanic, which takes `0x3`, chunk extensions, and chunks without a line break
        behind them (measured on 25.12): two parsers could see two bodies there.
        """
        if self.expecting_continue:
            self.expecting_continue = False
            await self._send(HTTP_CONTINUE)
        if self.request_body == "chunked" and not self.request_bytes_left:
            await self._next_chunk()
        if not self.request_bytes_left:
            self.request_body = None
            return None
        buffer = self.recv_buffer
        if not buffer:
            await self._receive_more()
        data = bytes(buffer[: self.request_bytes_left])
        del buffer[: len(data)]
        self.request_bytes_left -= len(data)
        return data

    async def _next_chunk(self) -> None:
        """Read a chunk's size; the line break of what came before is still in the buffer."""
        buffer = self.recv_buffer
        while (end := buffer.find(b"\r\n", 2)) < 0:
            if len(buffer) > _LONGEST_SIZE_LINE:
                raise self._bad_chunk()
            await self._receive_more()
        size = _CHUNK_SIZE(buffer, 0, end)
        if size is None:
            raise self._bad_chunk()
        self.request_bytes_left = int(size[1], 16)
        if not self.request_bytes_left:
            while len(buffer) < end + 4:
                await self._receive_more()
            if buffer[end + 2 : end + 4] != b"\r\n":  # a trailer
                raise self._bad_chunk()
            end += 2
        del buffer[: end + 2]

    def _bad_chunk(self) -> InvalidRequest:
        self.keep_alive = False
        self.request_bytes_left, self.request_body = 0, None
        return InvalidRequest("The chunks of the request body are malformed.")

    def respond(self, response: BaseHTTPResponse) -> BaseHTTPResponse:
        """Begin an answer; while some of the body is to come, it is the connection's last."""
        if self.request_body:
            self._forgo_body()
        if self.request.version == "1.0":
            # A proxy may take a body without a length to last until the end of the connection:
            # what this server would read behind it as a second request.
            self.keep_alive = False
            self.response_func = self._begin_unframed
        origins = self.protocol.services.settings.config.server.cors_origins
        if origins:
            response.headers.update(cors.headers_for(self.request, origins))
        return super().respond(response)

    async def _begin_unframed(self, data: bytes, end_stream: bool) -> None:
        """Begin an answer to HTTP/1.0, which knows no chunks: a stream ends with the connection."""
        if end_stream:
            await self.http1_response_header(data, end_stream)
            return
        response: Any = self.response
        response.headers["connection"] = "close"
        head = format_http1_response(response.status, response.processed_headers)
        self.response_func, self.stage = self._send_unframed, Stage.RESPONSE
        await self._send(head + data)

    async def _send_unframed(self, data: bytes, end_stream: bool) -> None:
        if end_stream:
            self.response_func, self.stage = None, Stage.IDLE
        if data:
            await self._send(data)

    def _forgo_body(self) -> None:
        buffer, left = self.recv_buffer, self.request_bytes_left
        if self.expecting_continue:  # nobody told the client to send it
            self.expecting_continue = self.keep_alive = False
            self.request_body = None
        elif self.request_body != "chunked" and len(buffer) >= left:
            del buffer[:left]
            self.request_body = None
        else:
            self.keep_alive = False

    def __aiter__(self) -> "Conversation":
        """Iterate over what is left of a body: only Sanic does, after the answer."""
        return self

    async def __anext__(self) -> bytes:
        await self._discard_body()
        raise StopAsyncIteration

    async def _discard_body(self) -> None:
        limit = 2 * self.protocol.request_max_size
        is_draining = self.protocol.services.is_draining
        try:
            async with asyncio.timeout(LINGER_S if is_draining else self._deadlines.discard_s):
                self._say_end()
                while self.request_body and limit > 0 and not self._is_lost:
                    limit -= len(await self.read() or b"")
        except (TimeoutError, GatewayError):
            pass  # it was slow, or malformed: the connection ends anyway
        self.keep_alive = False
        self.request_body = None  # or Sanic waits for the rest for ever

    async def error_response(self, exception: Exception) -> None:
        """Answer what went wrong outside of a handler, if it can still be answered."""
        is_head_bad = self.stage is Stage.REQUEST
        if self.stage is not Stage.HANDLER:
            self.keep_alive = False
        if self._is_lost or not (is_head_bad or self.stage is Stage.HANDLER):
            return
        self.stage = Stage.HANDLER
        if self.request is None:
            self.create_empty_request()
        answer = self.protocol.app.error_handler.response(self.request, exception)
        await self.respond(answer).send(end_stream=True)
        if is_head_bad:
            await self._linger()

    def create_empty_request(self) -> None:
        """Stand in for a request that could not be read; its path chooses the envelope."""
        if self.url is None and (line := _ASKED_FOR(self.recv_buffer)):
            self.url = line[1].decode()  # of a head that is too long, or came too late
        if not (self.url or "").startswith("/"):
            self.url = "/"
        try:
            super().create_empty_request()
        except SanicException:
            self.url = "/"
            super().create_empty_request()

    async def _linger(self) -> None:
        """Let a client that still sends read the answer before the connection goes."""
        try:
            async with asyncio.timeout(LINGER_S):
                self._say_end()
                while not self._is_lost:
                    self.recv_buffer.clear()
                    await self._receive_more()
        except TimeoutError:
            pass

    def _say_end(self) -> None:
        transport = self.protocol.transport
        if not self._is_lost and transport.can_write_eof():  # TLS cannot
            transport.write_eof()

    @property
    def _is_lost(self) -> bool:
        transport = self.protocol.transport
        return transport is None or transport.is_closing()

    @property
    def _deadlines(self) -> Deadlines:
        deadlines: Deadlines = self.protocol.services.deadlines
        return deadlines


class Connection(HttpProtocol):
    """A client's connection."""

    __slots__ = ("_gone", "is_surplus", "services")
    HTTP_CLASS = Conversation

    def connection_made(self, transport: Any) -> None:
        """Begin to read; one more than may be open gets a 503, and that is its end."""
        self.services: Services = self.app.ctx.services
        self._gone: asyncio.Future[None] | None = None
        limit = _most_connections(self.services.settings.config.server.max_connections)
        self.is_surplus = len(self.connections) >= limit
        begin: Callable[[Any], None] = super().connection_made
        begin(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End what the connection was for, and tell who waits for that."""
        end: Callable[[Exception | None], None] = super().connection_lost
        end(exc)
        if self._gone is not None:
            self._gone.set_result(None)

    def close(self, timeout: float | None = None) -> None:
        """Close behind what is written; with a `timeout` of 0, at once.

        Over TLS nothing tells how much of that is still to be sent: Sanic takes it for nothing,
        and a slow reader lost the last 200 KB of its answer. A client that neither reads on nor
        closes is waited for in vain, so less long while the gateway stops.
        """
        transport: Any = self.transport
        if timeout == 0 or transport is None or not transport.get_extra_info("sslcontext"):
            close: Callable[[float | None], None] = super().close
            close(timeout)
        elif not transport.is_closing():
            timer: Any = self._callback_check_timeouts
            if timer is not None:
                timer.cancel()
            transport.close()
            wait_s = TLS_STOP_S if self.services.is_draining else TLS_CLOSE_S
            self.loop.call_later(wait_s, transport.abort)

    def gone(self) -> "asyncio.Future[None]":
        """Give what is done once the connection has ended and its last bytes are out."""
        if self._gone is None:
            self._gone = self.loop.create_future()
        return self._gone

    def end_soon(self) -> bool:
        """Close an idle connection, another one behind its answer; tell whether to wait for it.

        Nobody waits for the rest of a head.
        """
        if self.http is None or self.http.stage is Stage.IDLE:
            is_long_idle = monotonic() - self._time > TLS_STOP_S
            self.close(0 if is_long_idle else None)
            return True
        self.http.keep_alive = False
        return self.http.stage is not Stage.REQUEST

    def cut(self) -> None:
        """End the request that is being answered, if one is."""
        if self.http and self._task is not None:
            self._task.cancel()

    async def send(self, data: bytes) -> None:
        """Write `data`; a client that is gone, or reads nothing for long, ends the request."""
        if not self._can_write.is_set():
            try:
                async with asyncio.timeout(self.services.deadlines.write_s):
                    await self._can_write.wait()
            except TimeoutError as exc:
                raise asyncio.CancelledError from exc
        if self.transport is None or self.transport.is_closing():
            raise asyncio.CancelledError  # as the loop does an instant later
        self.transport.write(data)
        self._time = monotonic()


def _most_connections(wanted: int) -> int:
    """Choose how many clients may be connected: no more than there can be files for.

    Each may need a connection to a provider, and with no file left nothing else works either.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if files == resource.RLIM_INFINITY else min(wanted, files // 2)
