"""Which providers a request tried before it was served. Frozen."""

from typing import Any

from peewee import SqliteDatabase


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Let a request tell its attempts; one that was served at the first has none to tell."""
    database.execute_sql("ALTER TABLE request ADD COLUMN attempts TEXT")
