"""Kept-alive connections to each origin, and the TLS they use."""

import asyncio
import ssl
from collections.abc import Collection

from server.config.schema import Timeouts
from server.errors import UpstreamError, UpstreamTimeout
from server.upstream.connection import Connection, Origin, Sink

MAX_IDLE_S = 50.0  # below the 60 s after which common proxies close idle connections


class Pool:
    """Opens, lends and keeps connections; one for each exchange, the last used first."""

    def __init__(
        self, ssl_context: ssl.SSLContext | None = None, *, max_idle_s: float = MAX_IDLE_S
    ) -> None:
        self._ssl_context = ssl_context
        self._max_idle_s = max_idle_s
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._all_gone = asyncio.Event()
        self._kept: frozenset[Origin] | None = None  # None: all

    @property
    def open_count(self) -> int:
        """How many connections are open, idle ones included."""
        return len(self._open)

    @property
    def busy_count(self) -> int:
        """How many connections carry an exchange."""
        return len(self._open) - sum(map(len, self._idle.values()))

    async def send(
        self,
        origin: Origin,
        sink: Sink,
        head: bytes,
        body: bytes,
        timeouts: Timeouts,
        *,
        fresh: bool = False,
    ) -> Connection:
        """Start an exchange on a kept-alive connection, or on a new one (`fresh`: always new).

        Raises:
            UpstreamError: no connection could be made.
            UpstreamTimeout: none could be made within `timeouts.connect_s`.
        """
        connection = None if fresh else self._take(origin)
        if connection is None:
            connection = await self._connect(origin, timeouts.connect_s)
        connection.send(sink, head, body, timeouts)
        return connection

    def ssl_context(self) -> ssl.SSLContext:
        """Give the context that verifies providers; the system's authorities by default."""
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def keep_only(self, origins: Collection[Origin]) -> None:
        """Close the connections to all other origins, each behind its last exchange."""
        self._kept = frozenset(origins)
        for origin in self._idle.keys() - self._kept:
            for connection in self._idle.pop(origin):
                connection.abort()

    def connection_idle(self, connection: Connection) -> None:
        if self._kept is not None and connection.origin not in self._kept:
            connection.abort()
            return
        idle = self._idle.setdefault(connection.origin, [])
        idle.append(connection)
        # The oldest is at the bottom, where nobody takes it as long as one above it is free.
        if connection.idle_since - idle[0].idle_since >= self._max_idle_s:
            idle.pop(0).abort()

    def connection_gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)
        if not self._open:
            self._all_gone.set()

    async def close(self) -> None:
        """Close every connection and wait until they are gone."""
        self._all_gone.clear()
        for connection in list(self._open):
            connection.abort()
        if self._open:
            await self._all_gone.wait()

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.is_closed:
                continue
            if asyncio.get_running_loop().time() - connection.idle_since < self._max_idle_s:
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin, connect_s: float) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(connect_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(origin, self),
                    origin.host,
                    origin.port,
                    ssl=self.ssl_context() if origin.tls else None,
                    server_hostname=origin.host if origin.tls else None,
                )
        except TimeoutError as exc:
            raise UpstreamTimeout("The provider could not be reached in time.") from exc
        except ssl.SSLError as exc:
            raise UpstreamError("The provider's TLS certificate or handshake failed.") from exc
        except OSError as exc:
            raise UpstreamError("The provider could not be reached.") from exc
        self._open.add(connection)
        return connection
