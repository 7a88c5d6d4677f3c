"""Take over an edited config or preset while requests run: whole or not at all."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from server import clock, logs
from server.billing import in_use
from server.billing.prices import in_force
from server.billing.pricing import Price
from server.calls import Rules
from server.config.fixed import changed_keys, with_fixed
from server.config.load import Settings, load
from server.config.schema import Config
from server.config.watch import Watcher, stamps_of
from server.errors import ConfigError, StoreUnavailable
from server.presets.load import Presets
from server.presets.watch import watch_presets
from server.providers import endpoints_of, require_keys
from server.routes.services import Services
from server.store import audit
from server.upstream.client import Endpoint

_log = logging.getLogger(__name__)


class Files:
    """What is watched: the config, and the presets beside it.

    Make it before the presets are first loaded, so that no change falls between.
    """

    def __init__(self, settings: Settings) -> None:
        path = settings.path
        self.config: Watcher[Settings] = Watcher(lambda: stamps_of([path]), lambda: load(path))
        self.config.expect_change()  # it was loaded before this began to watch
        self.presets = watch_presets(settings.presets_path)

    def expect_change(self) -> None:
        """Load all again once it stands still, changed or not."""
        self.config.expect_change()
        self.presets.expect_change()

    def poll(
        self, now_monotonic: float
    ) -> tuple[Settings | ConfigError | None, Presets | ConfigError | None]:
        """Look at both, as `Watcher.poll`."""
        return self.config.poll(now_monotonic), self.presets.poll(now_monotonic)


class Reloader:
    """Swaps what a running gateway goes by; running requests keep what they began with.

    `outlast` is told of each config: its upstreams may keep silent for longer.
    """

    def __init__(
        self,
        services: Services,
        files: Files,
        environ: Mapping[str, str],
        demo_url: str | None,
        outlast: Callable[[Config], None],
    ) -> None:
        self._services = services
        self._files = files
        self._environ = environ
        self._demo_url = demo_url
        self._outlast = outlast
        self._presets = services.gateway.rules.presets  # as they were last read, in force or not
        self._digest = services.settings.source.digest

    async def run(self, every_s: float, asked: asyncio.Event) -> None:
        """Look at the files every `every_s`, and at once when `asked`, until cancelled."""
        is_asked = False
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await asked.wait()
            if asked.is_set():
                asked.clear()
                self._files.expect_change()
                is_asked = True
            settings, presets = await asyncio.to_thread(self._files.poll, time.monotonic())
            is_done = False
            if presets is not None and not isinstance(presets, ConfigError):
                self._presets = presets
            if settings is not None:
                is_done = await self._take(settings, is_asked=is_asked)
                is_asked = False
            # A config that was taken over took the presets with it, but for broken ones.
            if isinstance(presets, ConfigError) or (presets is not None and not is_done):
                self._take_presets(presets)

    async def _take(self, found: Settings | ConfigError, *, is_asked: bool) -> bool:
        """Take over a config; tell whether it, and the presets with it, are in force."""
        reloads = self._services.watch.reloads
        try:
            if isinstance(found, ConfigError):
                raise found
            if found.source.digest == self._digest and not is_asked:
                return False
            await self._adopt(found)
        except (ConfigError, StoreUnavailable) as err:
            reloads["refused"] += 1
            _log.error("the config was not reloaded, the former stays in force: %s", err)
            if isinstance(err, StoreUnavailable):
                # Nothing is wrong with the file, and nobody would edit it again: the next look
                # takes it over, what was asked for without an edit included.
                self._files.config.expect_change()
                self._digest = ""
            return False
        reloads["done"] += 1
        return True

    async def _adopt(self, found: Settings) -> None:
        services, gateway = self._services, self._services.gateway
        former, presets = services.settings, gateway.rules.presets
        config, waiting = with_fixed(former.config, found.config)
        settings = dataclasses.replace(found, config=config)
        changed = changed_keys(former.config, config)
        self._require_demo(settings)
        require_keys(settings, self._environ)
        # All that can be wrong is found out before the first thing is changed.
        rules = Rules.of(config, self._presets, {})
        endpoints = endpoints_of(settings, self._environ, self._demo_url)
        prices = await services.store.write(
            _write_down, former, settings, gateway.holds.instance_id, changed, waiting
        )
        self._swap(settings, dataclasses.replace(rules, prices=prices), endpoints)
        for warning in found.warnings:
            _log.warning("%s", warning)
        _log.info("config reloaded, changed: %s", ", ".join(changed) or "nothing")
        self._tell_presets(presets)
        if waiting:
            _log.warning("these changes need a restart: %s", ", ".join(waiting))

    def _swap(self, settings: Settings, rules: Rules, endpoints: Mapping[str, Endpoint]) -> None:
        """Go by all of it from now on; nothing waits in here, so nobody sees half of it."""
        services, gateway = self._services, self._services.gateway
        gateway.adopt(rules, gateway.upstream.succeeded_by(endpoints, list(gateway.pumps)))
        services.settings = settings
        if services.stripe is not None:
            services.stripe.tiers = settings.config.tiers
        logs.set_level(settings.config.log.level)
        self._outlast(settings.config)
        self._digest = settings.source.digest

    def _take_presets(self, found: Presets | ConfigError) -> None:
        gateway = self._services.gateway
        try:
            if isinstance(found, ConfigError):
                raise found
            rules = Rules.of(gateway.rules.config, found, gateway.rules.prices)
        except ConfigError as err:
            _log.error("presets were not reloaded: %s", err)
            return
        former = gateway.rules.presets
        gateway.adopt(rules, gateway.upstream)
        self._tell_presets(former)

    def _tell_presets(self, former: Presets) -> None:
        """Write down which presets are others than before; they change what models are told."""
        now = self._services.gateway.rules.presets
        if now is former:
            return
        changed = sorted(tool for tool in {**former, **now} if former.get(tool) != now.get(tool))
        self._services.store.enqueue(
            audit.record,
            audit.Action.PRESETS_RELOADED,
            str(self._services.settings.presets_path),
            actor=audit.SERVE,
            at=clock.now(),
            changed=changed,
        )
        _log.info("presets reloaded, changed: %s", ", ".join(changed) or "nothing")

    def _require_demo(self, settings: Settings) -> None:
        for name, upstream in settings.config.upstreams.items():
            if upstream.protocol == "demo" and self._demo_url is None:
                raise settings.error(
                    ("upstreams", name, "protocol"),
                    "the demo model starts with the gateway: restart it",
                )


def _write_down(
    former: Settings,
    settings: Settings,
    instance_id: int,
    changed: tuple[str, ...],
    waiting: tuple[str, ...],
) -> dict[str, Price]:
    """Give the new prices their numbers, unless somebody uses what is gone; in a transaction."""
    now = clock.now()
    for key, problem in in_use.removed(former.config, settings.config, instance_id):
        raise settings.error(key, problem)
    audit.record(
        audit.Action.CONFIG_RELOADED,
        str(settings.path),
        actor=audit.SERVE,
        at=now,
        sha256=settings.source.digest,
        changed=changed,
        needs_restart=waiting or None,
    )
    return in_force(settings.config, now)
