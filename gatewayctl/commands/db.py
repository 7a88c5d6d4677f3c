"""`gatewayctl db`: migrate and check the database."""

import typer

from gatewayctl.options import noun
from gatewayctl.session import Session, store_failures
from server.store import audit
from server.store import migrate as schema

app = noun("Migrate and check the database.")


@app.command("migrate")
def migrate(ctx: typer.Context) -> None:
    """Bring the database up to date, after a backup; the server must be stopped."""
    session = Session.of(ctx)
    path = session.settings().database_path
    with store_failures():
        applied = schema.migrate(path, actor=audit.CLI)
    document = {"object": "migration", "path": str(path), "applied": applied}
    session.out.note(f"Migrated {path}." if applied else f"{path} is up to date.")
    session.out.lines(document, applied)


@app.command("check")
def check(ctx: typer.Context) -> None:
    """Check that the database is there and of this release."""
    session = Session.of(ctx)
    path = session.settings().database_path
    with store_failures():
        state = schema.check(path).value
        session.out.value({"object": "schema", "path": str(path), "state": state}, state)
        schema.require_current(path)
