"""A real gateway in this process: real sockets, real SQLite, the demo upstream or another."""

import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sanic import Sanic
from support import canaries
from support.taps import check_streams, tap

from server import clock
from server.billing import ledger, subscriptions
from server.billing.ledger import Kind
from server.config.load import example_text, load
from server.lifecycle import Running, running
from server.presets.load import BUILTIN
from server.store.models import Request
from server.tenants import keys, secrets, tenants

DEMO_CONFIG = """
upstreams:
  demo: {protocol: demo}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], price: {input: "4.00", output: "20.00"}}
  fast: {targets: [{upstream: demo, model: demo-fast}], price: {input: "0.75", output: "4.50"}}
aliases: {"claude-*": smart}
auto: {default: smart}
tiers: {team: {name: Team, price_cents: 2000}}
"""


# As most tests want it: what an upstream does is seen, and the next request sees nothing of it.
ASKING_ONCE = """
routing: {max_attempts: 1, breaker_failures: null}
"""


def config_for(url: str, *, protocol: str = "anthropic", more: str = "") -> str:
    """Write a config whose one model `smart` is served by an upstream at `url`."""
    return f"""
upstreams:
  there: {{protocol: {protocol}, base_url: "{url}", api_key: "sk-fake-upstream-key"}}
models:
  smart: {{targets: [{{upstream: there, model: upstream-model}}], free: true}}
auto: {{default: smart}}
tiers: {{team: {{name: Team, price_cents: 2000}}}}
{more}"""


def lay_out(folder: Path, config: str | None = None) -> Path:
    """Put a config (the example by default) and the built-in presets into `folder`."""
    path = folder / "config.yaml"
    text = example_text() if config is None else config
    path.write_text(text if "routing:" in text or "models:" not in text else text + ASKING_ONCE)
    shutil.copytree(BUILTIN, folder / "presets", dirs_exist_ok=True)
    return path


@dataclass
class Started:
    """A running gateway and a first key for it."""

    running: Running
    secret: str
    folder: Path
    secrets: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def services(self) -> Any:
        return self.running.services

    @property
    def gateway(self) -> Any:
        return self.running.services.gateway

    def client(self, secret: str | None = None, **options: Any) -> httpx.AsyncClient:
        """Give an HTTP client that presents `secret` (the first key's) as `x-api-key`."""
        headers = {"x-api-key": secret or self.secret}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, **options)

    async def mint(self, **columns: Any) -> tuple[str, str]:
        """Add a key to the default tenant; give its id and its secret."""
        secret, now = secrets.generate(), clock.now()
        self.secrets.add(secret)
        wanted = {
            "billing": keys.Billing.PAY_PER_TOKEN,
            "scope": keys.Scope.MANAGE,
            "member": None,
            "expires_at": None,
            "created_by": "cli",
            **columns,
        }
        store = self.services.store
        tenant = await store.write(tenants.ensure_default, now)
        minted = await store.write(keys.mint, tenant.id, "test", now=now, secret=secret, **wanted)
        return minted.key.public_id, secret

    async def give(self, usd: int) -> None:
        """Add dollars to the default tenant's balance."""
        store, now = self.services.store, clock.now()
        tenant = await store.write(tenants.ensure_default, now)
        options = {"ref": secrets.new_id("grt_"), "at": now, "created_by": "cli"}
        await store.write(ledger.post, tenant.id, Kind.GRANT, usd * 1_000_000, **options)

    async def subscribe(self, tier: str) -> None:
        """Give the default tenant a tier."""
        store, now = self.services.store, clock.now()
        tenant = await store.write(tenants.ensure_default, now)
        await store.write(subscriptions.subscribe, tenant.id, tier, self.tiers, now)

    @property
    def tiers(self) -> Any:
        return self.services.settings.config.tiers

    async def rows(self) -> list[dict[str, Any]]:
        """Read the usage rows, oldest first."""
        return await self.services.store.read(
            lambda: list(Request.select().order_by(Request.id).dicts())
        )


@asynccontextmanager
async def started(folder: Path, config: str | None = None, *, usd: int = 1000, **options: Any):
    """Run a gateway from `folder`, its tenant given `usd` and the first tier of the config.

    `options` go to `server.lifecycle.running`. At the end the streams that it gave are checked,
    and that no secret of it, or of its config, was written down.
    """
    Sanic.test_mode = True  # or a second gateway of one process cannot start
    settings = load(lay_out(folder, config))
    options = {"port": 0, "environ": {}, **options}
    async with running(settings, **options) as gateway:
        given = tap(gateway)
        result = Started(gateway, "", folder)
        _, result.secret = await result.mint()
        if usd:
            await result.give(usd)
        if result.tiers:
            await result.subscribe(next(iter(result.tiers)))
        yield result
    check_streams(given, folder, settings.config)
    known = canaries.configured(settings, options["environ"])
    canaries.check_secrets(settings, known | result.secrets)
