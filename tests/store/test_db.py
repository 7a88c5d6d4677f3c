import asyncio
import sqlite3
import threading
from contextlib import closing

import peewee
import pytest

from server.errors import Conflict, NotFound, StoreUnavailable
from server.store import models
from server.store.db import Store, open_database, transaction
from server.store.models import Tenant
from server.store.problems import (
    NoDatabase,
    SchemaTooNew,
    SchemaTooOld,
    StoreError,
    UnusableDatabase,
)


@pytest.fixture
def database(path):
    database = open_database(path)
    yield database
    database.close()


def run(path, scenario):
    async def with_store():
        store = Store.open(path)
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(with_store())


def add_tenant(name):
    return Tenant.create(public_id=f"tnt_{name}", name=name, created_at=0).id


def add_tenants(*names):
    for name in names:
        add_tenant(name)


def add_tenant_then_fail(name):
    add_tenant(name)
    raise Conflict("no")


def alter(path, sql):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


def test_a_missing_database_names_init_and_is_not_created(tmp_path):
    with pytest.raises(NoDatabase, match="`gatewayctl init`"):
        open_database(tmp_path / "gateway.db")

    assert list(tmp_path.iterdir()) == []


def test_an_older_schema_names_db_migrate(path):
    alter(path, "DELETE FROM schema_migration")

    with pytest.raises(SchemaTooOld, match="`gatewayctl db migrate`"):
        open_database(path)


def test_a_newer_schema_is_refused(path):
    alter(path, "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', 'now')")

    with pytest.raises(SchemaTooNew, match="upgrade gatewayctl"):
        open_database(path)


@pytest.mark.parametrize("content", [b"not a database\n" * 100, b"SQLite format 3\0" + bytes(4080)])
def test_what_is_not_a_database_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "gateway.db"
    path.write_bytes(content)

    with pytest.raises(UnusableDatabase, match="restore it from a backup"):
        open_database(path)

    assert path.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    alter(path, "CREATE TABLE bookmark (url TEXT)")

    with pytest.raises(UnusableDatabase, match="another program"):
        open_database(path)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(StoreError, match="cannot be used"):
        open_database(tmp_path)


def test_every_commit_reaches_the_disk_and_references_are_checked(database):
    pragmas = {
        name: database.pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")
    }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_reading_command_cannot_write(path):
    database = open_database(path, query_only=True)

    with pytest.raises(StoreUnavailable, match="nothing was changed"), transaction():
        add_tenant("acme")

    assert Tenant.select().count() == 0
    database.close()


def test_a_transaction_commits_as_a_whole(database):
    with transaction():
        add_tenant("acme")
        add_tenant("initech")

    assert Tenant.select().count() == 2


def test_a_transaction_keeps_other_writers_out_from_its_start(path, database):
    with (
        transaction(),
        closing(sqlite3.connect(path, timeout=0.02)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")


def test_a_transaction_that_fails_changes_nothing(database):
    with pytest.raises(Conflict, match="no"), transaction():
        add_tenant_then_fail("acme")

    assert Tenant.select().count() == 0


def test_a_command_that_finds_the_database_locked_says_so(path, database):
    database.execute_sql("PRAGMA busy_timeout = 20")

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="nothing was changed"), transaction():
            add_tenant("acme")


def test_a_broken_constraint_keeps_its_own_exception(database):
    with pytest.raises(peewee.IntegrityError, match="UNIQUE"), transaction():
        add_tenants("acme", "acme")


def test_an_unplanned_thread_gets_an_error_and_no_connection(database):
    errors = []

    def read():
        try:
            Tenant.select().count()
        except peewee.InterfaceError as exc:
            errors.append(str(exc))

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()

    assert errors == ["Error, database connection not opened."]


def test_the_database_and_its_companions_are_for_their_owner_alone(path):
    async def scenario(store):
        await store.write(add_tenant, "acme")
        return {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}

    assert run(path, scenario) == dict.fromkeys(
        ["gateway.db", "gateway.db-shm", "gateway.db-wal", "gateway.db.lock"], "0o600"
    )


def test_what_was_written_is_read_by_readers_and_by_the_loop(path):
    async def scenario(store):
        await store.write(add_tenant, "acme")
        return await store.read(Tenant.select().count), store.point(Tenant.select().count)

    assert run(path, scenario) == (1, 1)


def test_neither_a_reader_nor_the_loop_can_write(path):
    async def scenario(store):
        with pytest.raises(StoreUnavailable, match="nothing was changed"):
            await store.read(add_tenant, "reader")
        with pytest.raises(StoreUnavailable, match="nothing was changed"):
            store.point(add_tenant, "loop")
        return await store.read(Tenant.select().count)

    assert run(path, scenario) == 0


def test_a_read_sees_one_moment_while_others_write(path):
    first_read, written = threading.Event(), threading.Event()

    def count_twice():
        before = Tenant.select().count()
        first_read.set()
        written.wait(timeout=5)
        return before, Tenant.select().count()

    async def scenario(store):
        reading = asyncio.create_task(store.read(count_twice))
        await asyncio.to_thread(first_read.wait, 5)
        await store.write(add_tenant, "acme")
        written.set()
        return await reading

    assert run(path, scenario) == (0, 0)


def test_what_a_read_raises_reaches_its_caller_and_later_reads_work(path):
    def fail():
        raise NotFound("There is no such thing.")

    async def scenario(store):
        for _ in range(4):
            with pytest.raises(NotFound, match="no such thing"):
                await store.read(fail)
        with pytest.raises(peewee.OperationalError, match="no such table"):
            store.point(models.database.execute_sql, "SELECT * FROM nowhere")
        return await store.read(Tenant.select().count)

    assert run(path, scenario) == 0


def test_a_closed_store_leaves_one_whole_file(path):
    async def scenario(store):
        await asyncio.gather(*(store.read(Tenant.select().count) for _ in range(8)))
        await store.write(add_tenant, "acme")

    run(path, scenario)

    assert sorted(file.name for file in path.parent.iterdir()) == ["gateway.db", "gateway.db.lock"]


def test_a_damaged_page_is_unavailable_and_not_a_bug_of_the_caller(path):
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'tenant'"
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)

    async def scenario(store):
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await store.read(list, Tenant.select())
        with pytest.raises(StoreUnavailable, match="cannot be used"):
            await store.write(add_tenant, "acme")

    run(path, scenario)
