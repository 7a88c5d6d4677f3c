"""`/openapi.json`: every route that is served, as an OpenAPI 3.1 document."""

import re
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from typing import TypedDict, Unpack

import msgspec

from server.routes import wire
from server.routes.paths import ROOTS
from server.routes.shapes import COUNT, DAY, TEXT, Json, ref, schemas
from server.routes.wire import AnyApp, AnyRequest, Handler

Keys = tuple[Json, ...]
Media = str | Mapping[str, str]

ANY_KEY: Keys = ({"bearer": []}, {"x-api-key": []})
NO_KEY: Keys = ()
STRIPE: Keys = ({"stripe-signature": []},)

# A head that cannot be read, a body that is too large, a database that fails: any route's.
ALWAYS = {400, 413, 500, 503}
SERVED = {402, 403, 404, 409, 429, 501, 502, 504}
BOUGHT = {403, 404, 409, 501, 502, 504}
WHY = {
    400: "The request cannot be understood.",
    401: "No living key was presented.",
    402: "The balance, or the subscription, does not suffice.",
    403: "The key may not do this, or not from where the client is.",
    404: "There is no such thing.",
    409: "It contradicts what there is.",
    413: "The request is too large.",
    429: "A limit, a quota or the provider's limit is used up; `retry-after` says until when.",
    500: "A bug of the gateway; its log has the traceback under the request's id.",
    501: "This is not configured, or not supported.",
    502: "The provider failed.",
    503: "The database or the provider cannot serve just now, or the gateway shuts down.",
    504: "The provider did not answer in time.",
    529: "The provider is overloaded.",
}

_NAMES = re.compile(r"\{(\w+)\}").findall


class Details(TypedDict, total=False):
    """What `_operation` may be told of a method, beyond its summary and what it gives."""

    status: int
    takes: str | None
    asks: list[Json]
    fails: set[int]
    errors: str
    keys: Keys


def register(app: AnyApp) -> None:
    """Serve the document."""
    wire.add(app, _handler(), "/openapi.json", ["GET", "HEAD"], name="openapi")


def _handler() -> Handler:
    written = msgspec.Raw(msgspec.json.encode(document()))

    async def openapi(request: AnyRequest) -> wire.Answer:
        return wire.answer(request, written)

    return openapi


def document() -> Json:
    """Write the whole document; HEAD, which every GET route answers as well, is left out."""
    paths = dict([*_inference(), *_discovery(), *_tenant(), *_billing()])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gatewayctl",
            "version": version("gatewayctl"),
            "description": "A gateway between coding tools and model providers.",
        },
        "paths": {path: {**_names(path), **methods} for path, methods in paths.items()},
        "components": {
            "schemas": schemas(),
            "responses": dict(_errors()),
            "headers": {"request-id": {"schema": TEXT, "required": True}},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "stripe-signature": {"type": "apiKey", "in": "header", "name": "stripe-signature"},
            },
        },
    }


def _inference() -> Iterator[tuple[str, Json]]:
    """Describe what is served under `/v1` and under every spelling of a tool's prefix."""
    asked = [_query("limit", COUNT), _query("after_id", TEXT), _query("before_id", TEXT)]
    spoken = [{"name": "anthropic-version", "in": "header", "schema": TEXT}]
    for root in ROOTS:
        yield (
            f"{root}/messages",
            _served("Answer, as Anthropic's Messages", "messages", "anthropic", SERVED | {529}),
        )
        yield f"{root}/chat/completions", _served("Answer, as OpenAI's Chat Completions", "chat")
        yield f"{root}/responses", _served("Answer, as OpenAI's Responses", "responses")
        yield (
            f"{root}/messages/count_tokens",
            _post("Estimate tokens", "token_count", takes="messages_request", errors="anthropic"),
        )
        yield f"{root}/models", _get("List models", "models", asks=asked + spoken, errors="models")
        yield (
            f"{root}/models/{{model_id}}",
            _get("Show a model", "model", fails={404}, asks=spoken, errors="models"),
        )


def _discovery() -> Iterator[tuple[str, Json]]:
    yield "/pricing", _get("Show the tiers", "tiers", keys=NO_KEY)
    yield "/pricing/tokens", _get("Show what tokens cost", "rates", keys=NO_KEY)
    yield "/healthz", _get("Say that the process answers", "health", keys=NO_KEY)
    yield "/readyz", _readiness()
    yield (
        "/metrics",
        _get("Show figures, for Prometheus", {"text/plain": "text"}, fails={404}, keys=NO_KEY),
    )
    yield "/openapi.json", _get("Show this document", "document", keys=NO_KEY)


