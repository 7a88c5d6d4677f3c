"""Prewritten SQL, straight on this thread's connection: the hot path's way to the database."""

import sqlite3
from collections.abc import Mapping, Sequence

from server.store.models import database


def execute(sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> sqlite3.Cursor:
    """Run one statement inside the caller's transaction.

    peewee's own `execute_sql` takes three times as long, 2 µs for each of a request's seven
    statements. What fails raises sqlite3's errors, which the store understands as it does
    peewee's.
    """
    connection: sqlite3.Connection = database.connection()
    return connection.execute(sql, values)
