"""Whose request it is: the address behind the proxies that the operator trusts."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address


def client_address(peer: str, forwarded_for: Sequence[str], trusted_proxies: Sequence[str]) -> str:
    """Tell the client's address: the nearest hop that is not a trusted proxy.

    `peer` is the other end of the connection, `forwarded_for` the X-Forwarded-For headers in
    their order. They are read from the right and only as far as proxies are trusted, for anyone
    can send the header; where a hop cannot be read, the proxy that passed it on stands for it.
    One with a zone cannot: a zone names another machine's network card, in any bytes one likes.
    """
    nearest = _parse(peer)
    if nearest is None:
        return "unknown"
    networks = [ip_network(each) for each in trusted_proxies]
    hops = ",".join(forwarded_for).split(",")
    while hops and any(nearest in network for network in networks):
        text = hops.pop()
        hop = None if "%" in text else _parse(text)
        if hop is None:
            break
        nearest = hop
    return str(nearest)


def is_loopback(peer: str) -> bool:
    """Tell whether an address is this machine's own, to which no other one can connect."""
    address = _parse(peer)
    return address is not None and address.is_loopback


def _parse(text: str) -> Address | None:
    """Read `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]` or `[::1]:567`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
