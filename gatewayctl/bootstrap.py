"""What a gateway needs to start: config, presets, database, tenant, first key, first credit."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gatewayctl.session import store_failures
from server.billing import ledger, subscriptions
from server.billing.ledger import Balance, Kind
from server.config.files import make_private_folder, write_private
from server.config.load import Settings, example_text, load
from server.presets.load import BUILTIN, load_presets
from server.store import audit
from server.store.db import open_database, transaction
from server.store.lock import is_held
from server.store.migrate import SchemaState, check, migrate
from server.store.models import Key, Tenant
from server.tenants import keys, secrets, tenants
from server.tenants.keys import Billing, Minted, Scope


@dataclass(slots=True)
class Completed:
    """What was found or made; `made` names the files and things that were missing.

    `tier` is what the tenant `default` was subscribed to just now, `balance` what it has.
    """

    settings: Settings
    made: list[str] = field(default_factory=list)
    minted: Minted | None = None
    tier: str | None = None
    balance: Balance | None = None
    served_by: int | None = None


def complete(
    path: Path,
    now: datetime,
    *,
    force: bool = False,
    needs_key: bool = False,
    credit_micros: int = 0,
) -> Completed:
    """Create what is missing around the config file `path`, and keep what is there.

    While a server runs, its database is left to it. `force` rewrites config and presets, after a
    backup. The first key is minted where there is none at all; with `needs_key`, also where
    every key was revoked or has expired. The tenant gets the config's default tier if it never
    had one, and `credit_micros` once, however often this is called.

    Raises:
        ConfigError: the config or a preset that is there cannot be used.
        CommandError: the database cannot be used.
    """
    backup = path.parent / "backups" / f"{now:%Y%m%dT%H%M%S.%fZ}"
    made = []
    if force and path.exists():
        make_private_folder(backup)
        shutil.copy2(path, backup)
        made.append(str(backup))
    if force or not path.exists():
        write_private(path, example_text())
        made.append(str(path))
    done = Completed(load(path), made)
    if force and done.settings.presets_path.exists():
        make_private_folder(backup)
        shutil.move(done.settings.presets_path, backup)
    done.made += _complete_presets(done.settings.presets_path)
    _complete_database(done, now, needs_key=needs_key, credit_micros=credit_micros)
    return done


def _complete_presets(folder: Path) -> list[str]:
    make_private_folder(folder)
    # First the skills: a preset that is there may name one, and could not be read without.
    made = _copy_missing(BUILTIN.rglob("*.md"), folder)
    there = load_presets(folder)
    # By tool and not by file name: two presets for one tool would be an error.
    presets = [path for path in BUILTIN.glob("*.yaml") if path.stem not in there]
    return made + _copy_missing(presets, folder)


def _copy_missing(sources: Iterable[Path], folder: Path) -> list[str]:
    made = []
    for source in sorted(sources):
        copy = folder / source.relative_to(BUILTIN)
        if not copy.exists():
            write_private(copy, source.read_text(encoding="utf-8"))
            made.append(str(copy))
    return made


def _complete_database(
    done: Completed, now: datetime, *, needs_key: bool, credit_micros: int
) -> None:
    path = done.settings.database_path
    done.served_by = is_held(path)
    with store_failures():
        if done.served_by is not None:
            if check(path) is SchemaState.CURRENT:
                with _changing(path):
                    _record_made(done, now)
            return
        if migrate(path, actor=audit.INIT):
            done.made.append(str(path))
        with _changing(path):
            _record_made(done, now)
            tenant = tenants.ensure_default(now)
            _subscribe(done, tenant, now)
            if credit_micros:
                _grant_once(tenant, now, credit_micros)
            done.balance = ledger.balance_of(tenant.id)
            _complete_keys(done, tenant, now, needs_key=needs_key)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    database = open_database(path)
    try:
        with transaction():
            yield
    finally:
        database.close()


def _record_made(done: Completed, now: datetime) -> None:
    if done.made:
        audit.record(
            audit.Action.CONFIG_INITIALISED,
            str(done.settings.path),
            actor=audit.INIT,
            at=now,
            made=[os.path.relpath(each, done.settings.folder) for each in done.made],
        )


def _subscribe(done: Completed, tenant: Tenant, now: datetime) -> None:
    config = done.settings.config
    if config.default_tier is not None and subscriptions.find(tenant.id) is None:
        subscriptions.subscribe(tenant.id, config.default_tier, config.tiers, now, actor=audit.INIT)
        done.tier = config.default_tier


def _grant_once(tenant: Tenant, now: datetime, credit_micros: int) -> None:
    ledger.post(
        tenant.id,
        Kind.GRANT,
        credit_micros,
        ref=f"quickstart:{tenant.public_id}",
        at=now,
        created_by="cli",
        reason="quickstart",
        actor=audit.INIT,
    )


def _complete_keys(done: Completed, tenant: Tenant, now: datetime, *, needs_key: bool) -> None:
    alive = [key for key in Key.select() if not needs_key or keys.status(key, now) == "active"]
    if not alive:
        done.minted = keys.mint(
            tenant.id,
            "first",
            billing=Billing.PAY_PER_TOKEN,
            scope=Scope.MANAGE,
            member=None,
            expires_at=None,
            created_by="cli",
            now=now,
            secret=secrets.generate(),
            actor=audit.INIT,
        )
