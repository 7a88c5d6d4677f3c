"""Another process that keeps every writer out of a database."""

import asyncio
import sys
from contextlib import asynccontextmanager

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def locked(path):
    """Hold the write lock of the database at `path` inside the block."""
    other = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LOCK, str(path)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert await other.stdout.readline() == b"locked\n"
    try:
        yield
    finally:
        other.stdin.close()
        await other.wait()
