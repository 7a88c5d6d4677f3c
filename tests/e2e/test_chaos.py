"""Everything at once, drawn from a seed; then quiet, in which all of it has to add up.

A failure names its seed. `GATEWAYCTL_CHAOS_SEED=7 pytest -m slow -s tests/e2e/test_chaos.py` plays
the long run of that seed again: the same clients, faults, keys, edits and kills at the same times.
"""

import asyncio
import os
from collections import Counter

import pytest
from support.chaos_house import House
from support.chaos_proof import check_usage, prove_all
from support.chaos_schedule import AROUND, BILLING, STOPS, Schedule
from support.faults import NAMES
from support.priced import table, verify
from support.wires import run

SHORT = {"seconds": 1.2, "asks": 90, "stops": 1, "reloads": 2}
LONG = {"seconds": 30.0, "asks": 600, "stops": 6, "reloads": 9}
ASKED = os.environ.get("GATEWAYCTL_CHAOS_SEED")
SEEDS = [int(ASKED)] if ASKED else range(1, 21)


async def _rage_and_rest(folder, schedule):
    folder.mkdir()
    async with House(folder, schedule) as house:
        await house.play()
        try:
            await house.make_peace()
        except TimeoutError:
            pytest.fail(f"seed {schedule.seed}: still open: {house.busy}")
        said, _ = await asyncio.gather(house.cli("--json", "usage"), verify(folder))
        assert await house.end() == 0
    return house, said


def _play(folder, monkeypatch, *schedules):
    """Run them side by side; give the rows of each, proved."""
    monkeypatch.setenv("HOME", str(folder))
    print("seeds:", *(each.seed for each in schedules))  # noqa: T201 - shown with a failure

    async def scenario():
        folders = [folder / f"seed-{each.seed}" for each in schedules]
        return await asyncio.gather(*map(_rage_and_rest, folders, schedules))

    return [_prove(house, said) for house, said in run(scenario)]


def _prove(house, said):
    rows = prove_all(house)
    [owner] = table(house.folder, "SELECT id FROM tenant WHERE name = 'default'")
    check_usage(said, [row for row in rows if row["tenant_id"] == owner["id"]])
    outcomes = Counter(row["outcome"] for row in rows)
    statuses = Counter(str(got.status) for got in house.got)
    peak = house.peak_bytes / 1024 / 1024
    print(  # noqa: T201
        f"seed {house.schedule.seed}: rows {dict(sorted(outcomes.items()))}, "
        f"clients {dict(sorted(statuses.items()))}, at most {peak:.0f} MiB"
    )
    assert outcomes["completed"] > len(rows) / 4
    return rows


def test_a_seed_decides_everything():
    assert Schedule.of(7, **LONG) == Schedule.of(7, **LONG) != Schedule.of(8, **LONG)


def test_the_seeds_leave_nothing_out():
    plans = [Schedule.of(seed, **LONG) for seed in range(1, 21)]
    asks = [ask for plan in plans for ask in plan.asks]

    assert {ask.key for ask in asks} == set(BILLING)
    models = {ask.model for ask in asks}
    assert models >= {f"{name}-{spoken}" for name in NAMES for spoken in ("messages", "chat")}
    assert {step.what for plan in plans for step in plan.blows} >= {*STOPS, "broken", "price"}


def test_two_short_chaoses_end_in_books_that_add_up(tmp_path, monkeypatch):
    plans = [Schedule.of(seed, **SHORT) for seed in (3, 9)]
    assert {step.what for plan in plans for step in plan.blows} >= {"KILL", "TERM"}

    played = _play(tmp_path, monkeypatch, *plans)

    assert all("completed" in {row["outcome"] for row in rows} for rows in played)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_long_chaos_ends_in_books_that_add_up(tmp_path, monkeypatch, seed):
    [rows] = _play(tmp_path, monkeypatch, Schedule.of(seed, **LONG))

    assert {"completed", "cancelled", "upstream_error"} <= {row["outcome"] for row in rows}
    assert {row["model"] for row in rows if row["attempts"] and row["outcome"] == "completed"} >= {
        *AROUND
    }
    assert len({row["price_id"] for row in rows if row["model"] == "smart"}) > 1
