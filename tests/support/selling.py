"""A gateway's Stripe account in this process: real store, real SDK, the fake Stripe."""

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from support.fake_stripe import SECRET
from support.gateways import lay_out

from server import clock
from server.billing import ledger, subscriptions
from server.billing.stripe import checkouts, events, inbox, reconcile, topups
from server.billing.stripe.account import opened
from server.billing.verify import verify
from server.config.load import load
from server.store.db import Store
from server.store.migrate import migrate
from server.store.models import Checkout, Entry, Payment, StripeEvent, Tenant, Topup
from server.tenants import secrets, tenants

ENVIRON = {"STRIPE_SECRET_KEY": "sk_fake", "STRIPE_WEBHOOK_SECRET": SECRET}
PUBLIC_URL = "https://gateway.example"


def selling_config(fake_url, *, public_url=PUBLIC_URL, more=""):
    """Write a config that sells through the fake at `fake_url`."""
    server = f"server: {{public_url: {public_url}}}" if public_url else ""
    return f"""
upstreams: {{demo: {{protocol: demo}}}}
models: {{smart: {{targets: [{{upstream: demo, model: demo-smart}}], free: true}}}}
auto: {{default: smart}}
{server}
tiers:
  team: {{name: Team, price_cents: 2000, stripe_lookup_key: team}}
  pro: {{name: Pro, price_cents: 5000, stripe_lookup_key: pro}}
  gift: {{name: Gift, price_cents: 0}}
stripe: {{api_base: "{fake_url}"{more}}}
"""


@dataclass
class Shop:
    """An account with one tenant, and short ways to act on it."""

    account: Any
    fake: Any
    tenant_id: int

    @property
    def store(self):
        return self.account.store

    async def topup(self, cents=2500, tenant_id=None):
        return await topups.start(
            self.account,
            tenant_id or self.tenant_id,
            cents,
            public_id=secrets.new_id("tu_"),
            actor="key_test",
            now=clock.now(),
        )

    async def paid(self, cents=2500):
        """Top up and pay; give the payment intent."""
        topup = await self.topup(cents)
        return self.fake.pay(topup.session_id)

    async def checkout(self, tier="team"):
        return await checkouts.start(
            self.account,
            self.tenant_id,
            tier,
            public_id=secrets.new_id("co_"),
            actor="key_test",
            now=clock.now(),
        )

    async def tell(self, *happened):
        """Put what happened into the inbox, and look at it."""
        told = [events.read(each) for each in happened]
        await self.store.write(inbox.put, told, is_live=False, now=clock.now())
        assert await inbox.drain(self.account)

    async def tell_all(self):
        await self.tell(*self.fake.events)

    async def reconcile(self):
        """Compare everything, as `credits sync` does, with no webhook ever seen."""
        await reconcile.reconcile(self.account, everything=True)
        assert await inbox.drain(self.account)

    async def balance(self):
        return (await self.store.read(ledger.balance_of, self.tenant_id)).balance_micros

    async def entries(self):
        """Give kind and amount of each entry, in the ledger's order."""
        rows = await self.rows(Entry)
        return [(row["kind"], row["amount_micros"]) for row in rows]

    async def rows(self, model):
        return await self.store.read(lambda: list(model.select().dicts()))

    async def event_states(self):
        return {row["id"]: (row["state"], row["reason"]) for row in await self.rows(StripeEvent)}

    async def subscription(self):
        return await self.store.read(subscriptions.find, self.tenant_id)

    async def end(self):
        """Give what must be the same whatever came in which order: money, purchases, tier.

        On the way the ledger is proved.
        """
        await self.store.read(lambda: verify(tenants.list_tenants(), {}, lambda _: None))
        sums = {}
        for kind, amount in await self.entries():
            sums[kind] = sums.get(kind, 0) + amount
        payments = [
            (row["ref"], row["credited_micros"], row["refunded_micros"], row["disputed_micros"])
            for row in await self.rows(Payment)
        ]
        row = await self.subscription()
        subscribed = row and (
            *(row.tier, row.status, row.source, row.stripe_id),
            *(row.current_period_end, row.cancel_at, row.grace_until),
        )
        return {
            "balance": await self.balance(),
            "sums": {kind: total for kind, total in sums.items() if total},
            "payments": sorted(payments),
            "topups": [row["state"] for row in await self.rows(Topup)],
            "checkouts": [row["state"] for row in await self.rows(Checkout)],
            "subscription": subscribed,
            "customers": [row["stripe_customer_id"] for row in await self.rows(Tenant)],
        }


@asynccontextmanager
async def shop(folder, fake, *, environ=None, **config):
    """Open the account of a new gateway in `folder`."""
    settings = load(lay_out(folder, selling_config(fake.url, **config)))
    migrate(settings.database_path)
    store = Store.open(settings.database_path)
    try:
        async with opened(settings, ENVIRON if environ is None else environ, store) as account:
            tenant = await store.write(tenants.ensure_default, clock.now())
            yield Shop(account, fake, tenant.id)
    finally:
        await store.close()
