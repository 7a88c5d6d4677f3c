"""Gateways whose models cost money, and every number of it derived again from the rows."""

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from support.processes import LAUNCH, Process, prepare
from support.validators import check_chat_stream, check_messages_stream

from server import clock
from server.billing import ledger, subscriptions
from server.billing import verify as proof
from server.billing.ledger import Kind
from server.config.load import load
from server.store import db
from server.store.models import Entry, Subscription, Tenant
from server.tenants import keys, secrets, tenants

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}
HELLO = [{"role": "user", "content": "hello"}]
CLASSES = {  # of tokens: as a row has them, and as a price does
    "input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "cache_write_5m_tokens": "cache_write_5m",
    "cache_write_1h_tokens": "cache_write_1h",
    "output_tokens": "output",
}


def config(*, billing="{}", models="", tiers="{}", quota="{}"):
    return f"""
upstreams:
  demo: {{protocol: demo}}
models:
  smart: {{targets: [{{upstream: demo, model: demo-smart}}], price: {{input: "4.00", output: "20.00",
    cache_read: "0.40", cache_write_5m: "5.00", cache_write_1h: "8.00"}}}}
  endless: {{targets: [{{upstream: demo, model: "fault:endless:1"}}], price: {{input: "4", output: "20"}}}}
  big: {{targets: [{{upstream: demo, model: "fault:big:1"}}], price: {{input: "4", output: "20"}}}}
  stall: {{targets: [{{upstream: demo, model: "fault:stall:4"}}], price: {{input: "4", output: "20"}}}}
  slow: {{targets: [{{upstream: demo, model: "fault:slow:20"}}], price: {{input: "4", output: "20"}}}}
{models}
billing: {billing}
tiers: {tiers}
quota_weights: {quota}
"""  # noqa: E501


def priced(name: str, upstream_model: str, price: str = '{input: "4", output: "20"}') -> str:
    """Write a model's line of a config."""
    target = f'{{upstream: demo, model: "{upstream_model}"}}'
    return f"  {name}: {{targets: [{target}], price: {price}}}\n"


def asked(model="smart", *, stream=True, max_tokens=300, **more):
    return {"model": model, "stream": stream, "max_tokens": max_tokens, "messages": HELLO, **more}


async def balance(gateway):
    row = await gateway.services.store.read(lambda: Tenant.select().order_by(Tenant.id).first())
    return ledger.Balance(row.balance_micros, row.held_micros)


async def entries(gateway):
    return await gateway.services.store.read(
        lambda: list(Entry.select().order_by(Entry.tenant, Entry.seq).dicts())
    )


async def subscription(gateway):
    return await gateway.services.store.read(lambda: Subscription.select().dicts().first())


async def settled(gateway):
    """Wait until no request is open, and give the rows."""

    async def closed():
        return all(row["state"] == "settled" for row in await gateway.rows())

    for _ in range(400):
        if not gateway.gateway.pumps and await closed():
            break
        await asyncio.sleep(0.01)
    return await gateway.rows()


async def give_micros(gateway, micros, tenant_id=None):
    store = gateway.services.store
    tenant = await store.read(Tenant.get if tenant_id is None else lambda: Tenant[tenant_id])
    options = {"ref": secrets.new_id("grt_"), "at": tenant.created_at, "created_by": "cli"}
    await store.write(ledger.post, tenant.id, Kind.GRANT, micros, **options)


async def second_tenant(gateway) -> tuple[int, str]:
    """Add a tenant that has nothing yet; give its id and the secret of its key."""
    return await gateway.services.store.write(_add_tenant, "second")


def _add_tenant(name: str) -> tuple[int, str]:
    secret, now = secrets.generate(), clock.now()
    tenant = tenants.create(name, now)
    columns = {"scope": keys.Scope.MANAGE, "member": None, "expires_at": None}
    billing = keys.Billing.PAY_PER_TOKEN
    columns |= {"billing": billing, "created_by": "cli", "secret": secret}
    keys.mint(tenant.id, "test", now=now, **columns)
    return tenant.id, secret


def prepare_tenant(folder: Path, name: str, *, micros: int) -> str:
    """Add a tenant with a balance to the database in `folder`; give the secret of its key."""
    database = db.open_database(folder / "gateway.db")
    with db.transaction():
        owner, secret = _add_tenant(name)
        ledger.post(owner, Kind.GRANT, micros, ref=name, at=clock.now(), created_by="cli")
    database.close()
    return secret


def prepare_money(folder: Path, text: str, *, micros: int, tier: str) -> dict[str, str]:
    """Lay out a config and a database whose tenant has both; give a secret for each billing."""
    found = {"pay_per_token": prepare(folder, text)}
    settings = load(folder / "config.yaml")
    database = db.open_database(settings.database_path)
    found["subscription"], now = secrets.generate(), clock.now()
    with db.transaction():
        owner = tenants.ensure_default(now).id
        ledger.post(owner, Kind.GRANT, micros, ref="grt_test", at=now, created_by="cli")
        subscriptions.subscribe(owner, tier, settings.config.tiers, now)
        keys.mint(
            owner,
            "subscribed",
            now=now,
            secret=found["subscription"],
            billing=keys.Billing.SUBSCRIPTION,
            scope=keys.Scope.MANAGE,
            member=None,
            expires_at=None,
            created_by="cli",
        )
    database.close()
    return found


