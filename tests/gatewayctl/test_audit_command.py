import csv
import io
import json
import os
import pwd
from datetime import UTC, datetime

import pytest

from gatewayctl.session import Session
from server import clock
from server.store import audit
from server.store.audit import Action
from server.tenants import tenants

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def revoked(ready):
    """Tell of keys that were revoked at the moments given, by one key or by the command line."""

    def tell(*moments, actor="cli"):
        with Session().changing():
            owner = tenants.find("default").id
            for number, moment in enumerate(moments, 1):
                at = datetime.fromisoformat(moment).astimezone(UTC)
                audit.record(
                    Action.KEY_REVOKED,
                    f"key_{number}",
                    actor=actor,
                    at=at,
                    tenant_id=owner,
                    name="ci",
                )

    return tell


def targets(done):
    assert done.code == 0, done.err
    return [row[5] for row in done.rows]


def test_a_change_is_told_with_who_made_it(cli, ready):
    key_id = cli("keys", "create", "ci", "--member", "ada", "--json").json["id"]

    (row,) = cli("audit", "--limit", "1", "--json").json["data"]

    tenant = cli("tenants", "show", "--json").json["id"]
    assert row == {
        "object": "audit_record",
        "id": row["id"],
        "at": row["at"],
        "actor": f"cli:{ME}",
        "tenant": tenant,
        "action": "key.created",
        "target": key_id,
        "details": {
            "billing": "pay_per_token",
            "member": "ada",
            "name": "ci",
            "scope": "manage",
        },
    }
    assert abs((clock.now() - datetime.fromisoformat(row["at"])).total_seconds()) < 60


def test_a_pipe_gets_bare_rows_and_csv_a_heading(cli, ready):
    cli("credits", "grant", "5", "--reason", "a, b", "--ref", "grt_mine")

    first = cli("audit").rows[0]
    heading, same, *_ = csv.reader(io.StringIO(cli("audit", "--csv").out))

    assert heading == ["id", "at", "actor", "tenant", "action", "target", "details"]
    assert first == same
    assert first[4:6] == ["credits.granted", "grt_mine"]
    assert json.loads(first[6]) == {"amount_micros": 5_000_000, "reason": "a, b", "seq": 1}
    assert ["db.migrated", ""] in [[row[4], row[3]] for row in cli("audit").rows]


def test_people_see_a_table_in_their_own_zone(terminal, revoked):
    revoked("2026-11-20T23:30:00Z")

    shown = terminal("audit", "--tz", "Europe/Paris", "--no-color", COLUMNS="160").out

    assert "Audit log, newest first, times in Europe/Paris" in shown
    assert "2026-11-21 00:30:00" in shown
    assert "name ci" in shown
    assert "default" in shown


def test_people_see_dollars(terminal, cli, ready):
    cli("credits", "grant", "5", "--reason", "first credit")

    shown = terminal("audit", "--no-color", COLUMNS="160").out

    assert "$5.00, reason first credit" in shown


def test_rows_are_found_by_day(cli, revoked):
    days = ("2026-01-01", "2026-01-02", "2026-01-03")
    revoked(*(f"{day}T12:00:00Z" for day in days))

    assert targets(cli("audit", "--until", "2026-01-02")) == ["key_2", "key_1"]
    both = ("--since", "2026-01-02", "--until", "2026-01-02")
    assert targets(cli("audit", *both)) == ["key_2"]
    assert "key_3" not in targets(cli("audit", "--since", "7d"))
    assert targets(cli("audit", "--since", "2d", "--until", "2026-01-03")) == ["key_3", "key_2"]


def test_rows_are_found_by_actor_action_and_tenant(cli, revoked):
    revoked("2026-01-01T00:00:00Z", actor="key_mine")
    cli("tenants", "create", "acme")
    cli("keys", "create", "theirs", "--tenant", "acme")

    assert targets(cli("audit", "--actor", "key_mine")) == ["key_1"]
    assert len(targets(cli("audit", "--actor", "cli"))) == 2
    assert targets(cli("audit", "--actor", f"cli:{ME}")) == targets(cli("audit", "--actor", "cli"))
    assert targets(cli("audit", "--action", "key.revoked")) == ["key_1"]
    assert len(targets(cli("audit", "--action", "key"))) == 3
    acme = cli("audit", "--tenant", "acme").rows
    assert [row[4] for row in acme] == ["key.created", "tenant.created"]


def test_a_list_tells_whether_there_is_more(cli, revoked):
    revoked(*("2026-01-01T00:00:00Z",) * 3)
    total = len(cli("audit", "--limit", "0").rows)

    some = cli("audit", "--limit", "2", "--json").json
    whole = cli("audit", "--limit", total, "--json").json

    assert [row["target"] for row in some["data"]] == ["key_3", "key_2"]
    assert (some["has_more"], whole["has_more"], len(whole["data"])) == (True, False, total)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--action", "key.stolen"), 2, "There is no action 'key.stolen'."),
        (("--action", "ke"), 2, "key.revoked"),
        (("--tenant", "nobody"), 5, "There is no tenant nobody"),
        (("--since", "soon"), 2, "--since"),
        (("--since", "2026-01-02", "--until", "2026-01-01"), 2, "--since"),
        (("--limit", "-1"), 2, "--limit"),
    ],
)
def test_what_cannot_be_asked_is_said(cli, ready, words, code, message):
    done = cli("audit", *words)

    assert (done.code, message in done.err) == (code, True)
