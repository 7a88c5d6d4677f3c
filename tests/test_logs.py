"""The log file: private, rotated, and as talkative as it was told to be."""

import logging
import os
import stat

import pytest
from support.gateways import started
from support.wires import request, run, wire

from server import logs

LINE = "x" * 1000


@pytest.fixture
def opened(tmp_path):
    """Open logs that are closed with the test."""
    handlers = []

    def call(level="info"):
        handlers.append(logs.open_log(tmp_path / "logs" / "gateway.log", level))
        return handlers[-1]

    yield call
    for handler in handlers:
        logs.close_log(handler)


def test_a_full_log_is_rotated_and_every_file_is_for_its_owner_alone(opened, tmp_path):
    handler = opened()
    handler.maxBytes = 5 * len(LINE)

    old = os.umask(0)
    try:
        for _ in range(50):
            logging.getLogger("server.test").info(LINE)
    finally:
        os.umask(old)

    files = list((tmp_path / "logs").iterdir())
    assert len(files) == 1 + logs.KEPT_FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert max(path.stat().st_size for path in files) <= handler.maxBytes


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_a_level_keeps_what_is_less_out(opened, tmp_path, level, expected):
    opened(level)

    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("server.test"), name)(name)

    lines = (tmp_path / "logs" / "gateway.log").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == expected


def test_nobody_fills_the_log_with_bodies_that_no_handler_asks_for(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            asked = request("GET", "/healthz", transfer_encoding="chunked") + b"1\r\nx\r\n0\r\n\r\n"
            async with wire(gateway.url) as connection:  # which is closed behind the answer
                return (await connection.ask(asked)).status

    assert run(scenario) == 200
    assert "body not consumed" not in (tmp_path / "gateway.log").read_text()
