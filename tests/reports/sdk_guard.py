"""A pytest plugin for the vendors' own suites: our key instead of theirs, and no network.

Only the loopback interface may be reached: a test that forgot its base URL fails instead of
calling a vendor.
"""

import os
import sys

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_configure():
    sys.addaudithook(_stay_here)


def pytest_collection_finish():
    sys.modules["tests.conftest"].api_key = os.environ["SUITE_KEY"]


def _stay_here(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host is not None and host not in LOOPBACK:
        raise ConnectionError(f"{host} is not on this machine")
