"""Prices, the ledger, subscriptions, and what a request holds and costs. Frozen."""

from typing import Any

from peewee import SqliteDatabase

STATEMENTS = (
    """
    CREATE TABLE price (
        id INTEGER NOT NULL PRIMARY KEY,
        model TEXT NOT NULL,
        input INTEGER NOT NULL,
        output INTEGER NOT NULL,
        cache_read INTEGER NOT NULL,
        cache_write_5m INTEGER NOT NULL,
        cache_write_1h INTEGER NOT NULL,
        long_above_tokens INTEGER,
        long_input INTEGER,
        long_output INTEGER,
        long_cache_read INTEGER,
        long_cache_write_5m INTEGER,
        long_cache_write_1h INTEGER,
        extras TEXT,
        created_at INTEGER NOT NULL
    )
    """,
    "CREATE INDEX price_model ON price (model)",
    # The ledger is read tenant by tenant in its own order, so that order is how it is stored.
    """
    CREATE TABLE entry (
        tenant_id INTEGER NOT NULL REFERENCES tenant (id),
        seq INTEGER NOT NULL,
        kind TEXT NOT NULL,
        ref TEXT NOT NULL,
        amount_micros INTEGER NOT NULL,
        balance_after_micros INTEGER NOT NULL,
        at INTEGER NOT NULL,
        price_id INTEGER REFERENCES price (id),
        input_tokens INTEGER,
        cache_read_input_tokens INTEGER,
        cache_write_5m_tokens INTEGER,
        cache_write_1h_tokens INTEGER,
        output_tokens INTEGER,
        extras TEXT,
        created_by TEXT,
        reason TEXT,
        hash BLOB NOT NULL,
        PRIMARY KEY (tenant_id, seq)
    ) WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX entry_kind_ref ON entry (kind, ref)",
    """
    CREATE TABLE subscription (
        tenant_id INTEGER NOT NULL PRIMARY KEY REFERENCES tenant (id),
        tier TEXT NOT NULL,
        status TEXT NOT NULL,
        source TEXT NOT NULL,
        stripe_id TEXT,
        current_period_end INTEGER,
        cancel_at INTEGER,
        grace_until INTEGER,
        quota_window INTEGER NOT NULL,
        window_started_at INTEGER,
        used_tokens INTEGER NOT NULL,
        held_tokens INTEGER NOT NULL,
        used_requests INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX subscription_stripe_id ON subscription (stripe_id)",
    "ALTER TABLE tenant ADD COLUMN balance_micros INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tenant ADD COLUMN held_micros INTEGER NOT NULL DEFAULT 0 CHECK (held_micros >= 0)",
    "ALTER TABLE request ADD COLUMN billing TEXT NOT NULL DEFAULT 'pay_per_token'",
    "ALTER TABLE request ADD COLUMN price_id INTEGER REFERENCES price (id)",
    "ALTER TABLE request ADD COLUMN held_micros INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE request ADD COLUMN cost_micros INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE request ADD COLUMN quota_window INTEGER",
    "ALTER TABLE request ADD COLUMN held_tokens INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE request ADD COLUMN quota_tokens INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE request ADD COLUMN extras TEXT",
    "ALTER TABLE request ADD COLUMN anomaly TEXT",
    *(
        f"""
        CREATE TRIGGER {table}_forbids_{change} BEFORE {change} ON {table}
        BEGIN SELECT RAISE(ABORT, '{table} rows are never changed'); END
        """
        for table in ("entry", "price")
        for change in ("update", "delete")
    ),
)


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Make the tables of money; rows that are there keep costing nothing."""
    for statement in STATEMENTS:
        database.execute_sql(statement)
