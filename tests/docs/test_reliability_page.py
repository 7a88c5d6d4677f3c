"""The page about failures names tests that exist, and promises what the code has."""

import re
from pathlib import Path

from server.config.schema import Routing, Server, Timeouts
from server.protocols.sse import LIMIT_BYTES
from server.routes.services import Deadlines
from server.routing.itinerary import PATIENCE_S
from server.store.migrate import CHECKED_BYTES
from server.upstream.inflate import RATIO_LIMIT
from server.upstream.relay import PING_AFTER_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
SECTIONS = [
    "Providers",
    "Clients that misbehave",
    "Disk and database",
    "Restart and crash",
    "Attack surface",
]


def test_every_test_that_is_named_is_there():
    named = set(re.findall(r"`(tests/[^`]+)`", PAGE))

    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
    assert len(named) > 30


def test_every_promise_names_a_test():
    # The matrix has one test for all of its rows, named above it.
    outside = re.sub(r"<!-- fault matrix -->.+<!-- end of .+? -->", "", PAGE, flags=re.DOTALL)
    rows = [line for line in outside.splitlines() if line.startswith("| ")]
    promises = [line for line in rows if "shown by" not in line]

    assert [line for line in promises if "`tests/" not in line] == []
    assert re.findall(r"^## (.+)", PAGE, re.MULTILINE) == SECTIONS


def test_the_figures_are_the_codes_own():
    deadlines, timeouts, routing, mb = Deadlines(), Timeouts(), Routing(), 1024 * 1024
    figures = [
        f"pings from {PING_AFTER_S:.0f} s on",
        f"an error at {LIMIT_BYTES // mb} MB",
        f"{deadlines.head_s:.0f} s for the head, {deadlines.body_s:.0f} s for the body",
        f"after {deadlines.write_s:.0f} s without progress",
        f"over {CHECKED_BYTES // mb} MB",
        f"`drain_s`, {Server().drain_s} s",
        f"`max_attempts`, {routing.max_attempts}",
        f"`retry_within_s`, {routing.retry_within_s} s",
        f"longer than {PATIENCE_S:.0f} s for a provider that says when",
        f"`breaker_failures`, {routing.breaker_failures}, times in a row",
        f"`breaker_open_s`, {routing.breaker_open_s} s",
        f"up to {routing.breaker_longest_s} s",
        f"`sticky_s`, {routing.sticky_s} s",
        f"`first_byte_s`, {timeouts.first_byte_s} s",
        f"`idle_s`, {timeouts.idle_s} s",
    ]

    assert [figure for figure in figures if figure not in PAGE] == []
    assert RATIO_LIMIT == 100
