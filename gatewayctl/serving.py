"""Serving in the foreground: what can stand in the way, and the process that does nothing else.

`python -P -m gatewayctl.serving OPTIONS` is what `gatewayctl serve` becomes once its command line
is understood. What that took (Typer, and with it pydantic) is 9 MB that a gateway which runs for
weeks has no use for. `-P` keeps a folder that holds a `server.py` from being taken for ours.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from gatewayctl.ending import status_of
from gatewayctl.exits import CommandError
from gatewayctl.output import Output, prepare_streams
from gatewayctl.session import Session, store_failures


@contextmanager
def serving(database: Path) -> Iterator[None]:
    """Turn what keeps a server from serving `database` into how a command ends."""
    from server.lifecycle import PortTaken
    from server.store.lock import ServeLock

    try:
        with store_failures():
            try:
                yield
            except PortTaken:
                # Most often by the gateway that serves this database: another port is no way out.
                with ServeLock(database):
                    raise
    except PortTaken as exc:
        raise CommandError(str(exc), code="port_taken") from exc


def become_server(session: Session, host: str | None, port: int | None) -> NoReturn:
    """Go on as a process that only serves: the same one, with the same streams."""
    options = {
        "config": str(session.find_config()),
        "host": host,
        "port": port,
        "as_json": session.out.as_json,
        "colour": session.out.colour,
    }
    words = ["-P", "-m", "gatewayctl.serving", json.dumps(options)]
    # Ctrl-C waits while the new process imports: it would end in the midst of some module.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - our own module


def serve(session: Session, host: str | None, port: int | None) -> int:
    """Serve until told to stop; give the exit status."""
    from server import lifecycle
    from server.config.load import load
    from server.store import migrate

    settings = load(session.find_config())

    def ready(gateway: lifecycle.Running) -> None:
        document = {"object": "gateway", "url": gateway.url, "log": str(settings.log_path)}
        session.warn(gateway.warnings)
        session.out.lines(document, ())
        session.out.note(f"Serving at {gateway.url}; the log is {settings.log_path}.")

    with serving(settings.database_path):
        if migrate.check(settings.database_path) is migrate.SchemaState.MISSING:
            migrate.require_current(settings.database_path)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return lifecycle.serve(
            settings, host=host, port=port, ready=ready, draining=session.tell_draining
        )


def main() -> int:
    """Serve as the options in the first argument say."""
    prepare_streams()
    options = json.loads(sys.argv[1])
    out = Output(as_json=options["as_json"], colour=options["colour"])
    session = Session(out, Path(options["config"]))
    return status_of(session, lambda: serve(session, options["host"], options["port"]))


if __name__ == "__main__":
    sys.exit(main())
