"""`gatewayctl serve`: run the gateway."""

import typer

from gatewayctl.options import HostOption, PortOption, noun
from gatewayctl.serving import serving
from gatewayctl.session import Session
from server.config.load import load

app = noun("Run the gateway.")


@app.command()
def serve(ctx: typer.Context, *, host: HostOption = None, port: PortOption = None) -> None:
    """Run the gateway until it is told to stop, then finish what is under way.

    A second signal ends it at once.
    """
    from server import lifecycle
    from server.store import migrate

    session = Session.of(ctx)
    settings = load(session.find_config())

    def ready(gateway: lifecycle.Running) -> None:
        document = {"object": "gateway", "url": gateway.url, "log": str(settings.log_path)}
        session.warn(gateway.warnings)
        session.out.lines(document, ())
        session.out.note(f"Serving at {gateway.url}; the log is {settings.log_path}.")

    with serving():
        if migrate.check(settings.database_path) is migrate.SchemaState.MISSING:
            migrate.require_current(settings.database_path)
        status = lifecycle.serve(
            settings, host=host, port=port, ready=ready, draining=session.tell_draining
        )
    raise typer.Exit(status)
