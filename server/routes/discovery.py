"""What a client may ask before it spends anything: models, token counts, prices, health."""

from urllib.parse import unquote

from server.billing import pricing
from server.protocols import body, tokens
from server.routes import wire
from server.routes.paths import ROOTS
from server.routes.services import services_of
from server.routes.wire import AnyApp, AnyRequest

GET = ["GET", "HEAD"]


def register(app: AnyApp) -> None:
    """Serve models and token counts under every root, prices and health without one."""
    for root in ROOTS:
        name = root.replace("/", "_")
        wire.add(app, models, f"{root}/models", GET, name=f"models{name}")
        wire.add(app, model, f"{root}/models/<model_id:path>", GET, name=f"model{name}")
        wire.add(app, count_tokens, f"{root}/messages/count_tokens", ["POST"], name=f"count{name}")
    wire.add(app, tiers, "/pricing", GET, name="pricing")
    wire.add(app, rates, "/pricing/tokens", GET, name="rates")
    wire.add(app, healthz, "/healthz", GET, name="healthz")
    wire.add(app, readyz, "/readyz", GET, name="readyz")


async def models(request: AnyRequest) -> wire.Answer:
    """List the models, in one body that both vendors' strict clients accept."""
    services = services_of(request)
    wire.authenticate(request, services)
    asked = request.args
    limit = asked.get("limit", "")
    page = services.gateway.rules.catalog.page(
        limit=int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 10 else None,
        after_id=asked.get("after_id"),
        before_id=asked.get("before_id"),
    )
    return wire.answer(request, page)


async def model(request: AnyRequest, model_id: str) -> wire.Answer:
    """Show one model."""
    services = services_of(request)
    wire.authenticate(request, services)
    return wire.answer(request, services.gateway.rules.catalog.item(unquote(model_id)))


async def count_tokens(request: AnyRequest) -> wire.Answer:
    """Estimate a Messages request's input tokens, here, free, and without the preset's."""
    services = services_of(request)
    wire.authenticate(request, services)
    raw = await wire.read_body(request, services.body_limit_bytes)
    fields = body.read_messages(raw).fields
    return wire.answer(request, {"input_tokens": tokens.estimate_messages(fields)})


async def tiers(request: AnyRequest) -> wire.Answer:
    """Show what can be subscribed to."""
    services = services_of(request)
    shown = pricing.tiers_json(services.gateway.rules.config, sells=services.stripe is not None)
    return wire.answer(request, shown)


async def rates(request: AnyRequest) -> wire.Answer:
    """Show what a token of each model costs."""
    return wire.answer(request, pricing.rates_json(services_of(request).gateway.rules.config))


async def healthz(request: AnyRequest) -> wire.Answer:
    """Say that the process answers."""
    return wire.answer(request, {"status": "ok"})


async def readyz(request: AnyRequest) -> wire.Answer:
    """Say whether new requests are welcome; 503 as soon as the gateway begins to drain."""
    if services_of(request).is_draining:
        return wire.answer(request, {"status": "draining"}, status=503)
    return wire.answer(request, {"status": "ready"})
