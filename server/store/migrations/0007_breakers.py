"""Which targets and keys of providers are held off. Frozen."""

from typing import Any

from peewee import SqliteDatabase

BREAKER = """
    CREATE TABLE breaker (
        upstream TEXT NOT NULL,
        model TEXT NOT NULL,
        key INTEGER NOT NULL,
        state TEXT NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER,
        reason TEXT NOT NULL,
        instance_id INTEGER NOT NULL REFERENCES instance (id),
        PRIMARY KEY (upstream, model, key)
    ) WITHOUT ROWID
"""


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Let a server tell other processes what it does not ask just now; nothing is known yet."""
    database.execute_sql(BREAKER)
