"""Serving in the foreground: what is worth a warning, and what can stand in the way."""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager

from gatewayctl.exits import CommandError
from gatewayctl.session import store_failures
from server.config.schema import Server


@contextmanager
def serving() -> Iterator[None]:
    """Turn what keeps a server from serving into how a command ends."""
    from server.lifecycle import PortTaken

    try:
        with store_failures():
            yield
    except PortTaken as exc:
        raise CommandError(str(exc), code="port_taken") from exc


def exposure(server: Server, host: str | None) -> str | None:
    """Say what is wrong with listening on `host` without TLS; None where nothing is."""
    host = host or server.host
    if server.tls is not None or server.trusted_proxies or _is_loopback(host):
        return None
    return f"{host} is beyond this machine, and keys cross the network in the clear: set server.tls"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
