"""What tests of money begin with: a database with a tenant, its keys, and requests of theirs."""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import peewee

from server.billing import prices
from server.billing.holds import Demand
from server.config.schema import Config, Model, Price, Target, Upstream
from server.store import instances
from server.store.db import transaction
from server.store.models import Entry, Key, Request, Tenant
from server.tenants.keys import Billing
from server.usage.record import Closing, Opening, Outcome

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
TICK = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

VIOLATION = (sqlite3.IntegrityError, peewee.IntegrityError)  # of a constraint

# Four micros for a token of input, twenty for one of output.
SMART = Price(
    input="4.00", output="20.00", cache_read="0.40", cache_write_5m="5.00", cache_write_1h="8.00"
)


def config(by_model=None, **sections):
    """Give a config whose models have these prices; None is free."""
    target = (Target(upstream="demo", model="demo-smart"),)
    models = {
        name: Model(targets=target, price=price, free=price is None)
        for name, price in (by_model or {}).items()
    }
    return Config(upstreams={"demo": Upstream(protocol="demo")}, models=models, **sections)


def run(fn, *args, **kwargs):
    """Call `fn` in a transaction of its own, as the writer and the commands do."""
    with transaction():
        return fn(*args, **kwargs)


@dataclass
class House:
    """A tenant with a key of each kind, in an open database, and a process that serves it."""

    tenant_id: int
    keys: dict[Billing, int]
    dead_key: int
    limited_key: int
    sharing_key: int
    instance_id: int
    price_number: int
    numbers: count

    def opening(self, billing=Billing.PAY_PER_TOKEN, **columns):
        """Describe a request that is about to leave."""
        paid = billing is Billing.PAY_PER_TOKEN
        known = {
            "request_id": f"req_{next(self.numbers)}",
            "instance_id": self.instance_id,
            "tenant_id": self.tenant_id,
            "key_id": self.keys[billing],
            "protocol": "anthropic",
            "stream": True,
            "requested_model": "auto",
            "model": "smart",
            "upstream": "demo",
            "upstream_model": "demo-smart",
            "started_at": NOW,
            "input_estimate": 100,
            "billing": billing,
            "price_id": self.price_number if paid else None,
        }
        return Opening(**known | columns)


def house(name="default"):
    """Make a tenant that a process serves; `smart` is priced."""
    tenant = Tenant.create(public_id=f"tnt_{name}", name=name, created_at=NOW)
    limited = _key(tenant, "limited", Billing.PAY_PER_TOKEN)
    return House(
        tenant_id=tenant.id,
        keys={billing: _key(tenant, billing, billing) for billing in Billing},
        dead_key=_key(tenant, "dead", Billing.PAY_PER_TOKEN, revoked_at=NOW),
        limited_key=limited,
        sharing_key=_key(tenant, "sharing", Billing.PAY_PER_TOKEN, limits_key=limited),
        instance_id=run(instances.begin, 1, "here", "0", NOW),
        price_number=run(prices.in_force, config({"smart": SMART}), NOW)["smart"].number,
        numbers=count(1),
    )


def _key(tenant, name, billing, **columns):
    known = {
        "public_id": f"key_{tenant.name}_{name}",
        "tenant": tenant,
        "name": name,
        "billing": billing,
        "scope": "manage",
        "secret_sha256": f"{tenant.name} {name}",
        "prefix": "gwk_fake",
        "last4": "fake",
        "created_at": NOW,
        "created_by": "cli",
    }
    return Key.create(**known | columns).id


def closing(outcome=Outcome.COMPLETED, **columns):
    return Closing(outcome=outcome, duration_ms=1500, **columns)


def demand(wanted, *, least=0, base=0, each=1):
    """Want `base` units and `each` more for every token of output."""
    return Demand(lambda output_tokens: base + each * output_tokens, wanted, least)


def balance(tenant_id):
    """Give a tenant's balance and what its requests hold, as stored."""
    row = Tenant.get_by_id(tenant_id)
    return row.balance_micros, row.held_micros


def entries(tenant_id):
    """Give the entries of a tenant: kind, ref, amount and balance after each."""
    rows = Entry.select().where(Entry.tenant == tenant_id).order_by(Entry.seq)
    return [(row.kind, row.ref, row.amount_micros, row.balance_after_micros) for row in rows]


def stored(request_id):
    """Give a request's row."""
    return Request.get(Request.request_id == request_id)
