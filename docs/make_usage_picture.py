"""Draw docs/usage.svg, what `gatewayctl usage` shows: `python docs/make_usage_picture.py`.

A small team's week, made up but always the same, in a database that is gone afterwards.
"""

import io
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console

from gatewayctl.commands.usage import names_of_keys, table_for_people
from gatewayctl.output import rich_table
from server.billing.pricing import cost_micros
from server.billing.rates import Price, Rates, Tokens
from server.store import instances
from server.store.db import open_database, transaction
from server.store.migrate import migrate
from server.store.models import Key, Request
from server.tenants import tenants
from server.usage.report import By, report

TARGET = Path(__file__).with_name("usage.svg")
COLUMNS = 120

_FIRST, _LAST = date(2026, 11, 16), date(2026, 11, 22)
_MONDAY = datetime(2026, 11, 16, 8, tzinfo=UTC)
_SESSIONS_A_DAY = (9, 12, 8, 14, 11, 2, 1)
# A key's name, its id and its member.
_KEYS = (
    ("ada", "key_exampleQm4xTa", "ada"),
    ("grace", "key_example8WvRc2", "grace"),
    ("linus-pc", "key_exampleZp5LeK", "linus"),
    ("nightly", "key_examplet3HnUd", None),
)
# Micros per million tokens.
_PRICES = {
    "smart": Price(0, "smart", Rates(4_000_000, 20_000_000, 200_000, 5_000_000, 8_000_000)),
    "fast": Price(0, "fast", Rates(750_000, 4_500_000, 75_000, 750_000, 750_000)),
}
_UPSTREAM_MODELS = {"smart": "claude-opus-5-5", "fast": "claude-haiku-4-5"}
# Who works with what: the number of the key, and the tool (None: a generic route).
_DESKS = ((0, "claudecode"), (1, "claudecode"), (0, "cline"), (2, "roocode"), (3, None))


def render() -> str:
    """Give the picture as SVG."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.db"
        migrate(path)
        database = open_database(path)
        try:
            with transaction():
                tenant_id = _work_for_a_week()
            reports = [report(by, _FIRST, _LAST, ZoneInfo("UTC"), tenant_id) for by in By]
            table = rich_table(table_for_people(reports, names_of_keys(tenant_id)))
        finally:
            database.close()
    screen = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, _environ={}
    )
    screen.print(table)
    picture = screen.export_svg(title="gatewayctl usage --since 7d", unique_id="usage")
    # Without the web fonts that rich names: a picture calls nobody.
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in picture.splitlines()) + "\n"


def _work_for_a_week() -> int:
    tenant = tenants.ensure_default(_MONDAY)
    made = [_key(tenant.id, *each) for each in _KEYS]
    shared = {
        "instance": instances.begin(1, "example", "0", _MONDAY),
        "tenant": tenant,
        "state": "settled",
        "outcome": "completed",
        "protocol": "anthropic",
        "stream": True,
        "requested_model": "auto",
        "upstream": "anthropic",
        "status": 200,
    }
    rows = [shared | row | {"key": made[row["key"]]} for row in _requests()]
    Request.insert_many(rows).execute()
    return int(tenant.id)


def _key(tenant_id: int, name: str, public_id: str, member: str | None) -> Key:
    made: Key = Key.create(
        public_id=public_id,
        tenant=tenant_id,
        name=name,
        member=member,
        billing="pay_per_token",
        scope="inference",
        secret_sha256=public_id,
        prefix="gwk_demo",
        last4="demo",
        created_at=_MONDAY,
        created_by="cli",
    )
    return made


def _requests() -> Iterator[dict[str, Any]]:
    """Sessions of several turns: each turn reads the cache that the one before has written."""
    numbers = count(1)
    for day, sessions in enumerate(_SESSIONS_A_DAY):
        for session in range(sessions):
            key, tool = _DESKS[(day + session) % len(_DESKS)]
            cached = 0
            for turn in range(4 + (5 * session + day) % 9):
                number = next(numbers)
                written = 15_000 if turn == 0 else 700 + 130 * (number % 11)
                tokens = Tokens(
                    input=40 + 13 * (number % 17),
                    cache_read=cached,
                    cache_write_5m=written,
                    output=180 + 61 * (number % 13),
                )
                model = "fast" if session % 4 == 3 else "smart"
                yield {
                    "request_id": f"req_{number}",
                    "key": key,
                    "member": _KEYS[key][2],
                    "tool": tool,
                    "model": model,
                    "upstream_model": _UPSTREAM_MODELS[model],
                    "started_at": _MONDAY + timedelta(days=day, minutes=31 * session + turn),
                    "input_tokens": tokens.input,
                    "cache_read_input_tokens": tokens.cache_read,
                    "cache_write_5m_tokens": tokens.cache_write_5m,
                    "output_tokens": tokens.output,
                    "cost_micros": cost_micros(_PRICES[model], tokens),
                }
                cached += written


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
