"""`gatewayctl config`: find, check and show the configuration."""

import os
from collections.abc import Iterable

import msgspec
import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import noun
from gatewayctl.session import Session
from server.config.load import Settings, masked, resolve_reference, upstream_key_problems
from server.config.references import is_reference, variables
from server.secret import Secret

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
    missing = upstream_key_problems(settings, os.environ)
    document = {
        "object": "config_check",
        "path": str(settings.path),
        "ok": not missing,
        "warnings": list(settings.warnings),
        "upstreams_without_key": list(missing),
    }
    session.out.value(document, "ok" if not missing else "incomplete")
    if missing:
        names = ", ".join(missing)
        raise CommandError(
            f"{settings.path}: the API key of {names} resolves to nothing.",
            status=ExitStatus.CHECK_FAILED,
            code="check_failed",
            hint=f"Set the variables, or write the files: {_needs(settings, missing)}.",
        )


def _needs(settings: Settings, upstreams: Iterable[str]) -> str:
    """Tell which references of keys lead nowhere; a secret beside one is not told."""
    told = []
    for name in upstreams:
        keys = settings.config.upstreams[name].keys
        gone = [key for key in keys if not _is_found(settings, key)]
        told.append(f"{name} needs {', '.join(dict.fromkeys(map(_reference, gone)))}")
    return "; ".join(told)


def _is_found(settings: Settings, key: Secret) -> bool:
    found = resolve_reference(key, environ=os.environ, folder=settings.folder)
    return found is not None


def _reference(key: Secret) -> str:
    text = key.reveal()
    return text if is_reference(text) else ", ".join(f"${{{name}}}" for name in variables(text))


@app.command("show")
def show(ctx: typer.Context) -> None:
    """Print the configuration in force, defaults included, with its secrets masked."""
    session = Session.of(ctx)
    config = masked(session.settings().config)
    if session.out.as_json:
        session.out.document(config)
    else:
        session.out.text(msgspec.yaml.encode(config).decode())
