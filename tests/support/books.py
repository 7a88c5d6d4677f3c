"""A ledger with its requests, made by the ledger's own functions; and ways to damage it."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from server.billing import ledger, pricing
from server.billing.ledger import GENESIS, HASHED, Kind
from server.billing.prices import by_number
from server.billing.pricing import Tokens
from server.store.models import (
    Instance,
    Key,
    Price,
    Request,
    Subscription,
    Tenant,
    database,
)
from server.tenants.secrets import new_id

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RATES = {
    "input": 3_000_000,
    "output": 15_000_000,
    "cache_read": 300_000,
    "cache_write_5m": 3_750_000,
    "cache_write_1h": 6_000_000,
}


def tenant(name="default", at=NOW):
    made = Tenant.create(public_id=new_id("tnt_"), name=name, created_at=at)
    secret = new_id("")
    Key.create(
        public_id=new_id("key_"),
        tenant=made,
        name="ci",
        billing="pay_per_token",
        scope="manage",
        secret_sha256=secret,
        prefix="gwk_fake",
        last4="fake",
        created_at=at,
        created_by="cli",
    )
    return made


def price(model="smart", **columns):
    return Price.create(model=model, created_at=NOW, **RATES | columns).id


def grant(owner, amount_micros, at=NOW, **columns):
    ref = columns.pop("ref", None) or new_id("grt_")
    kind = columns.pop("kind", Kind.GRANT)
    return ledger.post(owner, kind, amount_micros, ref=ref, at=at, created_by="cli", **columns)


def request(owner, request_id, at=NOW, **columns):
    """Write the row of a request; settled, and free, unless told otherwise."""
    fields = {
        "request_id": request_id,
        "state": "settled",
        "instance": Instance.get_or_none()
        or Instance.create(pid=1, host="here", version="0", started_at=at),
        "tenant": owner,
        "key": Key.get(Key.tenant == owner),
        "protocol": "anthropic",
        "stream": True,
        "requested_model": "auto",
        "model": "smart",
        "upstream": "demo",
        "upstream_model": "demo",
        "started_at": at,
    }
    return Request.create(**fields | columns)


def spend(owner, request_id, tokens, price_number, at=NOW, extras=None):
    """Settle a request that pays per token: its row and its charge; give the cost."""
    billed = pricing.extras_json(extras or {})
    cost = pricing.cost_micros(by_number(price_number), tokens, extras or {})
    request(
        owner,
        request_id,
        at - timedelta(seconds=5),
        price=price_number,
        cost_micros=cost,
        input_tokens=tokens.input,
        cache_read_input_tokens=tokens.cache_read,
        cache_write_5m_tokens=tokens.cache_write_5m,
        cache_write_1h_tokens=tokens.cache_write_1h,
        output_tokens=tokens.output,
        extras=billed,
    )
    ledger.charge(
        owner,
        request_id,
        cost_micros=cost,
        held_micros=0,
        price_number=price_number,
        tokens=tokens,
        extras=billed,
        at=at,
    )
    return cost


def fill():
    """Make books with a bit of everything in them; two tenants, `default` and `other`."""
    owner, other = tenant().id, tenant("other").id
    plain = price()
    long_rates = {f"long_{name}": 2 * rate for name, rate in RATES.items()}
    long = price("long", long_above_tokens=1000, **long_rates)
    rich = price(
        "rich", extras='{"factors":{"speed":{"fast":6000000}},"uses":{"web_search":10000}}'
    )
    grant(owner, 50_000_000, ref="grt_first", reason="a start")
    spend(owner, "req_plain", Tokens(1000, 50_000, 700, 300, 211), plain)
    spend(owner, "req_short", Tokens(400, 300, 0, 300, 9), long)
    spend(owner, "req_long", Tokens(400, 300, 0, 301, 9), long)
    spend(owner, "req_rich", Tokens(7, 0, 0, 0, 3), rich, extras={"speed": "fast", "web_search": 2})
    grant(owner, -1_000_000, ref="adj_down", kind=Kind.ADJUSTMENT, reason="too much")
    request(owner, "req_free")
    _run_some(owner, plain)
    grant(other, 5_000_000, ref="grt_other")
    return owner


def _run_some(owner, price_number):
    """Leave requests open, of the balance and of a quota whose second window is open."""
    request(owner, "req_open", state="open", price=price_number, held_micros=500)
    Tenant.update(held_micros=500).where(Tenant.id == owner).execute()
    quota = {"billing": "subscription", "price": price_number}
    request(owner, "req_old", quota_window=1, quota_tokens=99, **quota)
    request(owner, "req_used", quota_window=2, quota_tokens=30, held_tokens=70, **quota)
    request(owner, "req_holds", state="open", quota_window=2, held_tokens=7, **quota)
    Subscription.create(
        tenant=owner,
        tier="team",
        status="active",
        source="cli",
        quota_window=2,
        window_started_at=NOW,
        used_tokens=30,
        held_tokens=7,
        used_requests=2,
        created_at=NOW,
        updated_at=NOW,
    )


@contextmanager
def tampering():
    """Lift what guards the rows, as somebody with the file and a grudge would."""
    for (name,) in database.execute_sql(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        database.execute_sql(f"DROP TRIGGER {name}")
    database.execute_sql("PRAGMA foreign_keys = 0")
    yield
    database.execute_sql("PRAGMA foreign_keys = 1")


def forge_hashes():
    """Make every hash right again, as somebody who knows how would."""
    for owner in Tenant.select():
        head = GENESIS
        rows = database.execute_sql(
            f"SELECT seq, {HASHED} FROM entry WHERE tenant_id = ? ORDER BY seq", (owner.id,)
        ).fetchall()
        for seq, text in rows:
            head = ledger.hash_of(head, text)
            database.execute_sql(
                "UPDATE entry SET hash = ? WHERE tenant_id = ? AND seq = ?", (head, owner.id, seq)
            )
