"""Exchanges through an outbound proxy, over httpx's stock transport."""

import asyncio

import httpx

from server.config.schema import Timeouts
from server.errors import UpstreamError, UpstreamTimeout
from server.upstream.connection import Head, Origin, Sink


class ProxiedExchange:
    """One exchange through a proxy; pauses, resumes and ends like a `Connection`."""

    def __init__(self) -> None:
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._task: asyncio.Task[None]

    def start(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, sink: Sink
    ) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(transport, request, sink))

    def pause(self) -> None:
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    def abort(self) -> None:
        self._task.cancel()

    async def _run(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, sink: Sink
    ) -> None:
        try:
            response = await transport.handle_async_request(request)
            try:
                headers = [(name.lower(), value) for name, value in response.headers.raw]
                sink.on_head(Head(response.status_code, headers))
                async for data in response.aiter_raw():
                    sink.on_data(data)
                    await self._may_read.wait()
            finally:
                await response.aclose()
        except httpx.TimeoutException:
            sink.on_end(UpstreamTimeout("The provider, or the proxy before it, took too long."))
        except httpx.TransportError:
            sink.on_end(UpstreamError("The provider could not be reached through the proxy."))
        else:
            sink.on_end(None)


class ProxiedPool:
    """Opens exchanges through one proxy; the interface is `Pool`'s."""

    def __init__(self, proxy: str) -> None:
        self._transport = httpx.AsyncHTTPTransport(
            proxy=httpx.Proxy(proxy),
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
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
        method_line, *lines = head.decode("latin-1").rstrip().split("\r\n")
        method, path, _ = method_line.split(" ")
        named = [line.partition(": ") for line in lines]
        scheme = "https" if origin.tls else "http"
        request = httpx.Request(
            method,
            f"{scheme}://{origin.host}:{origin.port}{path}",
            headers=[(name, value) for name, _, value in named],
            content=body,
            extensions={
                "timeout": {
                    "connect": timeouts.connect_s,
                    "read": max(timeouts.first_byte_s, timeouts.idle_s),
                    "write": timeouts.write_s,
                    "pool": timeouts.connect_s,
                }
            },
        )
        exchange = ProxiedExchange()
        exchange.start(self._transport, request, sink)
        return exchange

    async def close(self) -> None:
        await self._transport.aclose()
