"""Buy balance: an amount in whole cents, and the Checkout session that takes it."""

from datetime import datetime

from server import clock
from server.billing.pricing import TOPUP
from server.billing.stripe import sessions, subscribed
from server.billing.stripe.account import Account
from server.billing.stripe.client import Fields
from server.billing.stripe.customers import Customer
from server.errors import InvalidRequest
from server.store.models import Topup

LEAST_CENTS, MOST_CENTS = TOPUP["min_cents"], TOPUP["max_cents"]


def check_amount(value: object) -> int:
    """Take an amount from a request's body.

    Raises:
        InvalidRequest: it is no whole number of cents within the bounds.
    """
    if type(value) is not int or not LEAST_CENTS <= value <= MOST_CENTS:
        raise InvalidRequest(
            f"`amount_cents` must be a whole number from {LEAST_CENTS} to {MOST_CENTS}: "
            f"US cents, so $5 to $1,000.",
            param="amount_cents",
        )
    return value


async def start(
    account: Account,
    tenant_id: int,
    amount_cents: int,
    *,
    public_id: str,
    actor: str,
    now: datetime,
) -> Topup:
    """Open a session in which a person pays `amount_cents` into the tenant's balance.

    Raises:
        BillingNotConfigured: it is not known where to send them back to.
        UpstreamError, Unavailable, Internal: as `client.translated`.
    """
    back = account.url("/billing/return")
    customer = await subscribed.living_customer(account, tenant_id)
    topup = await account.store.write(
        sessions.insert,
        Topup,
        tenant_id,
        public_id=public_id,
        params=_params(customer, public_id, amount_cents, back, now + sessions.LIFETIME),
        actor=actor,
        now=now,
        amount_cents=amount_cents,
    )
    return await sessions.obtain(account, topup)


def as_json(topup: Topup) -> dict[str, object]:
    """Show a top-up as the API does."""
    return {
        "id": topup.public_id,
        "object": "topup",
        "status": topup.state,
        "amount_cents": topup.amount_cents,
        "url": topup.url,
        "expires_at": clock.rfc3339(topup.expires_at),
    }


def _params(
    customer: Customer, public_id: str, cents: int, back: str, expires_at: datetime
) -> Fields:
    # Stripe does not copy a session's metadata to its payment, and a refund names only that.
    metadata = {"kind": "topup", "tenant": customer.tenant_public_id, "row": public_id}
    return {
        "mode": "payment",
        "customer": customer.id,
        "client_reference_id": customer.tenant_public_id,
        "line_items": [
            {
                "quantity": 1,
                "price_data": {
                    "currency": "usd",
                    "unit_amount": cents,
                    "product_data": {"name": "API credits"},
                },
            }
        ],
        "allowed_payment_method_types": ["card", "link"],
        "adaptive_pricing": {"enabled": False},  # dollars are what is credited
        "metadata": metadata,
        "payment_intent_data": {"metadata": metadata},
        "success_url": f"{back}?session_id={{CHECKOUT_SESSION_ID}}",
        "cancel_url": back,
        "expires_at": clock.to_ms(expires_at) // 1000,
    }
