"""The one way to change the database: BEGIN IMMEDIATE … COMMIT."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from peewee import SqliteDatabase


@contextmanager
def immediate(database: SqliteDatabase) -> Iterator[sqlite3.Connection]:
    """Run the block in one write transaction on this thread's connection, which it yields.

    The write lock is taken at the start: a deferred transaction that reads first and writes
    later fails at once with SQLITE_BUSY_SNAPSHOT, whatever the busy timeout.
    peewee knows of the transaction, so its own `atomic()` inside becomes a savepoint.
    """
    database.connect(reuse_if_open=True)
    connection: sqlite3.Connection = database.connection()
    database.begin("IMMEDIATE")
    database.push_transaction(database.transaction())
    try:
        yield connection
        database.commit()
    finally:
        database.pop_transaction()
        # SQLite itself drops a transaction on some I/O errors; a ROLLBACK would then fail and
        # hide the reason.
        if connection.in_transaction:
            database.rollback()
