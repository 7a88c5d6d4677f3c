"""Build a request for a provider, send it, and follow its answer to the end."""

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from server.config.schema import Target, Timeouts, Upstream
from server.errors import GatewayError, InvalidRequest
from server.protocols import UPSTREAM_PROTOCOLS, Protocol
from server.secret import Secret
from server.upstream.connection import Head, Origin, StaleConnectionError
from server.upstream.pool import Pool
from server.upstream.relay import Relay

if TYPE_CHECKING:
    from server.upstream.proxied import ProxiedPool

USER_AGENT = "gatewayctl"
ANTHROPIC_VERSION = "2023-06-01"
FORWARDED = {
    Protocol.ANTHROPIC: ("anthropic-version", "anthropic-beta"),
    Protocol.OPENAI: ("openai-beta",),
}
PATHS = {Protocol.ANTHROPIC: "/v1/messages", Protocol.OPENAI: "/chat/completions"}

SHOWN = frozenset({b"retry-after", b"retry-after-ms", b"openai-processing-ms"})
SHOWN_PREFIXES = (b"anthropic-ratelimit-", b"x-ratelimit-")

_SAFE_VALUE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,4095}").fullmatch


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A configured upstream, ready to be called.

    `heads` is the fixed part of a request's head: with the key, so it is never printed.
    """

    origin: Origin
    timeouts: Timeouts
    heads: Mapping[Protocol, bytes] = field(repr=False)
    proxy: Secret | None


class Dispatch(Struct, frozen=True):
    """A request as it leaves: where to, in which protocol, with which headers and bytes."""

    target: Target
    protocol: Protocol
    headers: Mapping[str, str]
    body: bytes
    request_id: str


def endpoint_of(upstream: Upstream, demo_url: str | None) -> Endpoint:
    """Prepare `upstream`, references resolved; `protocol: demo` leads to `demo_url`."""
    api_key = upstream.api_key
    is_demo = upstream.protocol == "demo"
    protocols = UPSTREAM_PROTOCOLS if is_demo else (Protocol(upstream.protocol),)
    base = demo_url if is_demo else upstream.base_url
    parts = urlsplit(base or "")
    tls = parts.scheme == "https"
    port = parts.port or (443 if tls else 80)
    heads = {}
    for protocol in protocols:
        prefix = parts.path.rstrip("/")
        if protocol is Protocol.ANTHROPIC:
            prefix = prefix.removesuffix("/v1")
        elif is_demo:
            prefix += "/v1"
        lines = [
            f"POST {prefix}{PATHS[protocol]} HTTP/1.1",
            f"host: {parts.netloc}",
            "accept-encoding: identity",
            "content-type: application/json",
            f"user-agent: {USER_AGENT}",
            *(f"{name.lower()}: {value.reveal()}" for name, value in upstream.headers.items()),
        ]
        if api_key and protocol is Protocol.ANTHROPIC:
            lines.append(f"x-api-key: {api_key.reveal()}")
        elif api_key:
            lines.append(f"authorization: Bearer {api_key.reveal()}")
        heads[protocol] = "\r\n".join(lines).encode("latin-1")
    origin = Origin(parts.hostname or "", port, tls)
    return Endpoint(origin, upstream.timeouts, heads, upstream.proxy)


def forwarded_headers(protocol: Protocol, client: Mapping[str, str]) -> dict[str, str]:
    """Pick the client's headers that go on to a provider of the same protocol.

    Raises:
        InvalidRequest: one of them holds what must not stand in a header.
    """
    chosen = {}
    for name in FORWARDED[protocol]:
        value = client.get(name)
        if value is None:
            continue
        if not _SAFE_VALUE(value):
            raise InvalidRequest(f"The header {name} holds characters that headers cannot carry.")
        chosen[name] = value
    if protocol is Protocol.ANTHROPIC:
        chosen.setdefault("anthropic-version", ANTHROPIC_VERSION)
    return chosen


def shown_headers(head: Head | None) -> dict[str, str]:
    """Pick the provider's headers that clients may see: its limits, and when to come back."""
    if head is None:
        return {}
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in head.headers
        if name.startswith(SHOWN_PREFIXES) or name in SHOWN
    }


