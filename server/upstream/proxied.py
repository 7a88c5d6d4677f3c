"""Exchanges through an outbound proxy, over httpx's stock transport."""

import asyncio
import ssl

import httpx

from server.config.schema import Timeouts
from server.errors import Internal, UpstreamError, UpstreamTimeout
from server.upstream.connection import Head, Origin, Sink

MAX_IDLE_CONNECTIONS = 20


class ProxiedExchange:
    """One exchange through a proxy; pauses, resumes and ends like a `Connection`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._task: asyncio.Task[None]

    def start(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, idle_s: float
    ) -> asyncio.Task[None]:
        """Begin; the task ends when the sink was told the end, or by `abort`."""
        run = self._run(transport, request, idle_s)
        self._task = asyncio.get_running_loop().create_task(run)
        self._task.add_done_callback(self._ended)
        return self._task

    def pause(self) -> None:
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    def abort(self) -> None:
        self._task.cancel()

    async def _run(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, idle_s: float
    ) -> None:
        try:
            response = await transport.handle_async_request(request)
            try:
                # httpcore looks it up anew for the body: until here it was the first byte's.
                request.extensions["timeout"]["read"] = idle_s
                headers = [(name.lower(), value) for name, value in response.headers.raw]
                self._sink.on_head(Head(response.status_code, headers))
                async for data in response.aiter_raw():
                    self._sink.on_data(data)
                    await self._may_read.wait()
            finally:
                await response.aclose()
        except httpx.TimeoutException:
            self._sink.on_end(UpstreamTimeout("The provider, or the proxy before it, is slow."))
        except httpx.TransportError:
            self._sink.on_end(UpstreamError("The provider failed, or the proxy before it."))
        else:
            self._sink.on_end(None)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            # Nobody else tells the sink, and a request would wait for ever.
            self._sink.on_end(Internal("The gateway failed on its way through the proxy."))


class ProxiedPool:
    """Opens exchanges through one proxy; the interface is `Pool`'s."""

    def __init__(self, proxy: str, ssl_context: ssl.SSLContext) -> None:
        self._exchanges: set[asyncio.Task[None]] = set()
        self._transport = httpx.AsyncHTTPTransport(
            # Given to both: httpx's own would trust other authorities than `Pool` does.
            verify=ssl_context,
            proxy=httpx.Proxy(
                proxy, ssl_context=ssl_context if proxy.startswith("https:") else None
            ),
            trust_env=False,
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=MAX_IDLE_CONNECTIONS
            ),
        )

    async def send(
        self,
        origin: Origin,
        sink: Sink,
        head: bytes,
        body: bytes,
        timeouts: Timeouts,
        *,
        fresh: bool = False,  # noqa: ARG002 - httpx keeps its own pool and retries nothing
    ) -> ProxiedExchange:
        """Start an exchange; failures reach the sink."""
        request_line, *lines = head.rstrip().split(b"\r\n")
        method, path, _ = request_line.split(b" ")
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        request = httpx.Request(
            method.decode(),
            f"{'https' if origin.tls else 'http'}://{host}:{origin.port}{path.decode()}",
            headers=[(name, value) for name, _, value in (line.partition(b": ") for line in lines)],
            content=body,
            extensions={
                "timeout": {
                    "connect": timeouts.connect_s,
                    "read": timeouts.first_byte_s,
                    "write": timeouts.write_s,
                    "pool": timeouts.connect_s,
                }
            },
        )
        exchange = ProxiedExchange(sink)
        task = exchange.start(self._transport, request, timeouts.idle_s)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        return exchange

    async def close(self) -> None:
        """End what is under way, and close every connection."""
        for task in self._exchanges:
            task.cancel()
        if self._exchanges:
            await asyncio.wait(self._exchanges)
        await self._transport.aclose()
