"""Where the gateway listens: its socket, its certificate, its address."""

import ipaddress
import socket
import ssl

from server.config.load import Settings
from server.config.schema import Server


class PortTaken(Exception):
    """The address cannot be bound; the message names it and the way out."""


def bind(host: str, port: int) -> socket.socket:
    """Take the address; raises PortTaken where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        # Bound and listening is how another process shows that the port is taken.
        sock.listen(1024)
    except OSError as exc:
        sock.close()
        raise PortTaken(
            f"{host}:{port} cannot be used ({exc.strerror or exc}); try another --host or --port."
        ) from exc
    return sock


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Load the certificate that the gateway shows; None where it speaks plain HTTP.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    paths = settings.tls_paths
    if paths is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*paths)
    except OSError as exc:  # SSLError is one
        certificate, key = paths
        raise settings.error(
            ("server", "tls"),
            f"{certificate}, with the key {key}, cannot be used: {exc.strerror or exc}",
        ) from exc
    return context


def url_of(server: Server, sock: socket.socket) -> str:
    """Give the URL at which the gateway answers."""
    scheme = "https" if server.tls else "http"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def exposure(server: Server, host: str) -> str | None:
    """Say what is wrong with listening on the address `host`; None where nothing is."""
    if server.tls or server.trusted_proxies or ipaddress.ip_address(host).is_loopback:
        return None
    return (
        f"{host} can be reached from other machines, and API keys cross the network in the clear: "
        "set server.tls, or put a proxy with TLS in front and name it in server.trusted_proxies"
    )
