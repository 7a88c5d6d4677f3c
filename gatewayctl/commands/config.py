"""`gatewayctl config`: find, check and show the configuration."""

import os

import msgspec
import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import noun
from gatewayctl.session import Session
from server.config.load import masked
from server.config.missing import missing_keys, needs

app = noun("Find, check and show the configuration.")


@app.command("path")
def path(ctx: typer.Context) -> None:
    """Print where the config file is."""
    session = Session.of(ctx)
    found = str(session.find_config())
    session.out.value({"object": "config_path", "path": found}, found)


@app.command("check")
def check(ctx: typer.Context) -> None:
    """Check the config file, and that the keys of its upstreams are there."""
    session = Session.of(ctx)
    settings = session.settings()
    missing = missing_keys(settings, os.environ)
    upstreams = list(dict.fromkeys(each.upstream for each in missing))
    document = {
        "object": "config_check",
        "path": str(settings.path),
        "ok": not missing,
        "warnings": list(settings.warnings),
        "upstreams_without_key": upstreams,
    }
    session.out.value(document, "ok" if not missing else "incomplete")
    if missing:
        raise CommandError(
            f"{settings.path}: the API key of {', '.join(upstreams)} resolves to nothing.",
            status=ExitStatus.CHECK_FAILED,
            code="check_failed",
            hint=f"Set the variables, or write the files: {needs(missing)}.",
        )


@app.command("show")
def show(ctx: typer.Context) -> None:
    """Print the configuration in force, defaults included, with its secrets masked."""
    session = Session.of(ctx)
    config = masked(session.settings().config)
    if session.out.as_json:
        session.out.document(config)
    else:
        session.out.text(msgspec.yaml.encode(config).decode())
