"""How fast a long ledger is proved, and whether its length slows anything else down.

Run it on a quiet machine: `python tests/bench/bench_ledger.py [--rows 1000000] [--folder DIR]`.
The folder decides which disk is measured. With `--keep` the database stays there, and is used
again by the next run with that many rows.
"""

import argparse
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from server import clock
from server.billing import admission, ledger, subscriptions, verify
from server.billing.holds import Demand, Money, Quota
from server.billing.ledger import GENESIS, SEPARATOR
from server.billing.pricing import Tokens
from server.billing.quota import Limits
from server.config.schema import Tier
from server.store.db import open_database, transaction
from server.store.migrate import migrate
from server.store.models import Instance, Key, Price, Tenant, database
from server.usage.record import Closing, Opening, Outcome

FIRST_AT = clock.to_ms(datetime(2026, 1, 1, tzinfo=UTC))
RATES = {
    "input": 3_000_000,
    "cache_read": 300_000,
    "cache_write_5m": 3_750_000,
    "cache_write_1h": 6_000_000,
    "output": 15_000_000,
}
TIERS = {"team": Tier(name="Team", price_cents=2000, interval="month")}
LIMITS = {"team": Limits(tokens=10**15, requests=None)}
AT_ONCE = 50_000
INSERT_REQUEST = """
INSERT INTO request (
    request_id, state, instance_id, tenant_id, key_id, protocol, stream, requested_model, model,
    upstream, upstream_model, started_at, first_byte_ms, duration_ms, status, outcome,
    input_tokens, cache_read_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,
    output_tokens, estimated, billing, price_id, cost_micros
) VALUES (
    ?, 'settled', 1, 1, 1, 'anthropic', 1, 'auto', 'smart', 'anthropic', 'claude-opus-5-5', ?,
    700, 5000, 200, 'completed', ?, ?, ?, ?, ?, 0, 'pay_per_token', 1, ?
)
"""


def say(name, value):
    print(f"{name:32} {value}", flush=True)  # noqa: T201 - the report


def build(path, rows):
    """Fill a new database with a grant and, for each further entry, a request and its charge."""
    migrate(path)
    handle = open_database(path)
    with transaction():
        _who_spends()
        late = database.execute_sql(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL "
            "AND tbl_name IN ('entry', 'request')"
        ).fetchall()
        for name, _ in late:
            database.execute_sql(f'DROP INDEX "{name}"')
    _fill(handle.connection(), rows)
    for _, sql in late:  # sorting once is faster than a million insertions into an index
        database.execute_sql(sql)
    handle.close()


def _who_spends():
    began = clock.from_ms(FIRST_AT)
    Instance.create(pid=1, host="bench", version="0", started_at=began)
    Tenant.create(public_id="tnt_bench", name="default", created_at=began)
    Key.create(
        public_id="key_bench",
        tenant=1,
        name="bench",
        billing="pay_per_token",
        scope="inference",
        secret_sha256="bench",
        prefix="gwk_demo",
        last4="demo",
        created_at=began,
        created_by="cli",
    )
    Price.create(model="smart", created_at=began, **RATES)
    subscriptions.subscribe(1, "team", TIERS, began)