class UpstreamClient:
    """Calls configured upstreams; owns the pools, which `close` empties."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        pool: Pool,
        proxied: "Mapping[Secret, ProxiedPool] | None" = None,
    ) -> None:
        self._endpoints = endpoints
        self.pool = pool
        known = proxied or {}
        proxies = {each.proxy for each in endpoints.values() if each.proxy is not None}
        self._proxied = {each: known.get(each) or _proxied_pool(each, pool) for each in proxies}
        self._retiring: set[asyncio.Task[None]] = set()

    def succeeded_by(
        self, endpoints: Mapping[str, Endpoint], running: Collection["asyncio.Task[None]"]
    ) -> "UpstreamClient":
        """Make the client that calls `endpoints` from now on, with this one's connections.

        Those to where no upstream is any more are closed, each behind its last exchange; the
        requests `running` go on as they began.
        """
        self.pool.keep_only({endpoint.origin for endpoint in endpoints.values()})
        successor = UpstreamClient(endpoints, self.pool, self._proxied)
        successor._retiring = self._retiring
        gone = [pool for proxy, pool in self._proxied.items() if proxy not in successor._proxied]
        if gone:
            task = asyncio.get_running_loop().create_task(_close_after(running, gone))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        return successor

    async def forward(self, dispatch: Dispatch, relay: Relay) -> GatewayError | None:
        """Send the request and report its answer to `relay`; give what went wrong, if anything.

        One retry where a kept-alive connection proved stale before any byte of the answer.
        Whatever way this ends, no exchange stays open behind it.
        """
        endpoint = self._endpoints[dispatch.target.upstream]
        pool = self.pool if endpoint.proxy is None else self._proxied[endpoint.proxy]
        head = _head(endpoint, dispatch)
        args = (endpoint.origin, relay, head, dispatch.body, endpoint.timeouts)
        error = await self._exchange(relay, pool, args, fresh=False)
        if isinstance(error, StaleConnectionError):
            relay.restart()
            error = await self._exchange(relay, pool, args, fresh=True)
        return error

    async def close(self) -> None:
        """Close every connection; no request is running any more."""
        if self._retiring:
            await asyncio.wait(self._retiring)
        await self.pool.close()
        for pool in self._proxied.values():
            await pool.close()

    async def _exchange(
        self,
        relay: Relay,
        pool: "Pool | ProxiedPool",
        args: tuple[Origin, Relay, bytes, bytes, Timeouts],
        *,
        fresh: bool,
    ) -> GatewayError | None:
        try:
            relay.attach(await pool.send(*args, fresh=fresh))
            return await relay.over
        except GatewayError as err:  # no connection
            return err
        finally:
            relay.detach()


async def _close_after(
    running: Collection["asyncio.Task[None]"], pools: Iterable["ProxiedPool"]
) -> None:
    if running:
        await asyncio.wait(running)
    for pool in pools:
        await pool.close()


def _proxied_pool(proxy: Secret, direct: Pool) -> "ProxiedPool":
    from server.upstream.proxied import ProxiedPool  # httpx: 2 MB that most gateways never need

    return ProxiedPool(proxy.reveal(), direct.ssl_context())


def _head(endpoint: Endpoint, dispatch: Dispatch) -> bytes:
    extra = "".join(f"\r\n{name}: {value}" for name, value in dispatch.headers.items())
    tail = (
        f"{extra}\r\nx-request-id: {dispatch.request_id}"
        f"\r\ncontent-length: {len(dispatch.body)}\r\n\r\n"
    )
    return endpoint.heads[dispatch.protocol] + tail.encode("latin-1")
