"""A damaged file is found before a server writes to it, whichever page the damage is on."""

import sqlite3
from contextlib import closing

import pytest

from server.store import migrate as schema
from server.store.problems import UnusableDatabase

PAGE_BYTES = 4096


def _roots(path):
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, rootpage FROM sqlite_master WHERE rootpage > 1")
        return dict(found.fetchall())


def _write_over(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _check_refused(path):
    before = path.read_bytes()

    with pytest.raises(UnusableDatabase, match=r"is damaged .*; restore it from a backup"):
        schema.migrate(path)

    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["gateway.db", "gateway.db.lock"]


def test_a_page_of_any_table_or_index(path):
    whole = path.read_bytes()

    for root in _roots(path).values():
        _write_over(path, (root - 1) * PAGE_BYTES, b"\xff" * PAGE_BYTES)
        _check_refused(path)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("at", "data"),
    [(0, b"\xde\xad" * 50), (100, b"\xff" * 3000), (16, b"\0\0"), (0, bytes(PAGE_BYTES))],
    ids=["header", "schema", "page size", "nothing"],
)
def test_the_beginning(path, at, data):
    _write_over(path, at, data)

    _check_refused(path)


@pytest.mark.parametrize("kept", [50, 1000, 4096, 9000, 0.5])
def test_a_file_that_was_cut_short(path, kept):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept > 1 else len(whole) * kept)])

    _check_refused(path)


def test_a_large_file_is_not_read_through(path):
    """A server is ready in seconds; what is damaged there is found when it is read."""
    root = _roots(path)["entry"]
    _write_over(path, (root - 1) * PAGE_BYTES, b"\xff" * PAGE_BYTES)
    with path.open("r+b") as file:
        file.truncate(schema.CHECKED_BYTES + 1)

    assert schema.migrate(path) == []


def test_a_file_whose_log_is_gone_is_whole_as_of_its_last_checkpoint(path):
    with closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.execute("INSERT INTO tenant (public_id, name, created_at) VALUES (1, 1, 1)")
        wal = path.with_name("gateway.db-wal")
        assert wal.exists()
        copy = path.parent / "copy" / "gateway.db"
        copy.parent.mkdir()
        copy.write_bytes(path.read_bytes())

    assert schema.migrate(copy) == []

    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM tenant").fetchone() == (0,)
