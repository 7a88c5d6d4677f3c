"""The shapes of what the routes take and give, as JSON Schema, for `/openapi.json`."""

from typing import Any

from server.billing.pricing import TOOL_ROUTES, TOPUP
from server.billing.rates import CLASSES
from server.usage.report import COLUMNS

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
NUMBER: Json = {"type": "integer"}
COUNT: Json = {"type": "integer", "minimum": 0}
FROM_1: Json = {"type": "integer", "minimum": 1}
FLAG: Json = {"type": "boolean"}
DAY: Json = {"type": "string", "format": "date"}
TIME: Json = {"type": "string", "format": "date-time"}
NAME: Json = {"type": "string", "minLength": 1, "maxLength": 100}
SCOPE: Json = {"enum": ["manage", "inference"]}
BILLING: Json = {"enum": ["subscription", "pay_per_token"]}


def ref(name: str) -> Json:
    """Point at one of `schemas()`."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas() -> dict[str, Json]:
    """Give every named shape; clients must tolerate fields that a later version adds."""
    return {**_errors(), **_models(), **_tenants(), **_money(), **_requests(), **_services()}


def _errors() -> dict[str, Json]:
    anthropic = _object({"type": TEXT, "message": TEXT}, details={})
    openai = _object(
        {"message": TEXT, "type": TEXT, "param": _or_null(TEXT), "code": TEXT},
        details={},
        resets_at=NUMBER,
    )
    return {
        "anthropic_error": _object(
            {"type": _always("error"), "error": anthropic, "request_id": TEXT}
        ),
        "openai_error": _object({"error": openai}),
        "models_error": {"anyOf": [ref("openai_error"), ref("anthropic_error")]},
    }


def _models() -> dict[str, Json]:
    model = {
        "id": TEXT,
        "object": _always("model"),
        "created": NUMBER,
        "owned_by": TEXT,
        "type": _always("model"),
        "display_name": TEXT,
        "created_at": TIME,
        "lifecycle": TEXT,
    }
    ends = {"first_id": _or_null(TEXT), "last_id": _or_null(TEXT)}
    return {
        "model": _object(model),
        "models": _list_of("model", has_more=FLAG, **ends),
        "token_count": _object({"input_tokens": COUNT}),
    }


def _tenants() -> dict[str, Json]:
    key = {
        "id": TEXT,
        "object": _always("key"),
        "name": NAME,
        "member": _or_null(NAME),
        "billing": BILLING,
        "scope": SCOPE,
        "prefix": TEXT,
        "last4": TEXT,
        "status": {"enum": ["active", "revoked", "expired"]},
        "created_at": TIME,
        "created_by": TEXT,
        "expires_at": _or_null(TIME),
        "last_used_at": _or_null(TIME),
        "revoked_at": _or_null(TIME),
        "limits": {"anyOf": [ref("limits"), {"type": "null"}]},
        "limits_key_id": _or_null(TEXT),
    }
    totals: Json = dict.fromkeys(COLUMNS, COUNT)
    day = _object({"date": DAY, **totals})
    usage = {"object": _always("usage"), "from": DAY, "to": DAY, "tz": TEXT}
    return {
        "key": _object(key),
        "limits": _limits(),
        "new_key": _object({**key, "secret": TEXT}),
        "keys": _list_of("key", has_more=FLAG),
        "usage": _object({**usage, "data": _array(day), "total": _object(totals)}),
    }


def _limits() -> Json:
    counts = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")
    names = dict.fromkeys(("models", "networks"), _array(TEXT))
    return _object({}, **dict.fromkeys(counts, FROM_1), **names, monthly_usd=TEXT)


def _money() -> dict[str, Json]:
    quota = _object(
        {
            "window_seconds": COUNT,
            "limit_tokens": _or_null(COUNT),
            "used_tokens": COUNT,
            "held_tokens": COUNT,
            "remaining_tokens": _or_null(COUNT),
            "limit_requests": _or_null(COUNT),
            "used_requests": COUNT,
            "window_started_at": _or_null(TIME),
            "resets_at": _or_null(TIME),
        }
    )
    subscription = {"object": _always("subscription"), "tier": _or_null(TEXT), "status": TEXT}
    credit = {"object": _always("credits"), "currency": _always("usd")}
    amounts: Json = dict.fromkeys(("balance_micros", "held_micros", "available_micros"), NUMBER)
    order = {"url": TEXT, "expires_at": TIME}
    topup = {"id": TEXT, "object": _always("topup"), "status": TEXT, "amount_cents": COUNT}
    return {
        "subscription": _object(
            {**subscription, "quota": {"anyOf": [quota, {"type": "null"}]}},
            cancel_at=_or_null(TIME),
            current_period_end=_or_null(TIME),
        ),
        "credits": _object({**credit, **amounts}),
        "topup": _object({**topup, **order}),
        "checkout": _object({"object": _always("checkout"), "tier": TEXT, **order}),
        "portal": _object({"object": _always("portal"), "url": TEXT}),
        "tiers": _list_of("tier", currency=_always("usd")),
        "tier": _tier(),
        "rates": _rates(),
    }


def _tier() -> Json:
    quota = {"window_seconds": COUNT, "tokens": _or_null(COUNT), "requests": _or_null(COUNT)}
    return _object(
        {
            "id": TEXT,
            "object": _always("tier"),
            "name": TEXT,
            "price_cents": COUNT,
            "interval": {"enum": ["month", "year"]},
            "quota": _object(quota),
            "routes": _array({"enum": TOOL_ROUTES}),
            "checkout_available": FLAG,
        }
    )


def _rates() -> Json:
    rates: Json = dict.fromkeys(CLASSES, COUNT)
    row = _object(
        {"id": TEXT, **rates},
        long_context=_object({"above_input_tokens": COUNT, **rates}),
        per_request={"type": "object", "additionalProperties": COUNT},
    )
    return _object(
        {
            "object": _always("list"),
            "currency": _always("usd"),
            "unit": _always("micros_per_million_tokens"),
            "rounding": _always("ceil_per_request"),
            "data": _array(row),
            "topup": _object(dict.fromkeys(TOPUP, COUNT)),
        }
    )


def _requests() -> dict[str, Json]:
    """Give what is asked for; of the vendors' own requests only what is read here."""
    content = {"anyOf": [TEXT, _array({"type": "object"})]}
    messages = _array(_object({"role": TEXT}, content=content))
    said = {"role": "user", "content": "Hello"}
    asked: Json = {"model": {**TEXT, "minLength": 1, "maxLength": 256}}
    cents = {**NUMBER, "minimum": TOPUP["min_cents"], "maximum": TOPUP["max_cents"]}
    new_key = {
        "scope": _or_null({"type": "string", **SCOPE}),
        "billing": _or_null({"type": "string", **BILLING}),
        "expires_at": _or_null(TIME),
        "member": _or_null(NAME),
    }
    return {
        "messages_request": _like(
            _object({**asked, "messages": messages}, max_tokens=FROM_1, stream=FLAG),
            {"model": "auto", "max_tokens": 100, "messages": [said]},
        ),
        "chat_request": _like(
            _object({**asked, "messages": messages}, stream=FLAG),
            {"model": "auto", "messages": [said]},
        ),
        "responses_request": _like(
            _object(asked, input=content, stream=FLAG), {"model": "auto", "input": "Hello"}
        ),
        "key_request": _like(_closed(_object({"name": NAME}, **new_key)), {"name": "ci"}),
        "topup_request": _like(_closed(_object({"amount_cents": cents})), {"amount_cents": 2500}),
        "checkout_request": _like(_closed(_object({"tier": TEXT})), {"tier": "team"}),
        "portal_request": _closed(_object({})),
        "event": {"type": "object", "description": "An event, signed by Stripe."},
    }


def _services() -> dict[str, Json]:
    return {
        "health": _object({"status": _always("ok")}),
        "readiness": _object({"status": {"enum": ["ready", "draining"]}}),
        "receipt": _object({"received": _always(True)}),
        "answer": {"type": "object", "description": "The vendor's own; see its reference."},
        "events": {"description": "The vendor's own server-sent events."},
        "document": {"type": "object"},
        "text": TEXT,
    }


def _object(required: Json, **optional: Json) -> Json:
    made: Json = {"type": "object", "properties": {**required, **optional}}
    return {**made, "required": list(required)} if required else made


def _like(shape: Json, example: Json) -> Json:
    return {**shape, "examples": [example]}


def _closed(shape: Json) -> Json:
    return {**shape, "additionalProperties": False}


def _array(items: Json) -> Json:
    return {"type": "array", "items": items}


def _list_of(name: str, **more: Json) -> Json:
    return _object({"object": _always("list"), "data": _array(ref(name)), **more})


def _always(value: object) -> Json:
    return {"const": value}


def _or_null(shape: Json) -> Json:
    null: Json = {"type": [shape["type"], "null"]}
    return {**shape, **null, **({"enum": [*shape["enum"], None]} if "enum" in shape else {})}
