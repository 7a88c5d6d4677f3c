"""Buy a subscription, and manage it: one live subscription for each tenant, ever."""

from datetime import datetime

from server import clock
from server.billing import subscriptions
from server.billing.stripe import converge, sessions, subscribed
from server.billing.stripe.account import Account
from server.billing.stripe.client import Fields, Refused
from server.billing.stripe.customers import Customer
from server.errors import BillingNotConfigured, Conflict, InvalidRequest, UpstreamError
from server.store.models import Checkout, Tenant

_SECOND = (
    "There is a subscription already; change or cancel it in the billing portal "
    "(POST /tenant/billing/portal)."
)


def check_tier(account: Account, name: object) -> str:
    """Take a tier's name from a request's body.

    Raises:
        InvalidRequest: there is no such tier, or Stripe does not sell it.
    """
    tier = account.tiers.get(name) if isinstance(name, str) else None
    if tier is None or not isinstance(name, str):
        known = ", ".join(account.tiers) or "none"
        raise InvalidRequest(f"`tier` must be the name of a tier; there is {known}.", param="tier")
    if tier.stripe_lookup_key is None:
        raise InvalidRequest(
            f"The tier {name} cannot be bought here: the gateway's config gives it no "
            "`stripe_lookup_key`. Ask whoever runs the gateway for it.",
            param="tier",
        )
    return name


async def start(
    account: Account, tenant_id: int, tier: str, *, public_id: str, actor: str, now: datetime
) -> Checkout:
    """Open a session in which a person subscribes to `tier`.

    What Stripe knows counts, so it is asked first. A session that is open already is given
    again, or ended if it is for another tier: two could both be paid.

    Raises:
        Conflict: a subscription lives already.
        BillingNotConfigured: no URL to send them back to, or no price for the tier.
        UpstreamError, Unavailable, Internal: as `client.translated`.
    """
    back, sold = account.url("/billing/return"), account.tiers[tier]
    again = await _end_open_ones(account, tenant_id, tier)
    customer = await subscribed.living_customer(account, tenant_id)
    await account.store.read(_refuse_second, tenant_id)
    if again is not None:
        return again
    lookup_key = str(sold.stripe_lookup_key)
    price_id = await account.client.price_id(lookup_key)
    if price_id is None:
        raise BillingNotConfigured(
            f"Stripe has no active price with the lookup key `{lookup_key}`, which the tier "
            f"{tier} names; the gateway's operator must add one."
        )
    checkout = await account.store.write(
        _insert,
        tenant_id,
        tier,
        public_id=public_id,
        params=_params(
            customer, public_id, tier, price_id, back=back, expires_at=now + sessions.LIFETIME
        ),
        actor=actor,
        now=now,
    )
    return await sessions.obtain(account, checkout)


async def portal_url(account: Account, tenant_id: int) -> str:
    """Open a portal session, where a person manages what they bought; give its URL.

    Raises:
        Conflict: the tenant has never bought anything.
        BillingNotConfigured, UpstreamError, Unavailable, Internal: as `start`.
    """
    back = account.url("/billing/return")
    tenant: Tenant = await account.store.read(Tenant.get_by_id, tenant_id)
    if tenant.stripe_customer_id is None:
        raise Conflict(
            "There is nothing to manage yet: buy balance (POST /tenant/billing/topup) or a "
            "subscription (POST /tenant/billing/checkout) first."
        )
    portal = await account.client.create_portal(tenant.stripe_customer_id, back)
    return str(portal["url"])


def as_json(checkout: Checkout) -> dict[str, object]:
    """Show a checkout as the API does."""
    return {
        "object": "checkout",
        "tier": checkout.tier,
        "url": checkout.url,
        "expires_at": clock.rfc3339(checkout.expires_at),
    }


async def _end_open_ones(account: Account, tenant_id: int, tier: str) -> Checkout | None:
    """End the tenant's open sessions; one for `tier` is given back instead."""
    for row in await account.store.read(_open_ones, tenant_id):
        try:
            checkout = await sessions.obtain(account, row)
        except UpstreamError:
            # Nobody was given its URL, and Stripe may repeat the failure for this key all day.
            await account.store.write(
                sessions.mark, Checkout, row.id, "failed", problem="Stripe did not answer"
            )
            raise
        await converge.look_at(account, "checkout.session", sessions.id_of(checkout))
        still: Checkout = await account.store.read(Checkout.get_by_id, row.id)
        if still.state != "open":
            continue
        if still.tier == tier:
            return still
        try:
            await account.client.expire_session(sessions.id_of(still))
        except Refused as err:
            raise Conflict("Another checkout is just being paid; try again shortly.") from err
        await account.store.write(sessions.mark, Checkout, still.id, "expired")
    return None


def _open_ones(tenant_id: int) -> list[Checkout]:
    return list(
        Checkout.select().where(Checkout.tenant == tenant_id, Checkout.state.in_(sessions.OPEN))
    )


def _insert(
    tenant_id: int, tier: str, *, public_id: str, params: Fields, actor: str, now: datetime
) -> Checkout:
    """Write the row of a checkout; the check and the row are one transaction."""
    if _open_ones(tenant_id):
        raise Conflict("Another checkout was opened at the same moment; try again.")
    return sessions.insert(
        Checkout, tenant_id, public_id=public_id, params=params, actor=actor, now=now, tier=tier
    )


def _refuse_second(tenant_id: int) -> None:
    row = subscriptions.find(tenant_id)
    if row is not None and row.source == "stripe" and row.status not in subscriptions.ENDED:
        raise Conflict(_SECOND)


def _params(
    customer: Customer,
    public_id: str,
    tier: str,
    price_id: str,
    *,
    back: str,
    expires_at: datetime,
) -> Fields:
    tenant = customer.tenant_public_id
    return {
        "mode": "subscription",
        "customer": customer.id,
        "client_reference_id": tenant,
        "line_items": [{"price": price_id, "quantity": 1}],
        "subscription_data": {
            "billing_mode": {"type": "flexible"},
            "metadata": {"tenant": tenant, "tier": tier},
        },
        "metadata": {"kind": "checkout", "tenant": tenant, "row": public_id},
        "success_url": f"{back}?session_id={{CHECKOUT_SESSION_ID}}",
        "cancel_url": back,
        "expires_at": clock.to_ms(expires_at) // 1000,
    }
