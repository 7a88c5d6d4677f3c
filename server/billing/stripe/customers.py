"""Each tenant's one customer at Stripe."""

from dataclasses import dataclass
from datetime import datetime

from server import clock
from server.billing.stripe.account import Account
from server.store import audit
from server.store.audit import Action
from server.store.models import Tenant


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant, and who it is at Stripe."""

    tenant_id: int
    tenant_public_id: str
    id: str


async def ensure(account: Account, tenant_id: int) -> Customer:
    """Give the tenant's customer; make it the first time.

    Made under a key of the tenant's own, so that two at once, or one that was cut off before
    it could be written down, make one.
    """
    store = account.store
    tenant: Tenant = await store.read(Tenant.get_by_id, tenant_id)
    customer_id: str | None = tenant.stripe_customer_id
    if customer_id is None:
        made = await account.client.create_customer(
            {"name": tenant.name, "metadata": {"tenant": tenant.public_id}}, key=_key(tenant)
        )
        customer_id = str(made["id"])
        await store.write(attach, tenant_id, customer_id, clock.now())
    return Customer(tenant_id, tenant.public_id, customer_id)


def attach(tenant_id: int, customer_id: str, now: datetime) -> None:
    """Write a tenant's customer down, unless it has one."""
    changed = Tenant.update(stripe_customer_id=customer_id).where(
        Tenant.id == tenant_id, Tenant.stripe_customer_id.is_null()
    )
    if changed.execute():
        _record(Action.STRIPE_CUSTOMER_ATTACHED, customer_id, tenant_id, now)


def detach(tenant_id: int, now: datetime) -> None:
    """Forget a customer that was deleted at Stripe; the next purchase makes another."""
    customer_id = Tenant.get_by_id(tenant_id).stripe_customer_id
    Tenant.update(
        stripe_customer_id=None, stripe_customers_gone=Tenant.stripe_customers_gone + 1
    ).where(Tenant.id == tenant_id).execute()
    if customer_id is not None:
        _record(Action.STRIPE_CUSTOMER_DETACHED, customer_id, tenant_id, now)


def tenant_of(customer_id: str) -> Tenant | None:
    """Find whose customer this is."""
    tenant: Tenant | None = Tenant.get_or_none(Tenant.stripe_customer_id == customer_id)
    return tenant


def all_ids() -> list[str]:
    """List the customers of all tenants."""
    rows = Tenant.select(Tenant.stripe_customer_id).where(Tenant.stripe_customer_id.is_null(False))
    return [str(row.stripe_customer_id) for row in rows.order_by(Tenant.id)]


def _record(action: Action, customer_id: str, tenant_id: int, now: datetime) -> None:
    audit.record(action, customer_id, actor=audit.STRIPE, at=now, tenant_id=tenant_id)


def _key(tenant: Tenant) -> str:
    # For a day, the key of a deleted customer would give that one again.
    gone = tenant.stripe_customers_gone
    return f"customer:{tenant.public_id}" + (f":{gone}" if gone else "")
