"""What must be true when a chaos run is over and all is quiet; each check tells what it means."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from support.chaos_clients import Got
from support.chaos_house import DOLLAR, GRANT, POOR_MICROS, House
from support.chaos_schedule import BILLING
from support.faults import FREE, KEY, UNCOUNTED
from support.priced import CLASSES, check_books, table

MIB = 1024 * 1024
MOST_PEAK_BYTES = 400 * MIB
STATUSES = {200, 400, 401, 402, 403, 413, 429, 502, 503, 504, 529}
OUTCOMES = {"completed", "cut", "cancelled", "interrupted", "upstream_error"}
ALARMS = ("Traceback", "a pump failed", "settlement was lost", " CRITICAL ", "are not looked at")
INPUT_MOST = 4  # times what the provider counts, and 64: so much may an estimate of it be off


def prove_all(house: House) -> list[dict[str, Any]]:
    """Compare books, clients, journal and log of a gateway that has ended; give the rows."""
    rows = check_books(house.folder)
    by_id = {row["request_id"]: row for row in rows}
    for got in house.got:
        _check_got(got, by_id, house)
    prove_rows(rows, read_journal(house.folder))
    _check_money(rows, house)
    _check_log(house)
    assert house.peak_bytes < MOST_PEAK_BYTES, house.peak_bytes / MIB
    return rows


def read_journal(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Read the upstream's own log: how each try of each request ended."""
    ended = defaultdict(list)
    for line in (folder / "journal").read_text().splitlines():
        entry = json.loads(line)
        if entry["line"] == "ended":
            ended[entry["request_id"]].append(entry)
    return ended


# clients


def _check_got(got: Got, by_id: dict[str, dict[str, Any]], house: House) -> None:
    """Check that a client was told the truth, and that what it was told is in the books."""
    assert got.status in STATUSES | {None}, got
    if got.status is None or not got.is_whole:
        assert got.has_left or _was_away(got, house), got
    row = by_id.get(got.request_id)
    if got.status == 200:
        assert row is not None, got
    if got.is_good:
        assert row["outcome"] in ("completed", "cut"), (got, row)
        assert not got.has_bad_end, got
    elif got.is_whole and got.is_event_stream:
        assert got.has_bad_end, got
        assert row["outcome"] != "completed", (got, row)
    revoked_at = house.revoked_at.get(got.ask.key)
    if revoked_at is not None and got.begun > revoked_at:
        assert row is None, got
        assert got.status in (401, None) or _was_away(got, house), got
    if got.ask.key == "unknown":
        assert row is None, got
        assert got.status in (401, None) or _was_away(got, house), got


def _was_away(got: Got, house: House) -> bool:
    return any(got.begun < up and down < got.ended for down, up in house.away)


# rows


def prove_rows(rows: list[dict[str, Any]], ended: dict[str, list[dict[str, Any]]]) -> None:
    """Compare the rows with what the upstream says it served."""
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert set(ended) <= {row["request_id"] for row in rows}
    for row in rows:
        assert row["outcome"] in OUTCOMES, row
        _check_row(row, ended.get(row["request_id"], []))


