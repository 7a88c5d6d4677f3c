"""`gatewayctl mock`: run the demo upstream alone."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from gatewayctl.exits import CommandError
from gatewayctl.options import noun
from gatewayctl.session import Session
from server.upstream import demo

app = noun("Run the demo upstream alone.")


@app.command()
def mock(
    ctx: typer.Context,
    *,
    host: Annotated[str, typer.Option(help="Where to listen.", metavar="HOST")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0 for any.", metavar="PORT")
    ] = 8090,
    pace: Annotated[
        float | None,
        typer.Option(min=0.1, help="Words a second; all at once if left out.", metavar="WORDS"),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(help="A file that gets a line for what is served.", metavar="FILE"),
    ] = None,
) -> None:
    """Play a provider of both protocols, without key or network, until stopped.

    A model named `fault:overloaded`, `fault:cut`, `fault:slow` … fails that way;
    GET /v1/models lists them all.
    """
    options = demo.DemoOptions(pace_words_per_s=pace, journal=journal)
    asyncio.run(_serve(Session.of(ctx), host, port, options))


async def _serve(session: Session, host: str, port: int, options: demo.DemoOptions) -> None:
    from server.lifecycle import handle_signals

    stop = asyncio.Event()
    handle_signals(stop)
    try:
        server = await demo.start(host, port, options=options)
    except OSError as exc:
        raise CommandError(
            f"{host}:{port} cannot be used ({exc.strerror or exc}); try another --host or --port.",
            code="port_taken",
        ) from exc
    session.out.lines({"object": "demo_upstream", "url": server.url}, ())
    session.out.note(f"The demo upstream serves both protocols at {server.url}.")
    await stop.wait()
    await server.close()
