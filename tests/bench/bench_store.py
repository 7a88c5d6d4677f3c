"""How many writes a second the store takes, and how long a key look-up lasts.

Run it on a quiet machine: `python tests/bench/bench_store.py [FOLDER]`. The folder decides which
disk is measured; every commit waits for it.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from server import clock
from server.store import models
from server.store.db import Store, open_database, transaction
from server.store.migrate import migrate
from server.tenants import keys, secrets, tenants

JOBS = 20_000
LOOKUPS = 20_000
INSERT = "INSERT INTO tenant (public_id, name, created_at) VALUES (?, ?, ?)"


def insert(name):
    models.database.execute_sql(INSERT, (name, name, 0))


async def measure_writes(path, callers):
    store = Store.open(path)
    latencies = []

    async def call(caller):
        for job in range(JOBS // callers):
            started = time.perf_counter()
            await store.write(insert, f"{callers}-{caller}-{job}")
            latencies.append(time.perf_counter() - started)

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(call(caller) for caller in range(callers)))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    await store.close()
    latencies.sort()
    print(  # noqa: T201 - the report
        f"{callers:4} callers: {len(latencies) / elapsed:7.0f} jobs/s,"
        f" p50 {latencies[len(latencies) // 2] * 1e3:6.2f} ms,"
        f" p99 {latencies[len(latencies) * 99 // 100] * 1e3:6.2f} ms,"
        f" {cpu / len(latencies) * 1e6:5.1f} us of CPU a job"
    )


def measure_lookup(path):
    now, secret = clock.now(), secrets.generate()
    database = open_database(path)
    with transaction():
        keys.mint(
            tenants.ensure_default(now).id,
            "bench",
            billing=keys.Billing.PAY_PER_TOKEN,
            scope=keys.Scope.INFERENCE,
            member=None,
            expires_at=None,
            created_by="cli",
            now=now,
            secret=secret,
        )
    started = time.perf_counter()
    for _ in range(LOOKUPS):
        keys.authenticate((secret,), now)
    each_us = (time.perf_counter() - started) / LOOKUPS * 1e6
    print(f"authenticate: {each_us:.1f} us")  # noqa: T201 - the report
    database.close()


def main():
    import uvloop

    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = Path(folder) / "bench.db"
        migrate(path)
        measure_lookup(path)
        for callers in (1, 16, 64, 256):
            uvloop.run(measure_writes(path, callers))


if __name__ == "__main__":
    main()