def _check_row(row: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    spent = row["cost_micros"] + row["quota_tokens"]
    tokens = {each: row[each] for each in CLASSES}
    fault = row["upstream_model"].removeprefix("fault:").split(":")[0]
    assert (spent > 0) == any(tokens.values()), row
    if row["outcome"] == "completed":
        assert calls, row
        if not row["estimated"]:
            _check_exact(tokens, fault, row, calls)
            return
        assert fault in UNCOUNTED, row
    if row["outcome"] == "interrupted":  # nobody knows what the upstream takes for it
        assert row["estimated"], row
        assert _input_of(tokens) > 0, row
    if not calls:  # it was stopped before it left, or the connection was
        assert row["outcome"] in ("cancelled", "interrupted", "upstream_error"), row
        return
    _check_bounds(tokens, fault, row, calls)


def _check_exact(tokens, fault, row, calls) -> None:
    """What completed is charged as the provider counted it, to the token."""
    reported = [call["usage"] for call in calls if call["usage"] is not None]
    if fault == "weird-usage" or (fault == "short-length" and not reported):
        return  # the journal tells other numbers than were sent, or none
    assert tokens in [{each: usage[each] for each in CLASSES} for usage in reported], (row, calls)


def _check_bounds(tokens, fault, row, calls) -> None:
    """What did not come to its end costs something, and not more than could have been served."""
    if row["outcome"] == "upstream_error" and fault in FREE:
        assert not any(tokens.values()), (row, calls)
        return
    # A reset takes away what was sent and not yet read.
    # Between two attempts, the last of which failed, a client leaves for nothing.
    tried = json.loads(row["attempts"] or "[]")
    was_between = row["outcome"] == "cancelled" and bool(tried) and "error" in tried[-1]
    is_unseen = row["first_byte_ms"] is None and (row["outcome"] == "upstream_error" or was_between)
    is_refused = fault in FREE | {"error-first"} or is_unseen
    if any(call["status"] == 200 for call in calls) and not is_refused:
        assert _input_of(tokens) > 0, (row, calls)
    most = max(max(8 * call["events"], call["bytes"] // 4) for call in calls) + 80
    assert tokens["output_tokens"] <= most, (row, calls)
    counted = [_input_of(call["usage"]) for call in calls if call["usage"]]
    if counted and fault not in UNCOUNTED:
        assert _input_of(tokens) <= INPUT_MOST * max(counted) + 64, (row, calls)


def _input_of(counts: dict[str, int]) -> int:
    return sum(counts[each] for each in CLASSES if each != "output_tokens")


# money, and what is written elsewhere


def _check_money(rows: list[dict[str, Any]], house: House) -> None:
    """Nothing but grants and charges has moved a balance, each of them once."""
    owners = {each["id"]: each for each in table(house.folder, "SELECT * FROM tenant")}
    given = {"default": 1000 * DOLLAR, "poor": POOR_MICROS + house.grants * _micros(GRANT)}
    for owner in owners.values():
        own = [row for row in rows if row["tenant_id"] == owner["id"]]
        spent = sum(row["cost_micros"] for row in own)
        assert owner["balance_micros"] == given[owner["name"]] - spent, owner
        # What exceeds a hold is charged in truth, and nothing else takes a balance below zero.
        exceeded = sum(max(0, row["cost_micros"] - row["held_micros"]) for row in own)
        assert owner["balance_micros"] >= -exceeded, owner
    charged = table(house.folder, "SELECT ref FROM entry WHERE kind = 'charge'")
    assert len(charged) == sum(row["cost_micros"] > 0 for row in rows)


def _micros(dollars: str) -> int:
    whole, _, cents = dollars.partition(".")
    return int(whole) * DOLLAR + int(cents) * 10_000


def _check_log(house: House) -> None:
    """No bug was logged, and no secret was written anywhere."""
    files = [each for each in house.folder.rglob("*") if each.is_file()]
    logs = [each for each in files if ".log" in each.name]
    said = b"".join(each.read_bytes() for each in logs) + house.said
    for alarm in ALARMS:
        at = said.find(alarm.encode())
        assert at < 0, said[at - 500 : at + 4000].decode()
    for secret in {KEY, *(house.secrets[key] for key in BILLING if key != "unknown")}:
        assert secret.encode() not in said
        held = [path for path in files if secret.encode() in path.read_bytes()]
        assert sorted(path.name for path in held) in ([], ["config.yaml", "sound.yaml"])


def check_usage(shown: str, rows: list[dict[str, Any]]) -> None:
    """Compare a report's totals with the rows of its tenant."""
    total = json.loads(shown)["total"]
    assert total["requests"] == len(rows)
    assert total["cost_micros"] == sum(row["cost_micros"] for row in rows)
    assert total["total_tokens"] == sum(row[each] for row in rows for each in CLASSES)
