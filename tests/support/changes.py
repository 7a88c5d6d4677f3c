"""What the audit log has to tell of: the columns that somebody's decision changes."""

import sqlite3
from contextlib import closing

# Each row: a table, its columns that count, and which of its rows do. The rest moves by itself:
# what is used, held and charged, when a key was last seen, how far a payment is at Stripe.
KEY_COLUMNS = (
    "public_id, name, member, billing, scope, secret_sha256, expires_at, revoked_at, limits,"
    " limits_key_id"
)
WATCHED = {
    "tenant": ("public_id, name, stripe_customer_id", ""),
    "key": (KEY_COLUMNS, ""),
    "price": ("*", ""),
    "entry": ("tenant_id, seq, kind, ref, amount_micros, reason", "WHERE kind != 'charge'"),
    "subscription": ("tenant_id, tier, status, source, stripe_id, cancel_at, grace_until", ""),
    "topup": ("public_id, tenant_id, amount_cents", ""),
    "checkout": ("public_id, tenant_id, tier", ""),
    "schema_migration": ("name", ""),
}
BY_ITSELF = {
    *("instance", "breaker", "request", "spend", "payment", "stripe_event", "stripe_cursor"),
    "audit",
}

# Each row: what is made once and never again, and the rows of the log that tell of it.
MADE_ONCE = (
    ("SELECT public_id FROM tenant", "tenant.created"),
    ("SELECT public_id FROM key", "key.created"),
    ("SELECT ref FROM entry WHERE kind = 'grant'", "credits.granted"),
    ("SELECT ref FROM entry WHERE kind = 'adjustment'", "credits.adjusted"),
    ("SELECT ref FROM entry WHERE kind = 'topup'", "stripe.topup"),
    ("SELECT ref FROM entry WHERE kind = 'refund'", "stripe.refund"),
    ("SELECT ref FROM entry WHERE kind = 'dispute'", "stripe.dispute"),
    ("SELECT public_id FROM topup", "topup.opened"),
    ("SELECT public_id FROM checkout", "checkout.opened"),
    ("SELECT model FROM price", "price.set"),
)


def _rows(path, sql, *values):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def watched(path):
    """Read all that counts; nothing where there is no database yet."""
    if not path.exists():
        return {}
    tables = {name for (name,) in _rows(path, "SELECT name FROM sqlite_master WHERE type='table'")}
    assert tables == WATCHED.keys() | BY_ITSELF, "say of a new table whether a decision changes it"
    return {
        table: sorted(_rows(path, f"SELECT {columns} FROM {table} {where}"), key=repr)
        for table, (columns, where) in WATCHED.items()
    }


def audited(path, since=0):
    """Read the log's rows after number `since`, oldest first."""
    if not path.exists():
        return []
    sql = "SELECT id, actor, action, target, details FROM audit WHERE id > ? ORDER BY id"
    return _rows(path, sql, since)


def check_told(path):
    """Hold the log to the tables: what was made is told exactly once, and no secret with it."""
    for made, action in MADE_ONCE:
        there = sorted(_rows(path, made))
        told = sorted(_rows(path, "SELECT target FROM audit WHERE action = ?", action))
        assert told == there, action
    ended = _rows(path, "SELECT public_id FROM key WHERE revoked_at IS NOT NULL")
    told = _rows(path, "SELECT target FROM audit WHERE action IN ('key.revoked', 'key.rotated')")
    assert set(ended) <= set(told)

    text = repr(audited(path))
    hashes = [digest for (digest,) in _rows(path, "SELECT secret_sha256 FROM key")]
    assert "gwk_" not in text
    assert not [digest for digest in hashes if digest in text]
