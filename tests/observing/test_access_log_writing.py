"""The access log's thread: batches, what happens when it cannot write, and its end."""

import asyncio
import json
import logging
import math
import os
import time

import pytest
from msgspec.structs import replace
from support.raw_upstream import until
from support.wires import run

from server.observing import access_log
from server.observing.access_log import BATCH_LINES, FLUSH_AFTER_S, MOST_WAITING, AccessLog
from server.observing.log_file import LogFile
from server.observing.record import Refused


def _refused(number):
    return Refused(
        request_id=f"req_{number}",
        method="GET",
        path="/nowhere",
        protocol="openai",
        status=404,
        error="not_found",
        client="192.0.2.7",
        key_id=None,
        tenant=None,
        member=None,
        ended_at=1_795_000_000.25,
    )


def _ids(path):
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]


def test_lines_come_soon_in_their_order_and_all_of_them_by_the_end(tmp_path):
    path = tmp_path / "access.log"

    async def scenario():
        log = AccessLog(LogFile(path))
        begun = time.monotonic()
        log.take(_refused(0))
        await until(path.exists)
        waited_s = time.monotonic() - begun
        for number in range(1, 5 * BATCH_LINES + 7):
            log.take(_refused(number))
        await log.close()
        log.take(_refused(-1))  # too late, and no harm
        return waited_s, log.dropped

    waited_s, dropped = run(scenario)

    assert _ids(path) == [f"req_{number}" for number in range(5 * BATCH_LINES + 7)]
    assert FLUSH_AFTER_S * 0.9 <= waited_s < 2
    assert dropped == 0


def test_a_line_has_only_what_is_known(tmp_path):
    path = tmp_path / "access.log"

    async def scenario():
        log = AccessLog(LogFile(path))
        log.take(_refused(1))
        await log.close()

    run(scenario)

    assert path.read_text() == (
        '{"at":"2026-11-18T11:06:40.250000Z","request_id":"req_1","client":"192.0.2.7",'
        '"protocol":"openai","method":"GET","path":"/nowhere","attempts":0,"status":404,'
        '"outcome":"refused","error":"not_found"}\n'
    )


def test_what_cannot_be_written_is_counted_and_told_once_until_it_can(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.write_text("a file where the folder would be")

    async def scenario():
        log = AccessLog(LogFile(folder / "access.log"))
        for number in range(3):
            log.take(_refused(number))
            await until(lambda: log.dropped == number + 1)  # noqa: B023 - awaited at once
        folder.unlink()
        log.take(_refused(3))
        await until((folder / "access.log").exists)
        await log.close()
        return log.dropped

    with caplog.at_level(logging.WARNING, logger=access_log.__name__):
        dropped = run(scenario)

    assert dropped == 3
    assert _ids(folder / "access.log") == ["req_3"]
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("ERROR", "the access log cannot be written (File exists): its lines are dropped"),
        ("WARNING", "the access log is written again; lines lost so far: 3"),
    ]


@pytest.mark.parametrize(
    "broken",
    [{"path": "/\ud800"}, {"ended_at": 1e18}, {"ended_at": math.inf}, {"member": object()}],
    ids=["path", "moment", "infinite", "type"],
)
def test_a_line_that_cannot_be_encoded_is_lost_alone_and_later_ones_are_written(
    tmp_path, caplog, broken
):
    path = tmp_path / "access.log"

    async def scenario():
        log = AccessLog(LogFile(path))
        for record in (_refused(0), replace(_refused(1), **broken), _refused(2)):
            log.take(record)
        await until(lambda: log.dropped)
        log.take(_refused(3))
        await until(lambda: _ids(path)[-1] == "req_3")
        await log.close()
        return log.dropped

    with caplog.at_level(logging.WARNING, logger=access_log.__name__):
        dropped = run(scenario)

    assert (_ids(path), dropped) == (["req_0", "req_2", "req_3"], 1)
    first, second = (each.getMessage() for each in caplog.records)
    assert first.startswith("the access log cannot be written (a line: ")
    assert second == "the access log is written again; lines lost so far: 1"


def test_a_disk_that_hangs_costs_lines_and_no_memory_and_does_not_stop_the_end(tmp_path):
    """A pipe whose reader stands still is as slow as a disk can be."""
    read_end, write_end = os.pipe()
    stuck = _Stuck(read_end)

    async def scenario():
        log = AccessLog(stuck)
        for number in range(BATCH_LINES + MOST_WAITING + 5):
            log.take(_refused(number))
        dropped = log.dropped
        begun = time.monotonic()
        await log.close()
        return dropped, time.monotonic() - begun

    dropped, took_s = asyncio.run(scenario())
    os.close(write_end)

    assert dropped == 5
    assert took_s < access_log.CLOSE_WAIT_S + 1


class _Stuck:
    """A file whose disk answers when the other end of a pipe is closed."""

    def __init__(self, read_end):
        self._read_end = read_end

    def write(self, _lines):
        os.read(self._read_end, 1)

    def close(self):
        os.close(self._read_end)
