"""Serving in the foreground: what can stand in the way."""

from collections.abc import Iterator
from contextlib import contextmanager

from gatewayctl.exits import CommandError
from gatewayctl.session import store_failures


@contextmanager
def serving() -> Iterator[None]:
    """Turn what keeps a server from serving into how a command ends."""
    from server.lifecycle import PortTaken

    try:
        with store_failures():
            yield
    except PortTaken as exc:
        raise CommandError(str(exc), code="port_taken") from exc
