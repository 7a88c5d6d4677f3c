"""One HTTP/1.1 connection to a provider, for one exchange at a time; httptools parses."""

import asyncio
from typing import Any, NamedTuple, Protocol, cast

import httptools

from server.config.schema import Timeouts
from server.errors import GatewayError, UpstreamError, UpstreamTimeout

HEAD_LIMIT_BYTES = 256 * 1024
COPY_LIMIT_BYTES = 128 * 1024


class Origin(NamedTuple):
    """Where a connection leads; connections are pooled by it."""

    host: str
    port: int
    tls: bool


class Head:
    """Status and headers of an answer; names are lower case.

    `get(name)` gives the first header of a name, or None.
    """

    __slots__ = ("get", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers
        self.get = dict(reversed(headers)).get


class StaleConnectionError(UpstreamError):
    """A kept-alive connection turned out to be closed before any byte of the answer came."""


class Sink(Protocol):
    """Takes an answer as it arrives; called on the event loop, never after `on_end`."""

    def on_head(self, head: Head) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self, error: GatewayError | None) -> None: ...


class Exchange(Protocol):
    """What a relay needs of a request on its way: to slow it down, and to end it."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...


class Owner(Protocol):
    """Gets a connection back once it can carry another exchange, or has gone."""

    def connection_idle(self, connection: "Connection") -> None: ...
    def connection_gone(self, connection: "Connection") -> None: ...


class Connection(asyncio.Protocol):
    """A kept-alive connection; `send` starts an exchange and the sink is told of its answer.

    It goes back to its owner only after a complete message, a fully written request, an empty
    buffer and clean framing; in every other case it is closed.
    """

    def __init__(self, origin: Origin, owner: Owner) -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser: Any = None
        self._sink: Sink | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parts: list[bytes] = []
        # httptools looks its callbacks up once: a list's own `append` costs no Python frame.
        self.on_body = self._parts.append
        self._used = self._writing = self._paused = self._closed = False

    def send(self, sink: Sink, head: bytes, body: bytes, timeouts: Timeouts) -> None:
        """Write one request and report its answer to `sink`."""
        self._sink, self._timeouts = sink, timeouts
        self._headers: list[tuple[bytes, bytes]] = []
        self._received = 0
        self._interim = self._has_head = self._complete = self._surplus = self._reusable = False
        self._sized = False
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._last = self._loop.time()
        self._unsent = len(head) + len(body)
        self._watch(timeouts.first_byte_s)
        if len(body) <= COPY_LIMIT_BYTES:
            self._transport.write(head + body)  # one packet, one system call
        else:
            self._transport.writelines((head, body))

    @property
    def was_used(self) -> bool:
        """Tell whether an earlier exchange went over this connection."""
        return self._used

    @property
    def is_closed(self) -> bool:
        return self._closed or self._transport.is_closing()

    def pause(self) -> None:
        """Stop reading: the client is slower than the provider."""
        if not self._paused and not self._closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again, with a fresh idle time."""
        if self._paused:
            self._paused = False
            self._last = self._loop.time()
            if not self._closed:
                self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once and forget the sink: nobody waits for this answer any more."""
        self._sink = None
        self._transport.abort()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # A limit of 0 makes `pause_writing` mean "not everything is out yet".
        self._transport.set_write_buffer_limits(high=0)

    def pause_writing(self) -> None:
        self._writing = True
        if self._sink is not None:
            self._watch(self._timeouts.write_s)

    def resume_writing(self) -> None:
        self._writing = False
        if self._sink is not None and not self._has_head:
            self._last = self._loop.time()
            self._watch(self._timeouts.first_byte_s)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:  # bytes that nobody asked for: the framing is lost
            self._transport.abort()
            return
        self._received += len(data)
        if self._has_head:
            self._last = self._loop.time()
        elif self._received > HEAD_LIMIT_BYTES:
            self._fail(UpstreamError("The provider sent endless response headers."))
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._complete:
                self._deliver()
                self._fail(UpstreamError("The provider broke HTTP in its answer."))
                return
            self._surplus = True
        if self._complete:
            del self._parts[self._body_parts :]  # a second answer that nobody asked for
            self._deliver()
            self._finish()
        else:
            self._deliver()

    def eof_received(self) -> bool:
        return False  # close; `connection_lost` tells the sink

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.connection_gone(self)
        if self._sink is None:
            return
        if self._has_head and not self._sized and exc is None:
            self._end(None)  # a body that its sender delimits by closing
        elif self._used and not self._received:
            self._end(StaleConnectionError("The provider closed a kept-alive connection."))
        elif self._has_head:
            self._end(UpstreamError("The provider cut its answer short."))
        else:
            self._end(UpstreamError("The provider closed the connection without an answer."))

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._surplus = self._complete
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:  # trailers come here too
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete or self._sink is None:
            return
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue and its kin complete a message too
            self._interim = True
            return
        self._has_head = True
        self._last = self._loop.time()
        head = Head(status, self._headers)
        self._sized = (
            head.get(b"content-length") is not None
            or head.get(b"transfer-encoding") is not None
            or status in (204, 304)
        )
        self._watch(self._timeouts.idle_s)
        self._sink.on_head(head)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._complete:
            self._complete = True
            self._body_parts = len(self._parts)
            # Right only inside this callback.
            self._reusable = self._parser.should_keep_alive()

    # inside

    def _deliver(self) -> None:
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts.clear()
            if self._sink is not None:
                self._sink.on_data(data)

    def _finish(self) -> None:
        reusable = self._reusable and not self._surplus and not self._writing
        if reusable and not self.is_closed:
            self._used = True
            self.idle_since = self._loop.time()
            self.resume()
            sink, self._sink = self._sink, None
            self._owner.connection_idle(self)
            if sink is not None:
                sink.on_end(None)
        else:
            self._end(None)
            self._transport.abort()

    def _fail(self, error: GatewayError) -> None:
        self._end(error)
        self._transport.abort()

    def _end(self, error: GatewayError | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_end(error)

    def _watch(self, limit_s: float) -> None:
        """Let silence last `limit_s` at most.

        A timer that fires too early only looks again, so one outlives many exchanges: to set
        and cancel one for each would cost more than to parse the answer.
        """
        self._limit_s = limit_s
        due = self._loop.time() + limit_s
        if self._timer is None or self._due > due:
            self._look_again(limit_s)

    def _look_again(self, after_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._loop.time() + after_s
        self._timer = self._loop.call_later(after_s, self._check_silence)

    def _check_silence(self) -> None:
        self._timer = None
        if self._sink is None:
            return
        if self._writing:
            unsent = self._transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._last = unsent, self._loop.time()
        silent_s = self._loop.time() - self._last
        if self._paused or silent_s < self._limit_s:
            wait_s = self._limit_s if self._paused else self._limit_s - silent_s
            self._look_again(max(wait_s, 0.001))
        elif self._writing:
            self._fail(UpstreamTimeout("The provider stopped reading the request."))
        elif self._has_head:
            self._fail(UpstreamTimeout("The provider fell silent in the middle of its answer."))
        else:
            self._fail(UpstreamTimeout("The provider did not answer in time."))
