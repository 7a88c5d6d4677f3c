"""`gatewayctl init`: create what is missing."""

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewayctl.bootstrap import Completed, complete
from gatewayctl.options import noun
from gatewayctl.session import Session
from gatewayctl.welcome import credit_left
from server import clock
from server.config.load import place_to_write
from server.tenants import keys

app = noun("Create what is missing: config, presets, database, first key.")


@app.command()
def init(
    ctx: typer.Context,
    *,
    force: Annotated[
        bool,
        typer.Option("--force", help="Rewrite config and presets, after a backup into backups/."),
    ] = False,
) -> None:
    """Create what is missing: config, presets, database, tenant, subscription and first key.

    What is there stays as it is. The tenant gets the config's default tier, but no credit. The
    secret of a new key goes to stdout, alone; it is shown only now.
    """
    session, now = Session.of(ctx), clock.now()
    path = place_to_write(session.config_file, os.environ, Path.cwd())
    done = complete(path, now, force=force)
    for made in done.made:
        session.out.note(f"created {made}")
    if done.served_by is not None:
        session.out.note(f"The server runs (process {done.served_by}): its database is left to it.")
    if done.tier is not None:
        session.out.note(f"subscribed the tenant `default` to the tier {done.tier}")
    if done.minted is not None:
        session.out.note("created the key `first`; its secret is shown only now:")
    if not done.made and done.minted is None and done.tier is None:
        session.out.note("Nothing was missing.")
    secret = [] if done.minted is None else [done.minted.secret]
    session.out.lines(_as_json(done, now), secret)
    if done.balance is not None and done.balance.available_micros <= 0:
        session.out.note(credit_left(done.balance))


def _as_json(done: Completed, now: datetime) -> dict[str, Any]:
    minted = done.minted
    key = None if minted is None else keys.as_json(minted.key, now) | {"secret": minted.secret}
    return {
        "object": "init",
        "config": str(done.settings.path),
        "created": done.made,
        "key": key,
        "tier": done.tier,
        "served_by": done.served_by,
    }
