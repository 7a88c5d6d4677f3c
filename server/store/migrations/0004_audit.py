"""Who changed what. Frozen."""

from typing import Any

from peewee import SqliteDatabase

STATEMENTS = (
    """
    CREATE TABLE audit (
        id INTEGER NOT NULL PRIMARY KEY,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        tenant_id INTEGER REFERENCES tenant (id),
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        details TEXT NOT NULL
    )
    """,
    *(
        f"""
        CREATE TRIGGER audit_forbids_{change} BEFORE {change} ON audit
        BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END
        """
        for change in ("update", "delete")
    ),
    # INSERT OR REPLACE deletes the row that is in its way without asking the trigger above.
    """
    CREATE TRIGGER audit_forbids_replace BEFORE INSERT ON audit
    WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
    BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END
    """,
)


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Make the table of changes; what was done before it is not in it."""
    for statement in STATEMENTS:
        database.execute_sql(statement)
