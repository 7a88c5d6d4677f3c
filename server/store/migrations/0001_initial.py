"""Instances, tenants, keys and requests. Frozen: it never follows later changes of the models."""

from typing import Any

from peewee import SqliteDatabase

STATEMENTS = (
    """
    CREATE TABLE instance (
        id INTEGER NOT NULL PRIMARY KEY,
        pid INTEGER NOT NULL,
        host TEXT NOT NULL,
        version TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        stopped_at INTEGER
    )
    """,
    """
    CREATE TABLE tenant (
        id INTEGER NOT NULL PRIMARY KEY,
        public_id TEXT NOT NULL,
        name TEXT NOT NULL,
        created_at INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX tenant_public_id ON tenant (public_id)",
    "CREATE UNIQUE INDEX tenant_name ON tenant (name)",
    """
    CREATE TABLE key (
        id INTEGER NOT NULL PRIMARY KEY,
        public_id TEXT NOT NULL,
        tenant_id INTEGER NOT NULL REFERENCES tenant (id),
        name TEXT NOT NULL,
        member TEXT,
        billing TEXT NOT NULL,
        scope TEXT NOT NULL,
        secret_sha256 TEXT NOT NULL,
        prefix TEXT NOT NULL,
        last4 TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        expires_at INTEGER,
        last_used_at INTEGER,
        revoked_at INTEGER
    )
    """,
    "CREATE UNIQUE INDEX key_public_id ON key (public_id)",
    "CREATE INDEX key_tenant_id ON key (tenant_id)",
    "CREATE UNIQUE INDEX key_secret_sha256 ON key (secret_sha256)",
    """
    CREATE TABLE request (
        id INTEGER NOT NULL PRIMARY KEY,
        request_id TEXT NOT NULL,
        state TEXT NOT NULL,
        instance_id INTEGER NOT NULL REFERENCES instance (id),
        tenant_id INTEGER NOT NULL REFERENCES tenant (id),
        key_id INTEGER NOT NULL REFERENCES key (id),
        member TEXT,
        tool TEXT,
        session TEXT,
        agent TEXT,
        protocol TEXT NOT NULL,
        stream INTEGER NOT NULL,
        requested_model TEXT NOT NULL,
        model TEXT NOT NULL,
        upstream TEXT NOT NULL,
        upstream_model TEXT NOT NULL,
        upstream_request_id TEXT,
        started_at INTEGER NOT NULL,
        first_byte_ms INTEGER,
        duration_ms INTEGER,
        status INTEGER,
        outcome TEXT,
        error TEXT,
        stop_reason TEXT,
        input_tokens INTEGER NOT NULL,
        cache_read_input_tokens INTEGER NOT NULL,
        cache_write_5m_tokens INTEGER NOT NULL,
        cache_write_1h_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX request_request_id ON request (request_id)",
    "CREATE INDEX request_tenant_id_started_at ON request (tenant_id, started_at)",
    "CREATE INDEX request_key_id_started_at ON request (key_id, started_at)",
    "CREATE INDEX request_open ON request (instance_id) WHERE state = 'open'",
)


def up(_migrator: Any, database: SqliteDatabase) -> None:
    """Make every table and index of the first release."""
    for statement in STATEMENTS:
        database.execute_sql(statement)
