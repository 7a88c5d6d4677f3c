"""What only a process of its own can show: a kill, a file size limit, a file it may not write."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

import server
from server.store.migrate import migrate

PRELUDE = """
import asyncio, os, resource, sys
from pathlib import Path
from server.errors import StoreUnavailable
from server.store import models
from server.store.db import Store

path = Path(sys.argv[1])

def insert(name, padding=""):
    sql = "INSERT INTO tenant (public_id, name, created_at) VALUES (?, ?, 0)"
    models.database.execute_sql(sql, (name + padding, name))
    return name
"""

WRITE_FOREVER = """
async def caller(store, number):
    for job in range(1_000_000):
        name = await store.write(insert, f"{number}-{job}")
        os.write(1, name.encode() + b"\\n")

async def main():
    store = Store.open(path)
    await asyncio.gather(*(caller(store, number) for number in range(16)))

asyncio.run(main())
"""

FILL_THE_DISK = """
async def main():
    store = Store.open(path)
    await store.write(insert, "first")
    size = path.with_name(path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, resource.RLIM_INFINITY))
    holds = [store.write(insert, f"hold{i}", "x" * 3000) for i in range(30)]
    settlements = [store.enqueue(insert, f"settled{i}", "x" * 3000) for i in range(30)]
    outcomes = await asyncio.gather(*holds, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}, outcomes
    assert not any(settlement.done() for settlement in settlements)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await asyncio.gather(*settlements)
    await store.write(insert, "last")
    await store.close()

asyncio.run(main())
"""

WRITE_TO_A_READ_ONLY_FILE = """
if os.geteuid() == 0:
    os.seteuid(65534)

async def main():
    store = Store.open(path)
    try:
        await store.write(insert, "refused")
    except StoreUnavailable as exc:
        print(exc)
    print(store.point(models.Tenant.select().count))
    await store.close()

asyncio.run(main())
"""


def names_in(path):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [name for (name,) in connection.execute("SELECT name FROM tenant ORDER BY id")]


def start(script, path, cwd=None):
    command = [sys.executable, "-c", PRELUDE + script, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd)


@pytest.mark.parametrize("acknowledged", [1, 500, 2000])
def test_a_kill_loses_nothing_that_was_acknowledged(path, acknowledged):
    with start(WRITE_FOREVER, path) as writer:
        lines = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()

    told = {line.strip() for line in lines if line.endswith("\n")}
    assert len(told) >= acknowledged
    assert told <= set(names_in(path))


def test_a_full_disk_fails_holds_and_keeps_settlements(path):
    with start(FILL_THE_DISK, path) as writer:
        assert writer.wait(timeout=20) == 0

    assert names_in(path) == ["first", *(f"settled{i}" for i in range(30)), "last"]


def test_a_read_only_file_can_be_read_and_refuses_writes():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        migrate(path)
        path.chmod(0o444)
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        # Nobody may be unable to read the checkout; what the child needs of it lies here.
        shutil.copytree(Path(server.__file__).parent, Path(folder) / "server")

        with start(WRITE_TO_A_READ_ONLY_FILE, path, cwd=folder) as writer:
            said, _ = writer.communicate(timeout=20)

    assert writer.returncode == 0
    assert said.splitlines() == [
        "The gateway's database cannot be used just now; nothing was changed. Retry shortly.",
        "0",
    ]
