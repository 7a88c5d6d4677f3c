"""What a key may use, and what keys with a monthly cap have come to. Frozen."""

from typing import Any

from peewee import SqliteDatabase

STATEMENTS = (
    "ALTER TABLE key ADD COLUMN limits TEXT",
    "ALTER TABLE key ADD COLUMN limits_key_id INTEGER REFERENCES key (id)",
    "CREATE INDEX key_limits_key_id ON key (limits_key_id)",
    "ALTER TABLE request ADD COLUMN spend_month TEXT",
    """
    CREATE TABLE spend (
        key_id INTEGER NOT NULL REFERENCES key (id),
        month TEXT NOT NULL,
        charged_micros INTEGER NOT NULL,
        held_micros INTEGER NOT NULL CHECK (held_micros >= 0),
        PRIMARY KEY (key_id, month)
    ) WITHOUT ROWID
    """,
)


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Let keys have limits; those that are there have none."""
    for statement in STATEMENTS:
        database.execute_sql(statement)
