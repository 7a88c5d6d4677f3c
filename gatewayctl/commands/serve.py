"""`gatewayctl serve`: run the gateway."""

import typer

from gatewayctl.options import HostOption, PortOption, noun
from gatewayctl.serving import become_server
from gatewayctl.session import Session

app = noun("Run the gateway.")


@app.command()
def serve(ctx: typer.Context, *, host: HostOption = None, port: PortOption = None) -> None:
    """Run the gateway until it is told to stop, then finish what is under way.

    A second signal ends it at once.
    """
    become_server(Session.of(ctx), host, port)
