"""Between Sanic and the handlers: ids, keys, bodies under a cap, answers, refusals."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import msgspec
from sanic import HTTPResponse, Request, Sanic

from server import clock
from server.billing import subscriptions
from server.errors import (
    GatewayError,
    InvalidApiKey,
    InvalidRequest,
    RequestTooLarge,
    ScopeNotAllowed,
    restarting,
)
from server.limits.bounds import bounds_of, has_tier_bounds
from server.limits.limiter import is_inside
from server.observing.record import Refused
from server.protocols import Protocol, by_protocol, envelopes
from server.protocols.body import split
from server.routes.client_address import client_address
from server.routes.paths import TOOLS
from server.routes.services import Services, services_of
from server.tenants import keys, secrets
from server.tenants.keys import Caller

AnyApp: TypeAlias = Sanic[Any, Any]
AnyRequest: TypeAlias = Request[Any, Any]
Handler: TypeAlias = Callable[..., Coroutine[None, None, "Answer | None"]]

SMALL_BODY_BYTES = 64 * 1024
SMALL_PIECE_BYTES = 1024
TOUCH_EVERY_S = 60.0
REMEMBERED_CALLERS = 1024
LONGEST_PATH = 200

_MESSAGES_TOOLS = frozenset(TOOLS) - {"codex"}
_OPENAI_PATH = re.compile(r"^/(?:tenant|pricing)|/chat/completions|/responses")
_log = logging.getLogger(__name__)
_SECRET = re.compile(r"[\w-]{32,}")  # where a key was put into a path by mistake
_LOGGABLE = re.compile(r"[\x20-\x7e]{1,128}").fullmatch


class Answer(HTTPResponse):
    """A response with plain headers; Sanic's own adds an empty `alt-svc` and sanitises twice."""

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        headers: dict[str, str],
        content_type: str = "application/json",
    ) -> None:
        self.asgi = False
        self.stream = None
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers: Any = {**headers, "content-type": content_type}
        self._cookies = None

    @property
    def processed_headers(self) -> Any:
        return [
            (name.encode(), str(value).encode("latin-1"))
            for name, value in self.headers.items()
            if name != "alt-svc"
        ]


def add(app: AnyApp, handler: Handler, path: str, methods: Sequence[str], *, name: str) -> None:
    """Let `handler` answer `methods` on `path`; no body is read before it asks for one."""
    app.add_route(handler, path, methods, name=name, stream=True)


def request_id(request: AnyRequest) -> str:
    """Give the request's id, ours alone; made at the first call."""
    ctx = request.ctx
    if not hasattr(ctx, "request_id"):
        ctx.request_id = next(services_of(request).request_ids)
    made: str = ctx.request_id
    return made


def note_client_id(request: AnyRequest) -> None:
    """Log the id that the client gave its request, if it can be shown; it is a key of nothing."""
    theirs = request.headers.get("x-request-id")
    if theirs is not None and _LOGGABLE(theirs):
        _log.debug("%s: the client calls it %s", request_id(request), theirs)


def protocol_for(request: AnyRequest) -> Protocol:
    """Choose the envelope by the path: a request that matched no route has one too."""
    path = request.path
    if path.endswith("/models") or "/models/" in path:
        spoken = "anthropic-version" in request.headers
    elif _OPENAI_PATH.search(path):
        spoken = False
    else:
        spoken = "/messages" in path or path.split("/", 2)[1] in _MESSAGES_TOOLS
    return Protocol.ANTHROPIC if spoken else Protocol.OPENAI


def authenticate(request: AnyRequest, services: Services) -> Caller:
    """Find out who calls, from the headers alone: `Authorization: Bearer` or `x-api-key`.

    Raises:
        InvalidApiKey: neither names a living key.
        KeyNotAllowed: the key may not be used from where the client is.
        StoreUnavailable: the database cannot be read.
    """
    caller = _look_up(request, services, _presented(request))
    if not _meet(request, services, caller):
        _turn_away(request, services)
    return caller


