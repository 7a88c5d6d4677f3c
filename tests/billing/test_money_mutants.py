"""The proof proves something: each of these changes to the core is found out.

By the state machine in a bounded run, or where only luck would show it the change by the test that
is named.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
STATE_GUARD = "WHERE request_id = ? AND state = 'open'\nRETURNING"
MONEY_GUARD = "WHERE id = ? AND (? IS NULL OR balance_micros - held_micros >= ?)"


@dataclass(frozen=True)
class Mutant:
    """A text of a module, and what is put in its place; who is to find it, if not the machine."""

    name: str
    module: str
    old: str
    new: str
    check: str = ""


NOTHING = Mutant("nothing is changed", "", "", "")
MUTANTS = [
    Mutant(
        "a request is settled twice", "usage.record", STATE_GUARD, "WHERE request_id = ?\nRETURNING"
    ),
    Mutant(
        "a dead key opens a request",
        "usage.record",
        'WHERE "key".id = ? AND "key".revoked_at IS NULL\n',
        'WHERE "key".id = ?\n',
    ),
    Mutant(
        "a hold's growth is not written down",
        "usage.record",
        "held_micros = held_micros + ?, held_tokens",
        "held_micros = held_micros + 0 * ?, held_tokens",
    ),
    Mutant(
        "money is held twice",
        "billing.holds",
        MONEY_GUARD,
        MONEY_GUARD.replace(" - held_micros", ""),
        "test_holds.py::test_an_overdrawn_balance_takes_nothing_from_a_running_hold",
    ),
    Mutant(
        "the last cent cannot be held",
        "billing.holds",
        MONEY_GUARD,
        MONEY_GUARD.replace(">=", ">"),
        "test_holds.py::test_the_last_unit_can_be_held",
    ),
    Mutant(
        "a grant is one token too long",
        "billing.holds",
        "key=demand.units) - 1",
        "key=demand.units)",
        "test_holds.py::test_less_is_granted_where_there_is_less",
    ),
    Mutant(
        "a correction takes what is held",
        "billing.ledger",
        MONEY_GUARD,
        MONEY_GUARD.replace(" - held_micros", ""),
        "test_ledger.py::test_no_more_is_taken_than_is_available",
    ),
    Mutant(
        "a cause is not looked up",
        "billing.ledger",
        "if execute(_POSTED, (kind.value, ref)).fetchone() is not None:",
        "if False:",
    ),
    Mutant(
        "a hold is never released",
        "billing.ledger",
        "held_micros = held_micros - ?",
        "held_micros = held_micros - 0 * ?",
    ),
    Mutant(
        "a charge is written twice",
        "billing.ledger",
        "        _append(*values, at=at, detail=detail, created_by=None, reason=None)\n",
        (
            "        for values in (values, (*values[:2], request_id + '_', *values[3:])):\n"
            "            _append(*values, at=at, detail=detail, created_by=None, reason=None)\n"
        ),
    ),
    Mutant(
        "the chain is not one",
        "billing.ledger",
        "hash_of(last_hash, columns)",
        "hash_of(GENESIS, columns)",
    ),
    Mutant(
        "a cost is rounded down",
        "billing.pricing",
        "-(-millionths * factor // scale) + uses",
        "millionths * factor // scale + uses",
    ),
    Mutant(
        "a window is a millisecond too long",
        "billing.quota",
        "window_started_at <= :ended",
        "window_started_at < :ended",
        "test_quota.py::test_a_window_lasts_a_day_to_the_millisecond",
    ),
    Mutant(
        "what is held does not count",
        "billing.quota",
        "ELSE used_tokens + held_tokens END)\n    AND",
        "ELSE used_tokens END)\n    AND",
    ),
    Mutant(
        "whoever ever subscribed is served",
        "billing.quota",
        "WHERE tenant_id = :tenant AND {ENTITLED}",
        "WHERE tenant_id = :tenant",
    ),
    Mutant(
        "an old hold grows in the new window",
        "billing.quota",
        "CASE WHEN quota_window = :window THEN :tokens ELSE 0 END",
        ":tokens",
    ),
    Mutant(
        "an old request is settled in the new window",
        "billing.quota",
        "WHERE tenant_id = :tenant AND quota_window = :window",
        "WHERE tenant_id = :tenant OR 0 = :window",
        "test_admission.py::test_a_request_that_outlives_its_window_touches_neither",
    ),
    Mutant(
        "what is held does not count under a cap",
        "billing.caps",
        "charged_micros + held_micros + ? <= ?",
        "charged_micros + ? <= ?",
        "test_caps.py::test_the_last_micro_can_be_spent_and_no_other",
    ),
    Mutant(
        "what a cap refuses stays held of the balance",
        "billing.caps",
        "self.money.change(-units, window)",
        "pass",
        "test_caps.py::test_a_hold_grows_as_far_as_the_cap_goes_and_shrinks_again",
    ),
    Mutant(
        "limits of a moment ago still count",
        "usage.record",
        "    AND {_LIMITS}\nRETURNING",
        "    AND ({_LIMITS} OR 1)\nRETURNING",
        "test_caps.py::test_a_request_with_the_limits_of_a_moment_ago_is_looked_up_again",
    ),
    Mutant(
        "a settled request is held for",
        "usage.record",
        "SELECT key_id, spend_month FROM request WHERE request_id = ? AND state = 'open'",
        "SELECT key_id, spend_month FROM request WHERE request_id = ?",
    ),
]
MORE = [
    Mutant(
        "nothing bounds a hold",
        "billing.holds",
        MONEY_GUARD,
        "WHERE id = ? AND (? IS NULL OR 1 OR ?)",
    ),
    Mutant(
        "a grant is one token too short",
        "billing.holds",
        "key=demand.units) - 1",
        "key=demand.units) - 2",
    ),
    Mutant(
        "all may overdraw",
        "billing.ledger",
        "least = None if may_overdraw or",
        "least = None if True or",
        "test_ledger.py::test_no_more_is_taken_than_is_available",
    ),
    Mutant(
        "a charge is taken and not written",
        "billing.ledger",
        "    if cost_micros:\n",
        "    if cost_micros > 100:\n",
        "test_orphans.py::test_what_was_settled_is_left_alone",
    ),
    Mutant(
        "what cost nothing leaves an entry",
        "billing.ledger",
        "    if cost_micros:\n",
        "    if True:\n",
    ),
    Mutant("time goes back", "billing.ledger", "max(clock.to_ms(at), last_at)", "clock.to_ms(at)"),
    Mutant(
        "a cache read costs as input",
        "billing.rates",
        "tokens.cache_read * self.cache_read",
        "tokens.cache_read * self.input",
    ),
    Mutant(
        "a weight is rounded down",
        "billing.allowance",
        "return -(-exact // MICROS)",
        "return exact // MICROS",
    ),
    Mutant(
        "one request too many",
        "billing.quota",
        "ELSE used_requests END < :limit_requests",
        "ELSE used_requests END <= :limit_requests",
    ),
    Mutant(
        "a new window begins with what the last held",
        "billing.quota",
        "CASE WHEN {_OVER} THEN 0 ELSE held_tokens END + :tokens",
        "held_tokens + :tokens",
    ),
    Mutant(
        "a clock set back withholds the quota",
        "billing.quota",
        "min(window_started_at, :second)",
        "window_started_at",
    ),
    Mutant(
        "a hold grows beyond the quota",
        "billing.quota",
        "OR used_tokens + held_tokens + :tokens <= :limit",
        "OR used_tokens + :tokens <= :limit",
    ),
    Mutant(
        "what runs when a cap is set does not count",
        "tenants.spend",
        "    execute(_MARK, (head_id, head_id))",
        "    pass",
        "test_caps.py::test_a_cap_in_mid_month_begins_with_what_the_month_has_come_to",
    ),
    Mutant(
        "a successor begins with nothing spent",
        "tenants.limits",
        "        spend.move(key.id, heir.id)",
        "        pass",
        "test_caps.py::test_a_key_of_another_head_is_looked_up_again",
    ),
    Mutant(
        "what was not served counts",
        "billing.admission",
        "served=closing.quota_tokens > 0 or",
        "served=True or",
    ),
    Mutant(
        "a tenant's dead process is settled for nothing",
        "billing.orphans",
        "Bill(cost_micros=cost,",
        "Bill(cost_micros=0,",
        ("test_orphans.py::test_a_request_that_had_not_got_far_is_charged_its_estimated_input"),
    ),
    Mutant(
        "what another process serves is settled",
        "billing.orphans",
        '(Request.state == "open") & Request.instance.in_(list(dead_instance_ids))',
        '(Request.state == "open")',
        "test_orphans.py::test_what_living_processes_serve_is_left_alone",
    ),
    Mutant(
        "a price that was changed back has its old number",
        "billing.prices",
        "order_by(Row.id.desc())",
        "order_by(Row.id)",
        "test_prices.py::test_a_price_that_comes_back_is_a_new_row",
    ),
]


def outcomes(template, mutants, examples):
    """Tell what became of each mutant: what was wrong with it, "" where nothing was."""
    folder = Path(__file__).parent
    tried = [
        {
            **asdict(each),
            "module": each.module and f"server.{each.module}",
            "check": each.check and str(folder / each.check),
            "examples": examples if each.module else 5,
        }
        for each in mutants
    ]
    told = subprocess.run(
        [sys.executable, "-m", "support.mutants"],
        input=json.dumps({"template": str(template), "steps": 50, "mutants": tried}),
        capture_output=True,
        text=True,
        check=True,
        cwd=TESTS.parent,
        env=os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    return dict(zip(mutants, json.loads(told.stdout), strict=True))


@pytest.fixture(scope="module")
def found(empty_database):
    return outcomes(empty_database, [NOTHING, *MUTANTS], examples=500)


@pytest.fixture(scope="module")
def more_found(empty_database):
    return outcomes(empty_database, MORE, examples=1000)


def test_the_core_as_it_is_survives(found):
    assert found[NOTHING] == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_a_change_is_found_out(found, mutant):
    assert not found[mutant].startswith("not tried"), found[mutant]
    assert found[mutant] != ""


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MORE, ids=[each.name for each in MORE])
def test_any_change_is_found_out(more_found, mutant):
    assert not more_found[mutant].startswith("not tried"), more_found[mutant]
    assert more_found[mutant] != ""
