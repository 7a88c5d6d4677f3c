"""What keys with a monthly cap have come to, kept beside the request rows that it is the sum of.

There are rows only for a key that has a cap, one for each month in which it was used since; each
is made from the request rows of its month, so it does not matter when the cap was set. Requests
count in the month (UTC) in which they began. All run inside the caller's transaction.
"""

from datetime import UTC, datetime

from server import clock
from server.store.statements import execute


def month_of(moment: datetime) -> str:
    """Name the month of an aware UTC moment: `2026-11`."""
    return f"{moment:%Y-%m}"


def end_of(month: str) -> datetime:
    """Give the moment at which the next month begins."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)


def derive(head_id: int, month: str) -> tuple[int, int]:
    """Sum up what the requests of a month were charged and hold, of all keys that share a cap."""
    begin = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    values = (head_id, head_id, clock.to_ms(begin), clock.to_ms(end_of(month)))
    charged, held = execute(_DERIVE, values).fetchone()
    return charged, held


def kept(head_id: int, month: str) -> tuple[int, int]:
    """Give what was charged and is held in a month; make its row where there is none yet."""
    row = execute(_KEPT, (head_id, month)).fetchone()
    if row is None:
        row = derive(head_id, month)
        execute(_INSERT, (head_id, month, *row))
    return row[0], row[1]


def begin(head_id: int, now: datetime) -> None:
    """Count from now on what the keys of `head_id` come to; they were given a cap.

    What runs already counts too, in the month that it began in.
    """
    kept(head_id, month_of(now))
    execute(_MARK, (head_id, head_id))


def end(head_id: int) -> None:
    """Count no more: the cap is gone, and with it every row; another cap makes them again."""
    execute(_UNMARK, (head_id, head_id))
    execute(_DELETE, (head_id,))


def move(head_id: int, heir_id: int) -> None:
    """Let another key have what was counted, with the limits that it takes over."""
    execute(_MOVE, (heir_id, head_id))


_FAMILY = '(SELECT id FROM "key" WHERE id = ? OR limits_key_id = ?)'
_DERIVE = f"""
SELECT COALESCE(SUM(cost_micros), 0),
    COALESCE(SUM(CASE state WHEN 'open' THEN held_micros END), 0)
FROM request WHERE key_id IN {_FAMILY} AND started_at >= ? AND started_at < ?
"""  # noqa: S608 - our own fragments
_KEPT = "SELECT charged_micros, held_micros FROM spend WHERE key_id = ? AND month = ?"
_INSERT = "INSERT INTO spend (key_id, month, charged_micros, held_micros) VALUES (?, ?, ?, ?)"
# The plus sign keeps SQLite off the index over keys, which leads to every row a key has.
_OPEN = f"state = 'open' AND billing = 'pay_per_token' AND +key_id IN {_FAMILY}"
_MARK = f"""
UPDATE request SET spend_month = strftime('%Y-%m', started_at / 1000, 'unixepoch') WHERE {_OPEN}
"""  # noqa: S608 - our own fragments
_UNMARK = f"UPDATE request SET spend_month = NULL WHERE {_OPEN}"  # noqa: S608 - likewise
_DELETE = "DELETE FROM spend WHERE key_id = ?"
_MOVE = "UPDATE spend SET key_id = ? WHERE key_id = ?"
