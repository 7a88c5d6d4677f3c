"""`gatewayctl quickstart`: set up and serve in one step."""

import os
from pathlib import Path
from typing import Any

import typer

from gatewayctl.bootstrap import Completed, complete
from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import HostOption, PortOption, noun
from gatewayctl.serving import serving
from gatewayctl.session import Session
from gatewayctl.welcome import credit_left, ways_to_call
from server import clock
from server.config.load import place_to_write
from server.tenants import keys

app = noun("Set up and serve with the built-in demo upstream, in one step.")

CREDIT_MICROS = 10_000_000


@app.command()
def quickstart(ctx: typer.Context, *, host: HostOption = None, port: PortOption = None) -> None:
    """Create what is missing, serve, and print how to call the gateway.

    The first run grants $10.00 of credit. A second run reuses everything. A key's secret is shown
    only when it is made, so a key is minted only if none is active.

    Ctrl-C stops it, with 0 when the last answer is out; a second one ends it at once, with 1.
    """
    from server import lifecycle

    session, now = Session.of(ctx), clock.now()
    path = place_to_write(session.config_file, os.environ, Path.cwd())
    done = complete(path, now, needs_key=True, credit_micros=CREDIT_MICROS)
    _require_stopped(done)
    told = False

    def ready(gateway: lifecycle.Running) -> None:
        nonlocal told
        told = True
        session.warn(gateway.warnings)
        _tell(session, done, gateway.url)

    try:
        with serving(done.settings.database_path):
            status = lifecycle.serve(
                done.settings, host=host, port=port, ready=ready, draining=session.tell_draining
            )
    finally:
        if not told:
            _save_secret(session, done)
    session.out.note("\nStopped. `gatewayctl usage` shows what was served.")
    raise typer.Exit(status)


def _require_stopped(done: Completed) -> None:
    if done.served_by is not None:
        raise CommandError(
            f"The gateway runs already (process {done.served_by}).",
            status=ExitStatus.UNAVAILABLE,
            code="locked",
            hint="Call it, or stop it first; `gatewayctl keys create NAME` mints another key.",
        )


def _save_secret(session: Session, done: Completed) -> None:
    """Print a key that was made although nothing serves: only its hash is stored."""
    if done.minted is not None:
        session.out.note("The key was made all the same, and is shown only now:")
        session.out.value(_as_json(done, None), done.minted.secret)


def _tell(session: Session, done: Completed, url: str) -> None:
    if session.out.as_json:
        session.out.document(_as_json(done, url))
        return
    secret = None if done.minted is None else done.minted.secret
    if secret is not None and not session.out.for_people:
        session.out.text(f"{secret}\n")
    title = f"gatewayctl serves at {url}; call it from another terminal"
    session.out.sheet(title, ways_to_call(url, secret))
    if done.balance is not None:
        session.out.note(credit_left(done.balance))
    session.out.note(f"Config, presets and database are in {done.settings.folder}.")
    session.out.note("Ctrl-C stops the gateway; nothing under way is lost.")


def _as_json(done: Completed, url: str | None) -> dict[str, Any]:
    minted = done.minted
    key = None
    if minted is not None:
        key = keys.as_json(minted.key, minted.key.created_at) | {"secret": minted.secret}
    return {
        "object": "quickstart",
        "url": url,
        "config": str(done.settings.path),
        "key": key,
        "credits": None if done.balance is None else done.balance.as_json(),
    }
