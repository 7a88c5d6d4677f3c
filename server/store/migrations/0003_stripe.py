"""What was asked of Stripe, what it told, and what of it the ledger has. Frozen."""

from typing import Any

from peewee import SqliteDatabase

_SESSION = """
        id INTEGER NOT NULL PRIMARY KEY,
        public_id TEXT NOT NULL,
        tenant_id INTEGER NOT NULL REFERENCES tenant (id),
        state TEXT NOT NULL,
        params TEXT NOT NULL,
        session_id TEXT,
        url TEXT,
        expires_at INTEGER NOT NULL,
        checked_at INTEGER,
        problem TEXT,
        created_at INTEGER NOT NULL
"""

STATEMENTS = (
    f"CREATE TABLE topup ({_SESSION}, amount_cents INTEGER NOT NULL)",
    f"CREATE TABLE checkout ({_SESSION}, tier TEXT NOT NULL)",
    *(
        f"CREATE {kind} INDEX {table}_{column} ON {table} ({column})"
        for table in ("topup", "checkout")
        for kind, column in (
            ("UNIQUE", "public_id"),
            ("", "tenant_id"),
            ("UNIQUE", "session_id"),
        )
    ),
    """
    CREATE TABLE payment (
        ref TEXT NOT NULL PRIMARY KEY,
        topup_id INTEGER NOT NULL REFERENCES topup (id),
        credited_micros INTEGER NOT NULL,
        refunded_micros INTEGER NOT NULL,
        disputed_micros INTEGER NOT NULL,
        version INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX payment_topup_id ON payment (topup_id)",
    """
    CREATE TABLE stripe_event (
        id TEXT NOT NULL PRIMARY KEY,
        type TEXT NOT NULL,
        object TEXT,
        object_id TEXT,
        state TEXT NOT NULL,
        reason TEXT,
        attempts INTEGER NOT NULL,
        try_at INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        received_at INTEGER NOT NULL
    )
    """,
    "CREATE INDEX stripe_event_state_try_at ON stripe_event (state, try_at)",
    """
    CREATE TABLE stripe_cursor (
        id INTEGER NOT NULL PRIMARY KEY,
        events_at INTEGER,
        customers_at INTEGER
    )
    """,
    "ALTER TABLE tenant ADD COLUMN stripe_customer_id TEXT",
    "ALTER TABLE tenant ADD COLUMN stripe_customers_gone INTEGER NOT NULL DEFAULT 0",
    "CREATE UNIQUE INDEX tenant_stripe_customer_id ON tenant (stripe_customer_id)",
)


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Make the tables of what passes between us and Stripe."""
    for statement in STATEMENTS:
        database.execute_sql(statement)
