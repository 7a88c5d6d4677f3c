import sqlite3
from contextlib import closing

import peewee
import pytest

from server.store import models
from server.store.lock import ServeLock
from server.store.migrate import MIGRATIONS, SchemaState, check, migrate
from server.store.problems import LockHeld, SchemaTooNew, StoreError, UnusableDatabase

ALL = [
    *("0001_initial", "0002_money", "0003_stripe", "0004_audit", "0005_limits", "0006_attempts"),
    "0007_breakers",
]
SECOND = "def up(migrator, db):\n    db.execute_sql('ALTER TABLE tenant ADD COLUMN note TEXT')\n"
BROKEN = SECOND + "    db.execute_sql('DROP TABLE nowhere')\n"
ORPHAN = (
    "def up(migrator, db):\n    db.execute_sql('DELETE FROM tenant')\n"
    "    db.execute_sql('CREATE TABLE new (a)')\n"
)


def schema_of(path):
    """Every table as SQLite sees it: columns, references, and indexes with their columns."""
    with closing(sqlite3.connect(path)) as connection:

        def rows(sql):
            return connection.execute(sql).fetchall()

        tables = rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {
            table: {
                # Without defaults: SQLite wants one for a column that is added later.
                "columns": [row[:4] + row[5:] for row in rows(f"PRAGMA table_xinfo({table})")],
                "references": sorted(row[2:] for row in rows(f"PRAGMA foreign_key_list({table})")),
                "indexes": {
                    name: (unique, partial, rows(f"PRAGMA index_xinfo({name})"))
                    for _, name, unique, _, partial in rows(f"PRAGMA index_list({table})")
                },
            }
            for (table,) in tables
            if table != "schema_migration"
        }


@pytest.fixture
def scripts(tmp_path):
    """A folder with this release's migrations, to which a test adds later ones."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for script in MIGRATIONS.glob("[0-9]*.py"):
        (folder / script.name).write_text(script.read_text())
    return folder


def add_key_of_a_tenant(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO tenant (id, public_id, name, created_at) VALUES (1, 'tnt_1', 'acme', 0)"
        )
        connection.execute(
            "INSERT INTO key (public_id, tenant_id, name, billing, scope, secret_sha256, prefix,"
            " last4, created_at, created_by) VALUES ('key_1', 1, 'ci', 'b', 's', '', '', '', 0, '')"
        )


def test_the_migrations_make_the_schema_of_the_models(path, tmp_path):
    from_models = tmp_path / "models.db"
    database = peewee.SqliteDatabase(str(from_models))
    with database.bind_ctx(models.TABLES):
        database.create_tables(models.TABLES)
    database.close()

    assert schema_of(path) == schema_of(from_models)


def test_a_new_database_is_current_private_and_in_a_private_folder(tmp_path):
    path = tmp_path / "data" / "gateway.db"

    assert check(path) is SchemaState.MISSING
    assert migrate(path) == ALL
    assert check(path) is SchemaState.CURRENT
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(file.name for file in path.parent.iterdir()) == ["gateway.db", "gateway.db.lock"]


def test_migrating_twice_changes_nothing(path):
    before = path.read_bytes()

    assert migrate(path) == []

    assert path.read_bytes() == before
    assert not (path.parent / "backups").exists()


def test_pending_migrations_are_applied_after_a_private_backup(path, scripts):
    before = schema_of(path)
    (scripts / "0902_note.py").write_text(SECOND)

    assert check(path, migrations=scripts) is SchemaState.OLDER
    assert migrate(path, migrations=scripts) == ["0902_note"]

    assert check(path, migrations=scripts) is SchemaState.CURRENT
    assert schema_of(path) != before
    (backup,) = (path.parent / "backups").iterdir()
    assert schema_of(backup) == before
    assert backup.name.startswith("gateway-2")
    assert (backup.stat().st_mode & 0o777, backup.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_failing_migration_takes_those_before_it_back(path, scripts):
    before = schema_of(path)
    (scripts / "0902_note.py").write_text(SECOND.replace("note", "first"))
    (scripts / "0903_broken.py").write_text(BROKEN)

    with pytest.raises(StoreError, match="no such table: nowhere"):
        migrate(path, migrations=scripts)

    assert schema_of(path) == before
    assert check(path) is SchemaState.CURRENT


def test_a_migration_that_orphans_rows_is_taken_back(path, scripts):
    add_key_of_a_tenant(path)
    before = schema_of(path)
    (scripts / "0902_orphan.py").write_text(ORPHAN)

    with pytest.raises(StoreError, match="refers to one that is gone"):
        migrate(path, migrations=scripts)

    assert schema_of(path) == before


def test_a_new_database_that_cannot_be_made_leaves_no_file(tmp_path, scripts):
    path = tmp_path / "data" / "gateway.db"
    (scripts / "0902_broken.py").write_text(BROKEN)

    with pytest.raises(StoreError, match="could not be migrated"):
        migrate(path, migrations=scripts)

    assert [file.name for file in path.parent.iterdir()] == ["gateway.db.lock"]


def test_a_backup_that_fails_stops_the_migration(path, scripts):
    before = schema_of(path)
    (scripts / "0902_note.py").write_text(SECOND)
    (path.parent / "backups").write_text("a file where the folder should be")

    with pytest.raises(StoreError, match="could not be backed up"):
        migrate(path, migrations=scripts)

    assert schema_of(path) == before


def test_a_newer_schema_is_left_alone(path, scripts):
    (scripts / "0902_note.py").write_text(SECOND)
    migrate(path, migrations=scripts)
    before = path.read_bytes()

    assert check(path) is SchemaState.NEWER
    with pytest.raises(SchemaTooNew, match="newer release"):
        migrate(path)

    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    path = tmp_path / "gateway.db"
    path.write_bytes(b"these are not the bytes " * 50)

    with pytest.raises(UnusableDatabase, match="restore it from a backup"):
        migrate(path)

    assert path.read_bytes() == b"these are not the bytes " * 50


def test_a_file_that_sqlite_refuses_is_not_said_to_be_unreadable(tmp_path):
    """The reason may be that SQLite would write beside it."""
    with pytest.raises(StoreError, match=r"cannot be used: unable to open database file\.$"):
        check(tmp_path)


def test_an_empty_file_becomes_a_database(tmp_path):
    path = tmp_path / "gateway.db"
    path.touch()

    assert check(path) is SchemaState.OLDER
    assert migrate(path) == ALL


def test_nothing_is_migrated_while_the_server_runs(path):
    with ServeLock(path), pytest.raises(LockHeld, match="stop it first"):
        migrate(path)
