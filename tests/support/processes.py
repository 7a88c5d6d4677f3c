"""A gateway and a demo upstream as processes of their own, to be killed and measured."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from support.gateways import lay_out

from server import clock
from server.config.load import load
from server.store import db, migrate
from server.tenants import keys, secrets, tenants

PATIENCE_S = 20
LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"


def prepare(folder: Path, config: str) -> str:
    """Lay out a config and a migrated database with one key; give its secret."""
    settings = load(lay_out(folder, config))
    migrate.migrate(settings.database_path)
    database = db.open_database(settings.database_path)
    secret, now = secrets.generate(), clock.now()
    with db.transaction():
        tenant = tenants.ensure_default(now)
        keys.mint(
            tenant.id,
            "test",
            now=now,
            secret=secret,
            billing=keys.Billing.PAY_PER_TOKEN,
            scope=keys.Scope.MANAGE,
            member=None,
            expires_at=None,
            created_by="cli",
        )
    database.close()
    return secret


class Process:
    """A running `gatewayctl` command that tells its URL once it serves."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.said = b""  # once it is gone: what it said after its URL, and what it complained of

    @classmethod
    async def start(cls, *words: str) -> "Process":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            LAUNCH,
            *words,
            "--json",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        said = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while line := await process.stdout.readline():
                    said += line
                    try:
                        return cls(process, json.loads(said)["url"])
                    except ValueError:
                        continue
        except TimeoutError:
            process.kill()
        raise AssertionError((said + await process.stderr.read()).decode())

    @property
    def resident_bytes(self) -> int:
        """How much memory it has in use; Linux only."""
        status = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def pss_bytes(self) -> int:
        """How much memory is its own, and its share of what others use too; Linux only."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait until the process is gone; give its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await self.process.communicate()
        self.said = self.said or out + err
        return self.process.returncode
