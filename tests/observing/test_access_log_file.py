"""The file of lines: private, rotated, found again, and never left with half a line."""

import os
import resource
import stat
import threading

import pytest

from server import logs
from server.observing.log_file import LogFile

LINE = b'{"n":1}\n'


@pytest.fixture
def file(tmp_path):
    opened = LogFile(tmp_path / "logs" / "access.log", max_bytes=5 * len(LINE))
    yield opened
    opened.close()


def test_a_full_file_is_rotated_and_every_file_is_for_its_owner_alone(file, tmp_path):
    old = os.umask(0)
    try:
        for _ in range(50):
            file.write(LINE)
    finally:
        os.umask(old)

    names = {path.name: path for path in (tmp_path / "logs").iterdir()}
    assert set(names) == {"access.log", *(f"access.log.{n}" for n in range(1, 6))}
    assert len(names) == 1 + logs.KEPT_FILES
    assert {stat.S_IMODE(path.stat().st_mode) for path in names.values()} == {0o600}
    assert {path.read_bytes() for path in names.values()} == {5 * LINE}


def test_a_batch_larger_than_a_file_is_kept_whole(file, tmp_path):
    file.write(LINE)
    file.write(9 * LINE)

    assert (tmp_path / "logs" / "access.log").read_bytes() == 9 * LINE
    assert (tmp_path / "logs" / "access.log.1").read_bytes() == LINE


def test_a_file_that_was_moved_or_removed_is_made_anew(file, tmp_path):
    path = tmp_path / "logs" / "access.log"
    file.write(LINE)
    path.rename(tmp_path / "logs" / "yesterday")
    file.write(2 * LINE)
    path.rename(tmp_path / "logs" / "today")
    path.write_bytes(b"of another\n")  # as logrotate's `create` does
    file.write(LINE)
    after_create = path.read_bytes()
    path.unlink()
    file.write(LINE)

    assert (tmp_path / "logs" / "yesterday").read_bytes() == LINE
    assert (tmp_path / "logs" / "today").read_bytes() == 2 * LINE
    assert after_create == b"of another\n" + LINE
    assert path.read_bytes() == LINE


def test_a_file_that_was_cut_short_is_continued(file, tmp_path):
    """As logrotate's `copytruncate` does."""
    path = tmp_path / "logs" / "access.log"
    file.write(4 * LINE)
    os.truncate(path, 0)
    file.write(LINE)

    assert path.read_bytes() == LINE


def test_lines_that_the_disk_has_no_room_for_leave_no_half_line(tmp_path):
    path, (soft, hard) = tmp_path / "access.log", resource.getrlimit(resource.RLIMIT_FSIZE)
    file = LogFile(path)
    file.write(LINE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(LINE) + 3, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            file.write(LINE)
        with pytest.raises(OSError, match="No space left"):
            file.write(LINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.write(LINE)
    file.close()

    assert path.read_bytes() == 2 * LINE


def test_a_pipe_that_nobody_reads_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="No such device"):
        LogFile(tmp_path / "pipe").open()


def test_a_pipe_gets_every_line_whole_however_much_is_written_at_once(tmp_path):
    """As `/dev/stdout` is one in a container."""
    path, got, count = tmp_path / "pipe", [], 1000
    line = b'{"n":"' + 700 * b"x" + b'"}\n'
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with path.open("wb"):  # opened once there is a reader
        file = LogFile(path)
        file.write(count * line)
        file.close()
    reader.join()

    assert got == [count * line]


def test_a_pipe_whose_reader_stands_still_ends_with_a_whole_line(tmp_path):
    path, line = tmp_path / "pipe", b'{"n":"' + 700 * b"x" + b'"}\n'
    os.mkfifo(path)
    read_end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LogFile(path)

    with pytest.raises(OSError, match="temporarily unavailable"):
        file.write(1000 * line)

    file.close()
    got = b"".join(iter(lambda: os.read(read_end, 65_536), b""))
    os.close(read_end)
    assert len(got) > 0
    assert got == len(got) // len(line) * line