def recognise(request: AnyRequest, services: Services) -> Caller:
    """Find out who calls, perhaps from memory: only for requests that admission checks again.

    Admission's own statement refuses a key that was revoked, has expired or has other limits, so
    remembering one costs no exactness and saves a look-up. Who seems to call from elsewhere than
    it may is looked up all the same: its networks may be others by now. Raises as `authenticate`.
    """
    known, presented = services.callers, _presented(request)
    if len(presented) != 1 or not presented[0].isascii():
        # Where one of two keys dies, the other one counts at once.
        return authenticate(request, services)
    digest = secrets.digest(presented[0])
    caller = known.get(digest)
    if caller is not None and _meet(request, services, caller):
        _note_use(caller, services)
        return caller
    known.pop(digest, None)
    caller = _look_up(request, services, presented)
    if len(known) >= REMEMBERED_CALLERS:
        known.clear()
    known[digest] = caller
    if not _meet(request, services, caller):
        _turn_away(request, services)
    return caller


def forget(services: Services) -> None:
    """Look every key up again: admission found that one is dead, or has other limits."""
    services.callers.clear()


def has_changed(request: AnyRequest, services: Services) -> bool:
    """Look up again who calls; tell whether the key is not what it was recognised as.

    No refusal by a key's limits outlives them: before it is told, this is asked. Raises as
    `recognise`, for who calls may have no living key any more.
    """
    presented = _presented(request)
    if _look_up(request, services, presented) == request.ctx.caller:
        return False
    if len(presented) == 1:
        services.callers.pop(secrets.digest(presented[0]), None)
    recognise(request, services)
    return True


def peer(request: AnyRequest) -> str:
    """Give the address of the other end of the connection: a client's, or a proxy's."""
    if request.conn_info is not None:
        return request.conn_info.client_ip
    # Sanic knows the connection of a request only once its head was read.
    end = None if request.transport is None else request.transport.get_extra_info("peername")
    return str(end[0]) if end else ""


def client(request: AnyRequest, services: Services) -> str:
    """Give the client's address, behind the proxies that are trusted."""
    proxies = services.settings.config.server.trusted_proxies
    if proxies:
        forwarded = request.headers.getall("x-forwarded-for", [])
        return client_address(peer(request), forwarded, proxies)
    known, other_end = services.clients, peer(request)
    address = known.get(other_end)
    if address is None:
        if len(known) >= REMEMBERED_CALLERS:
            known.clear()
        address = known[other_end] = client_address(other_end, (), ())
    return address


def require_manage(caller: Caller) -> None:
    """Refuse a key that may only ask for inference.

    Raises:
        ScopeNotAllowed: the key's scope is not `manage`.
    """
    if caller.scope is not keys.Scope.MANAGE:
        raise ScopeNotAllowed("This needs a key with the scope `manage`.")


