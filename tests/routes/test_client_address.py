import json

import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import request, run, until, wire

from server.routes.client_address import client_address

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "192.0.2.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", ["203.0.113.9, 10.0.0.5"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9", "198.51.100.7", "10.0.0.5"], "198.51.100.7"),
        ("127.0.0.1", ["10.0.0.4, 10.0.0.5"], "10.0.0.4"),
        ("127.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("127.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("127.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("::1", ["203.0.113.9"], "::1"),
        ("fd00::1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:127.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("fe80::1%eth0", ["203.0.113.9"], "fe80::1%eth0"),
        ("127.0.0.1", ["fe80::1%\udcff"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9, [fe80::1%" + "x" * 9000 + "]:4711, 10.0.0.5"], "10.0.0.5"),
        ("127.0.0.1", ["203.0.113.9, unknown"], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9, _hidden, 10.0.0.5"], "10.0.0.5"),
        ("127.0.0.1", ["", " , "], "127.0.0.1"),
        ("127.0.0.1", ["203.0.113.9\x00, <script>"], "127.0.0.1"),
        ("127.0.0.1", ["1" * 100_000], "127.0.0.1"),
        ("127.0.0.1", ["[::1"], "::1"),
        ("127.0.0.1", ["0x7f000001"], "127.0.0.1"),
        ("", ["203.0.113.9"], "unknown"),
        ("/run/gateway.sock", ["203.0.113.9"], "unknown"),
    ],
)
def test_the_client_is_the_nearest_hop_that_nobody_vouches_for(peer, forwarded, expected):
    assert client_address(peer, forwarded, TRUSTED) == expected


def test_without_trusted_proxies_the_header_means_nothing():
    assert client_address("10.0.0.5", ["203.0.113.9"], ()) == "10.0.0.5"


def test_no_forwarded_address_keeps_later_requests_out_of_the_access_log(tmp_path):
    """A zone of bytes that are no text once ended the thread that writes the lines."""
    log = tmp_path / "access.log"
    config = DEMO_CONFIG + "server: {trusted_proxies: [127.0.0.1]}"

    async def lines():
        return log.read_text().splitlines()

    async def scenario():
        async with started(tmp_path, config) as gateway, wire(gateway.url) as connection:
            for seen in range(2):
                odd = request("GET", "/nowhere", x_forwarded_for="fe80::1%\xff")
                assert (await connection.ask(odd)).status == 404
                await until(lambda seen=seen: _longer_than(seen))
            return await lines()

    async def _longer_than(count):
        return len(await lines()) > count

    clients = [json.loads(line)["client"] for line in run(scenario)]

    assert clients == ["127.0.0.1", "127.0.0.1"]
