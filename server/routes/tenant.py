"""What a tenant sees and changes of its own: keys, usage, subscription and credits."""

from server import clock
from server.billing import ledger, subscriptions
from server.errors import InvalidRequest, ScopeNotAllowed
from server.routes import wire
from server.routes.services import services_of
from server.routes.wire import AnyApp, AnyRequest
from server.store.models import Key
from server.tenants import keys, secrets
from server.usage import report


def register(app: AnyApp) -> None:
    """Serve `/tenant/keys`, `/tenant/usage`, `/tenant/subscription` and `/tenant/credits`."""
    wire.add(app, create_key, "/tenant/keys", ["POST"], name="create_key")
    wire.add(app, list_keys, "/tenant/keys", ["GET", "HEAD"], name="list_keys")
    wire.add(app, show_key, "/tenant/keys/<key_id:str>", ["GET", "HEAD"], name="show_key")
    wire.add(app, revoke_key, "/tenant/keys/<key_id:str>", ["DELETE"], name="revoke_key")
    wire.add(app, usage, "/tenant/usage", ["GET", "HEAD"], name="usage")
    wire.add(app, subscription, "/tenant/subscription", ["GET", "HEAD"], name="subscription")
    wire.add(app, credit, "/tenant/credits", ["GET", "HEAD"], name="credits")


async def create_key(request: AnyRequest) -> wire.Answer:
    """Mint a key within the limits of the one that asks; its secret is in this answer only."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    wire.require_manage(caller)
    fields = await wire.read_fields(request)
    now = clock.now()
    minted = await services.store.write(
        keys.mint_child, caller, fields, now=now, secret=secrets.generate()
    )
    shown = {**keys.as_json(minted.key, now), "secret": minted.secret}
    return wire.answer(request, shown, status=201)


async def list_keys(request: AnyRequest) -> wire.Answer:
    """List the tenant's keys, newest first."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    wire.require_manage(caller)
    page = await services.store.read(
        keys.list_keys,
        caller.tenant_id,
        limit=_whole_number(request, "limit", 20),
        after_id=request.args.get("after_id"),
    )
    now = clock.now()
    rows = [keys.as_json(key, now) for key in page.keys]
    return wire.answer(request, {"object": "list", "data": rows, "has_more": page.has_more})


async def show_key(request: AnyRequest, key_id: str) -> wire.Answer:
    """Show one key of the tenant."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    wire.require_manage(caller)
    key: Key = await services.store.read(keys.find, caller.tenant_id, key_id)
    return wire.answer(request, keys.as_json(key, clock.now()))


async def revoke_key(request: AnyRequest, key_id: str) -> wire.Answer:
    """Revoke a key: its running streams finish, its next request is refused."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    wire.require_manage(caller)
    now = clock.now()
    key = await services.store.write(
        keys.revoke, caller.tenant_id, key_id, actor=caller.key_public_id, now=now
    )
    return wire.answer(request, keys.as_json(key, now))


async def usage(request: AnyRequest) -> wire.Answer:
    """Report daily totals; a key with the scope `inference` sees its own requests only."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    asked = request.args
    span = report.parse_range(asked.get("from"), asked.get("to"), asked.get("tz"), clock.now())
    key_id = await services.store.read(_visible_key, caller, asked.get("key_id"))
    made = await services.store.read(
        report.report,
        report.By.DAY,
        span.since,
        span.until,
        span.tz,
        caller.tenant_id,
        key_id=key_id,
    )
    return wire.answer(request, made.as_json())


async def subscription(request: AnyRequest) -> wire.Answer:
    """Show what the tenant subscribes to, and how much of the quota is left."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    tiers = services.gateway.rules.config.tiers
    found = await services.store.read(subscriptions.view, caller.tenant_id, tiers, clock.now())
    return wire.answer(request, found)


async def credit(request: AnyRequest) -> wire.Answer:
    """Show the tenant's balance, and what running requests hold of it."""
    services = services_of(request)
    caller = wire.authenticate(request, services)
    found = await services.store.read(ledger.balance_of, caller.tenant_id)
    return wire.answer(request, found.as_json())


def _visible_key(caller: keys.Caller, public_id: str | None) -> int | None:
    """Choose whose rows to show: one key's, or (None) the whole tenant's."""
    manages = caller.scope is keys.Scope.MANAGE
    if public_id is None:
        return None if manages else caller.key_id
    key = keys.find(caller.tenant_id, public_id)
    if not manages and key.id != caller.key_id:
        raise ScopeNotAllowed("A key with the scope `inference` sees its own usage only.")
    return int(key.id)


def _whole_number(request: AnyRequest, name: str, default: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest(f"`{name}` must be a whole number.", param=name)
    return int(text)
