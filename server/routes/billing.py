"""Buying: top-ups, subscriptions and the portal; Stripe's webhook; the page people come back to."""

from html import escape

from server import clock
from server.billing.stripe import account as stripe_account
from server.billing.stripe import arrival, checkouts, events, inbox, topups
from server.billing.stripe.account import Account
from server.errors import GatewayError, InvalidRequest, Unavailable
from server.routes import wire
from server.routes.services import services_of
from server.routes.wire import AnyApp, AnyRequest
from server.tenants import secrets
from server.tenants.keys import Caller

WEBHOOK_BYTES = 1024 * 1024
LONGEST_SESSION_ID = 255

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ font: 1.2rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto; \
padding: 0 1rem; }}</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
</body>
</html>
"""
_PAGE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def register(app: AnyApp) -> None:
    """Serve `/tenant/billing`, `/stripe/webhook` and `/billing/return`."""
    wire.add(app, topup, "/tenant/billing/topup", ["POST"], name="topup")
    wire.add(app, checkout, "/tenant/billing/checkout", ["POST"], name="checkout")
    wire.add(app, portal, "/tenant/billing/portal", ["POST"], name="portal")
    wire.add(app, webhook, "/stripe/webhook", ["POST"], name="stripe_webhook")
    wire.add(app, back, "/billing/return", ["GET", "HEAD"], name="billing_return")


async def topup(request: AnyRequest) -> wire.Answer:
    """Open a Checkout session that adds to the balance."""
    caller, account, fields = await _order(request, "amount_cents")
    made = await topups.start(
        account,
        caller.tenant_id,
        topups.check_amount(fields.get("amount_cents")),
        public_id=secrets.new_id("tu_"),
        actor=caller.key_public_id,
        now=clock.now(),
    )
    return wire.answer(request, topups.as_json(made), status=201)


async def checkout(request: AnyRequest) -> wire.Answer:
    """Open a Checkout session that subscribes to a tier."""
    caller, account, fields = await _order(request, "tier")
    made = await checkouts.start(
        account,
        caller.tenant_id,
        checkouts.check_tier(account, fields.get("tier")),
        public_id=secrets.new_id("co_"),
        actor=caller.key_public_id,
        now=clock.now(),
    )
    return wire.answer(request, checkouts.as_json(made), status=201)


async def portal(request: AnyRequest) -> wire.Answer:
    """Open Stripe's portal, where a person changes or ends what they bought."""
    caller, account, _ = await _order(request)
    url = await checkouts.portal_url(account, caller.tenant_id)
    return wire.answer(request, {"object": "portal", "url": url})


async def webhook(request: AnyRequest) -> wire.Answer:
    """Take an event: once it is committed it is taken, and it is looked at afterwards."""
    account = services_of(request).stripe
    if account is None:
        raise Unavailable("The gateway's config has no Stripe key (`stripe.secret_key`).")
    body = await wire.read_body(request, WEBHOOK_BYTES)
    now = clock.now()
    header = request.headers.get("stripe-signature")
    event = events.verified(body, header, account.webhook_secrets, now)
    await account.store.write(inbox.put, [event], is_live=account.is_live, now=now)
    account.told.set()
    return wire.answer(request, {"received": True})


async def back(request: AnyRequest) -> wire.Answer:
    """Greet a person who comes back from Stripe; nothing of the request is repeated to them."""
    account, session_id = services_of(request).stripe, request.args.get("session_id")
    title, text = arrival.UNKNOWN
    if account is not None and session_id and len(session_id) <= LONGEST_SESSION_ID:
        title, text = await arrival.arrive(account, session_id, clock.now())
    made = wire.request_id(request)
    return wire.Answer(
        _PAGE.format(title=escape(title), text=escape(text)).encode(),
        headers={**_PAGE_HEADERS, "request-id": made, "x-request-id": made},
        content_type="text/html; charset=utf-8",
    )


async def _order(request: AnyRequest, *known: str) -> tuple[Caller, Account, dict[str, object]]:
    """Read who buys, through which account, and the body, whose fields must be `known`.

    Raises:
        InvalidApiKey, ScopeNotAllowed, BillingNotConfigured, InvalidRequest
    """
    services = services_of(request)
    caller = wire.authenticate(request, services)
    wire.require_manage(caller)
    account = stripe_account.require(services.stripe)
    fields = await wire.read_fields(request)
    for name in fields.keys() - set(known):
        raise _unknown_field(name)
    return caller, account, fields


def _unknown_field(name: str) -> GatewayError:
    shown = name[:100]
    if name.endswith("_url"):
        return InvalidRequest(
            f"`{shown}` cannot be chosen: people come back to the gateway's own page.", param=shown
        )
    return InvalidRequest(f"There is no field `{shown}` here.", param=shown)