async def read_body(request: AnyRequest, limit_bytes: int) -> bytes:
    """Read the whole body of a request.

    Raises:
        RequestTooLarge: it is over `limit_bytes`, said or found.
        InvalidRequest: it took longer than `Deadlines.body_s`.
        Unavailable: the gateway began to stop before it was there.
    """
    stream: Any = request.stream
    if (stream.request_bytes or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    parts: list[bytes | bytearray] = []
    if stream.request_body is True and len(stream.recv_buffer) >= stream.request_bytes:
        await _read_into(parts, stream, limit_bytes)  # all there: no deadline to set
    else:
        await _await_into(parts, stream, limit_bytes, services_of(request))
    # Sanic stops reading at 64 KiB and would then never see that the client hangs up.
    transport: Any = request.transport
    transport.resume_reading()
    return b"".join(parts)


async def read_fields(request: AnyRequest) -> dict[str, object]:
    """Read a small JSON object, as the `/tenant` routes take; an empty body is an empty one.

    Raises:
        InvalidRequest, RequestTooLarge
    """
    raw = await read_body(request, SMALL_BODY_BYTES)
    fields = split(raw) if raw.strip() else {}
    try:
        return {name: msgspec.json.decode(value) for name, value in fields.items()}
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest("The request body holds what JSON cannot.") from exc


def answer(request: AnyRequest, data: object, status: int = 200) -> Answer:
    """Answer with `data` as JSON."""
    made = request_id(request)
    headers = {"request-id": made, "x-request-id": made}
    return Answer(msgspec.json.encode(data), status=status, headers=headers)


def refused(request: AnyRequest, error: GatewayError, protocol: Protocol) -> Answer:
    """Give the answer to a request that never left, and tell those who watch of it."""
    services, caller = services_of(request), getattr(request.ctx, "caller", None)
    services.gateway.limiter.count(error)
    record = Refused(
        request_id=request_id(request),
        method=request.method,
        path=_SECRET.sub("***", request.path)[:LONGEST_PATH],
        protocol=protocol.value,
        status=envelopes.status_for(error, protocol),
        error=error.reason,
        client=client(request, services),
        key_id=None if caller is None else caller.key_public_id,
        tenant=None if caller is None else caller.tenant_public_id,
        member=None if caller is None else caller.member,
        ended_at=time.time(),
    )
    services.watch.feed.tell(record)
    return refusal(request, error, protocol)


def refusal(request: AnyRequest, error: GatewayError, protocol: Protocol) -> Answer:
    """Give the answer that tells a caller of `protocol` of `error`."""
    made = request_id(request)
    return Answer(
        msgspec.json.encode(by_protocol.render(error, protocol, made)),
        status=envelopes.status_for(error, protocol),
        headers={**error.headers, **envelopes.headers(error, made)},
    )


def _meet(request: AnyRequest, services: Services, caller: Caller) -> bool:
    """Note who calls and which limits that meets; tell whether it may call from where it is.

    The tier is read each time, 5 µs, and only where one has limits. To remember it with the
    caller would save that, but a change of tier is to count with the very next request, and to
    find that out late, in admission, would be after the counters of the wrong tier were taken.
    """
    ctx = request.ctx
    ctx.caller, ctx.would_block = caller, None
    config, tier = services.gateway.rules.config, None
    if has_tier_bounds(caller, config):
        tier = services.store.point(subscriptions.tier_of, caller.tenant_id)
    ctx.bounds = bounds_of(caller, tier, config)
    return not ctx.bounds or is_inside(ctx.bounds, client(request, services))


def _turn_away(request: AnyRequest, services: Services) -> None:
    """Refuse a caller from elsewhere, or note that it would be; then it meets no other limit."""
    ctx, gateway = request.ctx, services.gateway
    ctx.would_block = gateway.limiter.turn_away(gateway.rules.config)
    ctx.bounds = ()


def _look_up(request: AnyRequest, services: Services, presented: list[str]) -> Caller:
    try:
        caller = services.store.point(keys.authenticate, presented, clock.now())
    except InvalidApiKey as refused:
        _log.info("%s: refused %s: %s", request_id(request), client(request, services), refused)
        raise
    _note_use(caller, services)
    return caller


async def _read_into(parts: list[bytes | bytearray], stream: Any, limit_bytes: int) -> None:
    size = 0
    while stream.request_body:
        piece = await stream.read()
        if piece:
            if len(piece) >= SMALL_PIECE_BYTES:
                parts.append(piece)
            elif parts and isinstance(parts[-1], bytearray):
                parts[-1] += piece  # apart, pieces of two bytes take thirty times their size
            else:
                parts.append(bytearray(piece))
            size += len(piece)
            if size > limit_bytes:
                raise _too_large(limit_bytes)


async def _await_into(
    parts: list[bytes | bytearray], stream: Any, limit_bytes: int, services: Services
) -> None:
    deadline = asyncio.timeout(services.deadlines.body_s)
    try:
        async with deadline:
            services.arriving.add(deadline)
            await _read_into(parts, stream, limit_bytes)
    except TimeoutError as exc:
        if services.is_draining:
            raise restarting() from exc
        raise InvalidRequest("The request body did not arrive in time.") from exc
    finally:
        services.arriving.discard(deadline)


def _presented(request: AnyRequest) -> list[str]:
    headers = request.headers
    presented = []
    bearer = headers.get("authorization")
    if bearer is not None and bearer[:7].lower() == "bearer ":
        presented.append(bearer[7:].strip())
    plain = headers.get("x-api-key")
    if plain is not None:
        presented.append(plain.strip())
    return presented


def _too_large(limit_bytes: int) -> RequestTooLarge:
    kilobytes = limit_bytes // 1024
    limit = f"{kilobytes} KB" if kilobytes < 1024 else f"{kilobytes // 1024} MB"
    return RequestTooLarge(f"The request body is larger than {limit}.")


def _note_use(caller: Caller, services: Services) -> None:
    now = time.monotonic()
    if now - services.touched.get(caller.key_id, -TOUCH_EVERY_S) >= TOUCH_EVERY_S:
        services.touched[caller.key_id] = now
        services.store.enqueue(keys.touch, caller.key_id, clock.now())
