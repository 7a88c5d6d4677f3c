import os
import pwd
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from peewee import SqliteDatabase
from playhouse.migrations import Runner

from server import clock
from server.store import audit
from server.store.audit import Action
from server.store.db import open_database, transaction
from server.store.migrate import MIGRATIONS, migrate
from server.store.models import Audit, Tenant

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def log(path):
    """An open database, its log as a new one's is."""
    database = open_database(path)
    yield database
    database.close()


def record(action=Action.KEY_REVOKED, target="key_1", *, actor="cli", at=NOW, **details):
    with transaction():
        audit.record(action, target, actor=actor, at=at, **details)


def targets(**wanted):
    return [row.target for row in audit.newest_first(**wanted)]


def last():
    return Audit.select().order_by(Audit.id.desc()).dicts().first()


def test_a_row_says_who_did_what_to_what_and_when(log):
    record(Action.KEY_CREATED, "key_9", actor="key_1", name="ci", member=None, expires_at=NOW)

    assert last() == {
        "id": 2,
        "at": NOW,
        "actor": "key_1",
        "tenant": None,
        "action": "key.created",
        "target": "key_9",
        "details": '{"expires_at":"2026-11-22T13:00:00Z","name":"ci"}',
    }


@pytest.mark.parametrize(
    ("actor", "shown"),
    [
        ("cli", f"cli:{ME}"),
        ("init", f"init:{ME}"),
        ("serve", f"serve:{ME}"),
        ("stripe", "stripe"),
        ("key_1", "key_1"),
    ],
)
def test_what_a_person_runs_is_told_with_its_user(log, actor, shown, monkeypatch):
    """Not the user that the environment claims."""
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")

    record(actor=actor)

    assert last()["actor"] == shown


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "REPLACE INTO audit SELECT id, at, 'nobody', tenant_id, action, target, '{}' FROM audit",
        "UPDATE OR REPLACE audit SET id = id + 1",
    ],
)
def test_no_row_is_ever_changed(path, sql):
    """By whatever program: the database itself refuses."""
    with closing(sqlite3.connect(path)) as raw:
        before = raw.execute("SELECT * FROM audit").fetchall()

        with pytest.raises(sqlite3.IntegrityError, match="audit rows are never changed"):
            raw.execute(sql)

        assert before != []
        assert raw.execute("SELECT * FROM audit").fetchall() == before


def test_a_change_that_is_taken_back_leaves_no_row(log):
    def change():
        with transaction():
            audit.record(Action.KEY_REVOKED, "key_1", actor="cli", at=NOW)
            raise LookupError("taken back")

    with pytest.raises(LookupError, match="taken back"):
        change()

    assert targets(actions=[Action.KEY_REVOKED]) == []


def test_a_new_database_begins_with_its_migration(log):
    first = Audit.get()

    assert (first.actor, first.action, first.target) == (f"serve:{ME}", "db.migrated", "gateway.db")
    assert audit.as_json(first)["details"]["applied"][-1] == "0007_breakers"


def test_an_older_database_keeps_its_rows_and_tells_of_its_migration(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for script in sorted(MIGRATIONS.glob("[0-9]*.py"))[:3]:
        (old / script.name).write_text(script.read_text())
    path = tmp_path / "gateway.db"
    with closing(SqliteDatabase(str(path))) as database:
        Runner(database, str(old), "schema_migration").up()
        database.execute_sql("INSERT INTO tenant (public_id, name, created_at) VALUES ('', 'a', 0)")

    migrate(path, actor="cli")

    database = open_database(path)
    (row,) = audit.newest_first()
    assert audit.as_json(row)["details"]["applied"][0] == "0004_audit"
    assert (row.actor, Tenant.get().name) == (f"cli:{ME}", "a")
    database.close()


def test_rows_come_newest_first_and_by_what_is_asked(log):
    with transaction():
        tenant = Tenant.create(public_id="tnt_1", name="acme", created_at=NOW)
    record(Action.TENANT_CREATED, "tnt_1", tenant_id=tenant.id)
    record(Action.KEY_CREATED, "key_1", tenant_id=tenant.id, at=NOW + timedelta(hours=1))
    record(Action.KEY_REVOKED, "key_1x", actor="key_1", at=NOW + timedelta(hours=2))
    record(Action.KEY_REVOKED, "key_2", actor="key_10", at=NOW + timedelta(hours=3))
    hour = clock.to_ms(NOW + timedelta(hours=1))

    assert targets() == ["key_2", "key_1x", "key_1", "tnt_1", "gateway.db"]
    assert targets(actor="cli") == targets(actor=f"cli:{ME}") == ["key_1", "tnt_1"]
    assert targets(actor="key_1") == ["key_1x"]
    assert targets(actor="%") == targets(actor="cl") == []
    assert targets(actions=[Action.KEY_REVOKED]) == ["key_2", "key_1x"]
    assert targets(tenant_id=tenant.id) == ["key_1", "tnt_1"]
    assert targets(since_ms=hour, before_ms=hour + 1) == ["key_1"]
    shown = [audit.as_json(row)["tenant"] for row in audit.newest_first()]
    assert shown == [None, None, "tnt_1", "tnt_1", None]