@asynccontextmanager
async def process(*words: str):
    """Run a serving command, and see to it that it is gone when the block ends."""
    running = await Process.start(*words)
    try:
        yield running
    finally:
        await running.end(signal.SIGKILL)


async def gatewayctl(folder: Path, *words: str, config: str = "config.yaml") -> tuple[int, str]:
    """Run the command line as a process of its own; give its exit status and all it said."""
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", LAUNCH, "--config", str(folder / config), *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(os.environ),
    )
    said, _ = await asyncio.wait_for(command.communicate(), 30)
    return command.returncode, said.decode()


async def verify(folder: Path) -> None:
    """Check that `gatewayctl credits verify` finds nothing that disagrees."""
    code, said = await gatewayctl(folder, "credits", "verify")
    assert code == 0, said


def prove(folder: Path) -> None:
    """Do the same here, which is quicker; no gateway of this process may be running."""
    database = db.open_database(folder / "gateway.db", query_only=True)
    try:
        with database.transaction("DEFERRED"):
            proof.verify(tenants.list_tenants(), {}, lambda _: None)
    finally:
        database.close()


def table(folder: Path, sql: str) -> list[dict[str, Any]]:
    """Read rows of a gateway's database, whether or not it is running."""
    with closing(sqlite3.connect(folder / "gateway.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql)]


def check_books(folder: Path, *, is_idle: bool = True) -> list[dict[str, Any]]:
    """Derive every balance, hold, charge and quota again, without the project's own code.

    Give the request rows. `is_idle`: nothing may be open or held.
    """
    with closing(sqlite3.connect(folder / "gateway.db", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # one moment, while a gateway may go on

        def read(sql):
            return [dict(row) for row in connection.execute(sql)]

        rows = read("SELECT * FROM request ORDER BY id")
        found = read("SELECT * FROM entry ORDER BY tenant_id, seq")
        prices = {each["id"]: each for each in read("SELECT * FROM price")}
        owners, subscribed = read("SELECT * FROM tenant"), read("SELECT * FROM subscription")
        assert read("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    for owner in owners:
        _check_tenant(owner, [each for each in found if each["tenant_id"] == owner["id"]], rows)
    for each in subscribed:
        _check_quota(each, rows)
    _check_charges(rows, found, prices)
    if is_idle:
        assert [row for row in rows if row["state"] != "settled"] == []
        assert {each["held_micros"] for each in owners} == {0}
        assert {each["held_tokens"] for each in subscribed} <= {0}
    return rows


def cost_of(row: dict[str, Any], price: dict[str, Any]) -> int:
    """Compute what a row's tokens cost: one ceil for the request."""
    exact = sum(row[tokens] * price[rate] for tokens, rate in CLASSES.items())
    return -(-exact // 1_000_000)


def _check_tenant(tenant, own, rows):
    running = 0
    for seq, each in enumerate(own, 1):
        running += each["amount_micros"]
        assert (each["seq"], each["balance_after_micros"]) == (seq, running)
    assert tenant["balance_micros"] == running
    open_rows = [row for row in rows if (row["tenant_id"], row["state"]) == (tenant["id"], "open")]
    of_money = [row["held_micros"] for row in open_rows if row["billing"] == "pay_per_token"]
    assert tenant["held_micros"] == sum(of_money)


def _check_quota(subscribed, rows):
    window = subscribed["tenant_id"], subscribed["quota_window"]
    own = [row for row in rows if (row["tenant_id"], row["quota_window"]) == window]
    used = [row["quota_tokens"] for row in own if row["state"] == "settled"]
    held = [row["held_tokens"] for row in own if row["state"] == "open"]
    assert (subscribed["used_tokens"], subscribed["held_tokens"]) == (sum(used), sum(held))


def _check_charges(rows, found, prices):
    charges = {each["ref"]: each for each in found if each["kind"] == "charge"}
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert {name for name, row in by_id.items() if row["cost_micros"]} == set(charges)
    for name, charge in charges.items():
        row, price = by_id[name], prices[charge["price_id"]]
        assert (row["state"], row["price_id"]) == ("settled", charge["price_id"])
        assert {each: charge[each] for each in CLASSES} == {each: row[each] for each in CLASSES}
        assert -charge["amount_micros"] == row["cost_micros"] == cost_of(row, price)
    for row in rows:
        if row["billing"] == "pay_per_token" and row["price_id"] and row["state"] == "settled":
            assert row["cost_micros"] == cost_of(row, prices[row["price_id"]])
