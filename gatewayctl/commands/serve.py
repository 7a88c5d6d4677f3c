"""`gatewayctl serve`: run the gateway."""

import typer

from gatewayctl.options import HostOption, PortOption, noun
from gatewayctl.serving import become_server
from gatewayctl.session import Session

app = noun("Run the gateway.")


@app.command()
def serve(ctx: typer.Context, *, host: HostOption = None, port: PortOption = None) -> None:
    """Run the gateway until it is told to stop, then finish what is under way.

    Ctrl-C or SIGTERM stops it, with 0 when the last answer is out; a second one ends it at once,
    with 1. Ctrl-C before it has begun to start ends it with 130.
    """
    become_server(Session.of(ctx), host, port)