def _fill(connection, rows):
    chance = random.Random(7)
    balance = rows * 1_000_000
    tenant_id, blank = 1, (None,) * 7
    first = (tenant_id, 1, "grant", "grt_bench", balance, balance, FIRST_AT, *blank, "cli", "all")
    head = _hashed(GENESIS, first)
    entries, requests = [(*first, head)], []
    for seq in range(2, rows + 1):
        tokens = (
            chance.randrange(4000),
            chance.randrange(90_000),
            chance.randrange(4000),
            0,
            chance.randrange(2000),
        )
        millionths = sum(n * rate for n, rate in zip(tokens, RATES.values(), strict=True))
        cost = max(1, -(-millionths // 1_000_000))
        balance -= cost
        ref, at = f"req_{chance.getrandbits(88):022x}", FIRST_AT + seq * 1000
        values = (1, seq, "charge", ref, -cost, balance, at, 1, *tokens, None, None, None)
        head = _hashed(head, values)
        entries.append((*values, head))
        requests.append((ref, at - 5000, *tokens, cost))
        if len(entries) == AT_ONCE or seq == rows:
            with transaction():
                connection.executemany(ledger._APPEND, entries)
                connection.executemany(INSERT_REQUEST, requests)
            entries.clear()
            requests.clear()
    with transaction():
        connection.execute("UPDATE tenant SET balance_micros = ?", (balance,))


def _hashed(head, values):
    columns = SEPARATOR.join(["" if value is None else str(value) for value in values])
    return ledger.hash_of(head, columns)


def measure_verify(later):
    tenants = list(Tenant.select())
    with database.transaction("DEFERRED"):
        started = time.process_time()
        proof = verify.verify(tenants, {}, lambda count: None)
        spent = time.process_time() - started
    count = proof.tenants[0].entries + proof.requests
    say("verify", f"{count / spent:,.0f} rows/s of CPU, {spent:.1f} s")
    since = {"tnt_bench": proof.tenants[0].checkpoint}
    _settle_some(later)
    with database.transaction("DEFERRED"):
        started = time.perf_counter()
        proof = verify.verify(list(Tenant.select()), since, lambda count: None)
        say(
            f"verify --since, {later:,} later",
            f"{(time.perf_counter() - started) * 1e3:.0f} ms, "
            f"{proof.tenants[0].entries} entries, {proof.requests} requests",
        )


def _settle_some(count, pool=None):
    """Hold and settle `count` requests, 500 in a transaction; give the microseconds of each."""
    demand = Demand(lambda output: output, wanted_output=8192, least_output=1)
    tokens = Tokens(1000, 50_000, 0, 0, 1000)
    now, pool = clock.now(), pool or Money(1)
    of_quota = isinstance(pool, Quota)
    started = time.perf_counter()
    for batch in range(0, count, 500):
        with transaction():
            for number in range(batch, min(batch + 500, count)):
                request_id = f"req_{of_quota}_{started}_{number}"
                admission.admit(
                    Opening(
                        request_id=request_id,
                        instance_id=1,
                        tenant_id=1,
                        key_id=1,
                        protocol="anthropic",
                        stream=True,
                        requested_model="auto",
                        model="smart",
                        upstream="anthropic",
                        upstream_model="claude-opus-5-5",
                        started_at=now,
                        input_estimate=1000,
                        price_id=1,
                        billing="subscription" if of_quota else "pay_per_token",
                    ),
                    pool,
                    demand,
                )
                closing = Closing(
                    outcome=Outcome.COMPLETED,
                    duration_ms=5000,
                    status=200,
                    input_tokens=tokens.input,
                    cache_read_input_tokens=tokens.cache_read,
                    output_tokens=tokens.output,
                    cost_micros=0 if of_quota else 33_000,
                    quota_tokens=7000 if of_quota else 0,
                )
                admission.settle(request_id, closing, now)
    return (time.perf_counter() - started) / count * 1e6


def _each_us(call, times):
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times * 1e6


def measure_points(times):
    now = clock.now()
    say("balance", f"{_each_us(lambda: ledger.balance_of(1), times):.1f} us")
    view = _each_us(lambda: subscriptions.view(1, TIERS, now), times)
    say("quota view", f"{view:.1f} us")
    say("hold and settle, money", f"{_settle_some(times):.0f} us")
    say("hold and settle, quota", f"{_settle_some(times, Quota(1, LIMITS, now)):.0f} us")


def main():
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--rows", type=int, default=1_000_000)
    words.add_argument("--folder", type=Path)
    words.add_argument("--keep", action="store_true")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as passing:
        folder = asked.folder if asked.keep and asked.folder else Path(passing)
        path = folder / f"ledger-{asked.rows}.db"
        if not path.exists():
            started = time.perf_counter()
            build(path, asked.rows)
            say("built", f"{asked.rows:,} entries in {time.perf_counter() - started:.0f} s")
        say("size", f"{path.stat().st_size / 1e6:,.0f} MB")
        handle = open_database(path)
        measure_verify(later=min(20_000, asked.rows))
        measure_points(times=min(10_000, asked.rows))
        handle.close()


if __name__ == "__main__":
    main()
