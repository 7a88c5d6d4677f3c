"""A gateway between a real client and a demo upstream, with both sides' records at hand."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peewee import SqliteDatabase
from support.gateways import lay_out, started
from support.tee import Tee, tee

from server.store.models import Request
from server.upstream import demo

UPSTREAM_KEY = "sk-fake-upstream-key"
TOKEN_CLASSES = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
)
LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"
PATIENCE_S = 20


@dataclass
class Upstream:
    """The demo upstream, and what it was sent."""

    server: demo.DemoServer
    tee: Tee

    @property
    def entries(self):
        return list(self.server.journal.entries)


@asynccontextmanager
async def upstream(**options: Any):
    """Run a demo upstream behind a tee; `options` are its DemoOptions."""
    server = await demo.start("127.0.0.1", 0, options=demo.DemoOptions(**options))
    try:
        async with tee(server.url) as recorded:
            yield Upstream(server, recorded)
    finally:
        await server.close()


def crossed(provider: Upstream, spoken: str, names: Iterable[str] = ("demo-smart",)) -> str:
    """Write a config whose models, of these names, `provider` serves over one protocol alone."""
    url = provider.tee.url + ("/v1" if spoken == "openai" else "")
    price = '{input: "4.00", output: "20.00", cache_read: "0.40", cache_write_5m: "5.00"}'
    models = "".join(
        f'  "{name}": {{targets: [{{upstream: there, model: "{name}"}}], price: {price}}}\n'
        for name in names
    )
    return f"""
upstreams:
  there: {{protocol: {spoken}, base_url: "{url}", api_key: {UPSTREAM_KEY}}}
models:
{models}
auto: {{default: {next(iter(names))}}}
tiers: {{team: {{name: Team, price_cents: 2000}}}}
"""


def config_of(provider: Upstream, model: str = "demo-smart", quota: str = "null") -> str:
    """Write a config whose one model is served by `provider` over both protocols.

    `quota` is what its tier allows, in weighted tokens.
    """
    url = provider.tee.url
    return f"""
upstreams:
  messages: {{protocol: anthropic, base_url: "{url}", api_key: {UPSTREAM_KEY}}}
  chat: {{protocol: openai, base_url: "{url}/v1", api_key: {UPSTREAM_KEY}}}
models:
  smart:
    targets: [{{upstream: messages, model: "{model}"}}, {{upstream: chat, model: "{model}"}}]
    price: {{input: "4.00", output: "20.00", cache_read: "0.40", cache_write_5m: "5.00",
      per_request: {{web_search: "0.01"}}}}
aliases: {{"claude-*": smart}}
auto: {{default: smart}}
tiers: {{team: {{name: Team, price_cents: 2000, quota_tokens: {quota}}}}}
billing: {{hold_slice_tokens: 1024}}
"""


@asynccontextmanager
async def stage(
    folder: Path,
    *,
    model: str = "demo-smart",
    quota: str = "null",
    usd: int = 1000,
    **options: Any,
):
    """Run both; give the upstream and the gateway, which is in this process."""
    async with (
        upstream(**options) as provider,
        started(_made(folder), config_of(provider, model, quota), usd=usd) as gateway,
    ):
        yield provider, gateway


@dataclass
class Process:
    """A gateway that is a process of its own."""

    folder: Path
    url: str
    secret: str

    def rows(self) -> list[dict[str, Any]]:
        """Read the usage rows, oldest first."""
        database = SqliteDatabase(self.folder / "gateway.db")
        with closing(database), Request.bind_ctx(database):
            return list(Request.select().order_by(Request.id).dicts())


@asynccontextmanager
async def serving(folder: Path, config: str):
    """Run `gatewayctl init`, then `gatewayctl serve` until the block ends; it must end well.

    Its tenant has credit, and at the end the books must agree.
    """
    where = str(lay_out(_made(folder), config))
    init = await _command("--config", where, "init")
    secret, _ = await init.communicate()
    await _done("--config", where, "credits", "grant", "100", "--reason", "the test")
    server = await _command("--config", where, "serve", "--port", "0", "--json")
    try:
        async with asyncio.timeout(PATIENCE_S):
            url = json.loads(await server.stdout.readuntil(b"\n}\n"))["url"]
        yield Process(folder, url, secret.decode().strip())
        server.terminate()
        async with asyncio.timeout(PATIENCE_S):
            assert await server.wait() == 0
        await _done("--config", where, "credits", "verify")
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


async def _done(*words: str) -> None:
    command = await _command(*words)
    out, _ = await command.communicate()
    assert command.returncode == 0, out.decode()


async def _command(*words: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", LAUNCH, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
    )


def check_agreement(rows: list[dict[str, Any]], provider: Upstream) -> None:
    """Check that there is one settled row for each request that the upstream saw, equal to it."""
    ours = {row["request_id"]: {name: row[name] for name in TOKEN_CLASSES} for row in rows}
    theirs = {
        entry.request_id: {name: getattr(entry.usage, name) for name in TOKEN_CLASSES}
        for entry in provider.entries
    }
    assert ours == theirs
    assert len(rows) == len(provider.entries) == len(provider.tee.requests)
    assert {row["state"] for row in rows} == {"settled"}
    assert not any(row["estimated"] for row in rows)