def _tenant() -> Iterator[tuple[str, Json]]:
    page = [_query("limit", COUNT), _query("after_id", TEXT)]
    days = [_query("from", DAY), _query("to", DAY), _query("tz", TEXT), _query("key_id", TEXT)]
    yield (
        "/tenant/keys",
        _get("List keys", "keys", fails={403, 404}, asks=page)
        | _post("Mint a key", "new_key", status=201, takes="key_request", fails={403}),
    )
    yield (
        "/tenant/keys/{key_id}",
        _get("Show a key", "key", fails={403, 404})
        | {"delete": _operation("Revoke a key", "key", fails={403, 404})},
    )
    yield "/tenant/usage", _get("Report usage by day", "usage", fails={403, 404}, asks=days)
    yield "/tenant/subscription", _get("Show tier and quota", "subscription")
    yield "/tenant/credits", _get("Show the balance", "credits")


def _billing() -> Iterator[tuple[str, Json]]:
    yield (
        "/tenant/billing/topup",
        _post("Add to the balance", "topup", status=201, takes="topup_request", fails=BOUGHT),
    )
    yield (
        "/tenant/billing/checkout",
        _post("Subscribe", "checkout", status=201, takes="checkout_request", fails=BOUGHT),
    )
    yield (
        "/tenant/billing/portal",
        _post("Manage what was bought", "portal", takes="portal_request", fails=BOUGHT),
    )
    yield "/stripe/webhook", _post("Take an event", "receipt", takes="event", keys=STRIPE)
    yield (
        "/billing/return",
        _get(
            "Greet who comes back from paying",
            {"text/html": "text"},
            asks=[_query("session_id", TEXT)],
            keys=NO_KEY,
        ),
    )


def _served(summary: str, protocol: str, errors: str = "openai", fails: set[int] = SERVED) -> Json:
    gives = {"application/json": "answer", "text/event-stream": "events"}
    return _post(summary, gives, takes=f"{protocol}_request", errors=errors, fails=fails)


def _readiness() -> Json:
    made = _get("Say whether requests are welcome", "readiness", keys=NO_KEY)
    made["get"]["responses"]["503"] = _answer("The gateway shuts down.", "readiness")
    return made


def _get(summary: str, gives: Media, **more: Unpack[Details]) -> Json:
    return {"get": _operation(summary, gives, **more)}


def _post(summary: str, gives: Media, **more: Unpack[Details]) -> Json:
    return {"post": _operation(summary, gives, **more)}


def _operation(
    summary: str,
    gives: Media,
    *,
    status: int = 200,
    takes: str | None = None,
    asks: Collection[Json] = (),
    fails: Collection[int] = (),
    errors: str = "openai",
    keys: Keys = ANY_KEY,
) -> Json:
    """Describe one method of one path; without a key there is no 401, and no 403."""
    statuses = sorted(ALWAYS.union(fails, {401, 403} if keys is ANY_KEY else ()))
    refused = {str(each): {"$ref": f"#/components/responses/{errors}_{each}"} for each in statuses}
    made: Json = {"summary": summary, "security": list(keys)}
    if asks:
        made["parameters"] = list(asks)
    if takes is not None:
        made["requestBody"] = {"required": True, "content": _content(takes)}
    return {**made, "responses": {str(status): _answer("It was done.", gives), **refused}}


def _answer(description: str, gives: Media) -> Json:
    headers = {"request-id": {"$ref": "#/components/headers/request-id"}}
    return {"description": description, "headers": headers, "content": _content(gives)}


def _errors() -> Iterator[tuple[str, Json]]:
    for envelope in ("anthropic", "openai", "models"):
        for status, why in WHY.items():
            yield f"{envelope}_{status}", _answer(why, f"{envelope}_error")


def _content(shapes: Media) -> Json:
    named = {"application/json": shapes} if isinstance(shapes, str) else shapes
    return {media: {"schema": ref(shape)} for media, shape in named.items()}


def _query(name: str, shape: Json) -> Json:
    return {"name": name, "in": "query", "schema": shape}


def _names(path: str) -> Json:
    """Declare what a path has in braces."""
    shape = {**TEXT, "minLength": 1}
    named = [
        {"name": name, "in": "path", "required": True, "schema": shape} for name in _NAMES(path)
    ]
    return {"parameters": named} if named else {}
