"""`/tenant/subscription` and `/tenant/credits` as clients use them."""

import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import check_refusal, request, run, wire

from server import clock
from server.billing import ledger, subscriptions
from server.billing.ledger import Kind
from server.store.models import Subscription, Tenant
from server.tenants import keys, secrets, tenants
from server.tenants.keys import Billing, Scope

CONFIG = DEMO_CONFIG.replace("price_cents: 2000", "price_cents: 2000, quota_tokens: 1000")
PATHS = ("/tenant/subscription", "/tenant/credits")
NONE = {"object": "subscription", "tier": None, "status": "none", "quota": None}


def _new_tenant(secret, now):
    """Add a tenant that has nothing, with a key; runs inside the writer."""
    tenant = tenants.create("other", now)
    keys.mint(
        tenant.id,
        "theirs",
        billing=Billing.SUBSCRIPTION,
        scope=Scope.INFERENCE,
        member=None,
        expires_at=None,
        created_by="cli",
        now=now,
        secret=secret,
    )
    return tenant.id


async def _both(gateway, secret):
    async with gateway.client(secret) as client:
        return [await client.get(path) for path in PATHS]


def test_a_tenant_sees_its_own_subscription_and_credits_at_once(tmp_path):
    """The least of keys may look, and no other tenant's figures show."""

    async def scenario():
        secret, now = secrets.generate(), clock.now()
        async with started(tmp_path, CONFIG) as gateway:
            write = gateway.services.store.write
            other = await write(_new_tenant, secret, now)
            before = await _both(gateway, secret)

            def give():
                subscriptions.subscribe(other, "team", gateway.tiers, now)
                used = {"used_tokens": 700, "held_tokens": 200, "window_started_at": now}
                Subscription.update(used).where(Subscription.tenant == other).execute()
                ledger.post(other, Kind.GRANT, 4_812_345, ref="x", at=now, created_by="cli")
                Tenant.update(held_micros=120_000).where(Tenant.id == other).execute()
                return subscriptions.view(other, gateway.tiers, now)

            expected = await write(give)
            return before, await _both(gateway, secret), expected

    before, (subscription, credit), expected = run(scenario)

    assert [reply.status_code for reply in (*before, subscription, credit)] == [200] * 4
    assert before[0].json() == NONE
    assert before[1].json()["balance_micros"] == 0
    assert subscription.json() == expected
    assert expected["quota"]["remaining_tokens"] == 100
    assert credit.json() == {
        "object": "credits",
        "currency": "usd",
        "balance_micros": 4_812_345,
        "held_micros": 120_000,
        "available_micros": 4_692_345,
    }


@pytest.mark.parametrize("path", PATHS)
def test_without_a_key_nothing_is_shown(tmp_path, path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            return await connection.ask(request("GET", path))

    check_refusal(run(scenario), "openai", 401, "invalid_api_key")


@pytest.mark.parametrize("path", PATHS)
def test_only_reading_is_allowed(tmp_path, path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            return await client.head(path), await client.post(path, json={})

    head, post = run(scenario)

    assert (head.status_code, head.content) == (200, b"")
    assert (post.status_code, post.headers["allow"]) == (405, "GET, HEAD")
