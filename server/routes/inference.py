"""Messages, Chat Completions and Responses: authenticate, read the body, serve, relay."""

from server.calls import Call
from server.errors import GatewayError, InvalidApiKey, KeyChanged, KeyNotAllowed, RateLimited
from server.gateway import Flight
from server.protocols import Protocol
from server.routes import wire
from server.routes.paths import ROOTS
from server.routes.services import services_of
from server.routes.wire import AnyApp, AnyRequest
from server.rows import upstream_headers
from server.tenants.keys import Caller

PATHS = {
    Protocol.ANTHROPIC: "messages",
    Protocol.OPENAI: "chat/completions",
    Protocol.RESPONSES: "responses",
}

MOST_TRIES = 3

# Perhaps by limits that were remembered with the caller, and hold no more.
_REFUSED_BY_LIMITS = (KeyChanged, KeyNotAllowed, RateLimited)


def register(app: AnyApp) -> None:
    """Serve every protocol under `/v1`, and under each tool's prefix."""
    for protocol, path in PATHS.items():
        for root, tool in ROOTS.items():
            handler = _handler(protocol, tool)
            name = f"{protocol}{root.replace('/', '_')}"
            wire.add(app, handler, f"{root}/{path}", ["POST"], name=name)


def _handler(protocol: Protocol, tool: str | None) -> wire.Handler:
    async def serve(request: AnyRequest) -> wire.Answer | None:
        flight, tries = None, 0
        try:
            raw = await _receive(request)
            while True:
                flight, tries = _flight(request, protocol, tool, raw), tries + 1
                try:
                    async with flight:
                        return await _relay(request, flight)
                except GatewayError as err:
                    if flight.is_held or not _may_be_other(request, err) or tries == MOST_TRIES:
                        raise
        except GatewayError as err:
            if isinstance(err, InvalidApiKey) and flight is not None:
                wire.forget(services_of(request))  # admission knew better
            if flight is not None and flight.is_held:
                return wire.refusal(request, err, protocol)  # its row tells those who watch
            return wire.refused(request, err, protocol)

    return serve


def _may_be_other(request: AnyRequest, err: GatewayError) -> bool:
    """Tell whether a refusal may be another by now; a key that has died is refused as that."""
    is_news = wire.has_changed(request, services_of(request))
    return isinstance(err, KeyChanged) or (is_news and isinstance(err, _REFUSED_BY_LIMITS))


async def _receive(request: AnyRequest) -> bytes:
    services = services_of(request)
    wire.note_client_id(request)
    wire.recognise(request, services)  # before a byte of the body is read
    return await wire.read_body(request, services.body_limit_bytes)


def _flight(request: AnyRequest, protocol: Protocol, tool: str | None, raw: bytes) -> Flight:
    services = services_of(request)
    caller: Caller = request.ctx.caller
    made, address = wire.request_id(request), wire.client(request, services)
    bounds, would_block = request.ctx.bounds, request.ctx.would_block
    call = Call(caller, protocol, tool, request.headers, raw, made, address, bounds, would_block)
    return services.gateway.serve(call)


async def _relay(request: AnyRequest, flight: Flight) -> wire.Answer | None:
    relay, made = flight.relay, wire.request_id(request)
    headers = {"request-id": made, "x-request-id": made, **upstream_headers(relay.attempt)}
    if relay.body is not None:
        return wire.Answer(relay.body, headers=headers)
    headers["cache-control"] = "no-cache"
    out = wire.Answer(headers=headers, content_type="text/event-stream; charset=utf-8")
    await request.respond(out)
    services = services_of(request)
    services.open_streams += 1
    try:
        while events := await relay.handoff.get():
            await out.send(events, end_stream=relay.handoff.is_over)
    except GatewayError as err:
        # The 200 is out already, and Sanic would end this body as if it were whole.
        await out.send(flight.error_event(err), end_stream=True)
    finally:
        services.open_streams -= 1
    return None
