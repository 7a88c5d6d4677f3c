"""Build a request for a provider, send it, and follow its answer to the end."""

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct

from server.config.schema import Target, Timeouts, Upstream
from server.errors import GatewayError, InvalidRequest
from server.protocols import UPSTREAM_PROTOCOLS, Protocol
from server.secret import Secret
from server.upstream.attempt import Attempt
from server.upstream.connection import Head, Origin, StaleConnectionError
from server.upstream.pool import Pool

if TYPE_CHECKING:
    from server.upstream.proxied import ProxiedPool

USER_AGENT = "gatewayctl"
ANTHROPIC_VERSION = "2023-06-01"
FORWARDED = {
    Protocol.ANTHROPIC: ("anthropic-version", "anthropic-beta"),
    Protocol.OPENAI: ("openai-beta",),
}
LISTS = frozenset({"anthropic-beta", "openai-beta"})
PATHS = {Protocol.ANTHROPIC: "/v1/messages", Protocol.OPENAI: "/chat/completions"}

SHOWN = frozenset({b"retry-after", b"retry-after-ms", b"openai-processing-ms"})
SHOWN_PREFIXES = (b"anthropic-ratelimit-", b"x-ratelimit-")

_SAFE_VALUE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,4095}").fullmatch


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A configured upstream, ready to be called.

    `heads` is the fixed part of a request's head for each key: with the key, so it is never
    printed. `keys` tells the keys apart and gives nothing of them away.
    """

    origin: Origin
    timeouts: Timeouts
    heads: Mapping[Protocol, tuple[bytes, ...]] = field(repr=False)
    proxy: Secret | None
    keys: tuple[str, ...]


class Dispatch(Struct, frozen=True):
    """A request as it leaves: where to, in which protocol, with which headers, bytes and key."""

    target: Target
    protocol: Protocol
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    key: int = 0


def endpoint_of(name: str, upstream: Upstream, demo_url: str | None) -> Endpoint:
    """Prepare `upstream`, references resolved; `protocol: demo` leads to `demo_url`."""
    keys = upstream.keys or (None,)
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
        heads[protocol] = tuple(_fixed_head(lines, protocol, key) for key in keys)
    origin = Origin(parts.hostname or "", port, tls)
    idents = tuple(f"{name} key {_fingerprint(key)}" for key in keys)
    return Endpoint(origin, upstream.timeouts, heads, upstream.proxy, idents)


def forwarded_headers(protocol: Protocol, client: Any) -> dict[str, str]:
    """Pick the client's headers that go on to a provider of the same protocol.

    `client` holds them as Sanic does, a list for each name; or it is empty. One that is a list
    of its own may come in several lines, and goes on in one.

    Raises:
        InvalidRequest: one of them holds what must not stand in a header.
    """
    chosen = {}
    for name in FORWARDED[protocol] if client else ():
        values = client.getall(name, None)
        if values is None:
            continue
        value = ",".join(values) if name in LISTS else values[0]
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

    @property
    def keys(self) -> dict[str, tuple[str, ...]]:
        """Name the keys of each upstream; one without a key has one place all the same."""
        return {name: endpoint.keys for name, endpoint in self._endpoints.items()}

    async def forward(self, dispatch: Dispatch, attempt: Attempt) -> GatewayError | None:
        """Send the request, report its answer to `attempt`; give what went wrong, if anything.

        One retry where a kept-alive connection proved stale before any byte of the answer.
        Whatever way this ends, no exchange stays open behind it.
        """
        endpoint = self._endpoints[dispatch.target.upstream]
        pool = self.pool if endpoint.proxy is None else self._proxied[endpoint.proxy]
        head = _head(endpoint, dispatch)
        args = (endpoint.origin, attempt, head, dispatch.body, endpoint.timeouts)
        error = await self._exchange(attempt, pool, args, fresh=False)
        if isinstance(error, StaleConnectionError):
            attempt.restart()
            error = await self._exchange(attempt, pool, args, fresh=True)
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
        attempt: Attempt,
        pool: "Pool | ProxiedPool",
        args: tuple[Origin, Attempt, bytes, bytes, Timeouts],
        *,
        fresh: bool,
    ) -> GatewayError | None:
        if attempt.over.done():  # cut, or too late, before it left
            return attempt.over.result()
        try:
            attempt.attach(await pool.send(*args, fresh=fresh))
            return await attempt.over
        except GatewayError as err:  # no connection
            return err
        finally:
            attempt.detach()


async def _close_after(
    running: Collection["asyncio.Task[None]"], pools: Iterable["ProxiedPool"]
) -> None:
    if running:
        await asyncio.wait(running)
    for pool in pools:
        await pool.close()


def _fixed_head(lines: Sequence[str], protocol: Protocol, key: Secret | None) -> bytes:
    named = "x-api-key: " if protocol is Protocol.ANTHROPIC else "authorization: Bearer "
    own = (f"{named}{key.reveal()}",) if key else ()
    return "\r\n".join((*lines, *own)).encode("latin-1")


def _fingerprint(key: Secret | None) -> str:
    """Tell a key from others, and give nothing of it away."""
    if not key:
        return "none"
    return blake2b(key.reveal().encode(), digest_size=6).hexdigest()


def _proxied_pool(proxy: Secret, direct: Pool) -> "ProxiedPool":
    from server.upstream.proxied import ProxiedPool  # httpx: 2 MB that most gateways never need

    return ProxiedPool(proxy.reveal(), direct.ssl_context())


def _head(endpoint: Endpoint, dispatch: Dispatch) -> bytes:
    extra = "".join(f"\r\n{name}: {value}" for name, value in dispatch.headers.items())
    tail = (
        f"{extra}\r\nx-request-id: {dispatch.request_id}"
        f"\r\ncontent-length: {len(dispatch.body)}\r\n\r\n"
    )
    return endpoint.heads[dispatch.protocol][dispatch.key] + tail.encode("latin-1")
