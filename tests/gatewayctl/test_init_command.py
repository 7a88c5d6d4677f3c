import os
import stat
import threading

import pytest

from gatewayctl.session import Session
from server import clock
from server.billing import ledger
from server.billing.ledger import Balance, Kind
from server.config.load import example_text
from server.presets.load import BUILTIN
from server.store.lock import ServeLock
from server.tenants import tenants


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_init_makes_all_that_serve_needs_and_prints_the_secret_alone(cli, home):
    done = cli("init")

    assert done.code == 0
    assert done.out.startswith("gwk_")
    assert done.out.count("\n") == 1
    assert (home / "config.yaml").read_text() == example_text()
    assert files(home / "presets") == files(BUILTIN)
    assert cli("db", "check").out == "current\n"
    assert cli("tenants", "list").rows[0][1] == "default"
    subscription = cli("subscription", "show", "--json").json
    assert (subscription["tier"], subscription["status"]) == ("team", "active")
    key = cli("keys", "list", "--json").json["data"][0]
    assert (key["name"], key["billing"], key["scope"]) == ("first", "pay_per_token", "manage")


def test_what_init_writes_is_for_its_owner_alone(cli, home):
    old = os.umask(0)
    try:
        cli("--config", home / "new" / "config.yaml", "init")
    finally:
        os.umask(old)

    for path in (home / "new").rglob("*"):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert mode(home / "new") == 0o700


def test_a_second_init_changes_nothing(cli, ready, home):
    before = files(home)

    done = cli("init")

    assert (done.code, done.out) == (0, "")
    assert "Nothing was missing" in done.err
    assert files(home) == before


def test_init_grants_nothing_and_says_how(cli, ready):
    """Who sells to others must not give money away by setting up."""
    said = cli("init").err

    assert "$0.00 of credit" in said
    assert '\n  gatewayctl credits grant 10 --reason "first credit"\n' in said
    with Session().reading():
        assert ledger.balance_of(tenants.find("default").id) == Balance(0, 0)


def test_init_is_silent_about_credit_where_there_is_some(cli, ready):
    with Session().changing():
        default = tenants.find("default").id
        ledger.post(default, Kind.GRANT, 1, ref="x", at=clock.now(), created_by="cli")

    assert "credit" not in cli("init").err


def test_a_subscription_that_was_cancelled_does_not_come_back(cli, ready):
    cli("subscription", "cancel")

    again = cli("init", "--json")

    assert again.json["tier"] is None
    assert cli("subscription", "show", "--json").json["status"] == "canceled"


def test_without_a_default_tier_nobody_is_subscribed(cli, ready, config, home):
    config("default_tier: team ", "default_tier: null ")
    for path in home.glob("gateway.db*"):
        path.unlink()

    none = cli("init", "--json")
    before = cli("subscription", "show", "--json").json["status"]
    config("default_tier: null ", "default_tier: team ")
    given = cli("init")

    assert (none.json["tier"], before) == (None, "none")
    assert "subscribed the tenant `default` to the tier team" in given.err
    assert "Nothing was missing" not in given.err
    assert cli("subscription", "show", "--json").json["tier"] == "team"


def test_init_completes_what_is_missing_and_keeps_what_was_edited(cli, ready, home, config):
    config("port: 8080 ", "port: 9999 ")
    (home / "presets" / "cline.yaml").unlink()
    (home / "presets" / "cursor.yaml").write_text("tool: cursor\nversion: 9\n")

    done = cli("init", "--json")

    assert done.json["created"] == [str(home / "presets" / "cline.yaml")]
    assert done.json["key"] is None
    assert "port: 9999" in (home / "config.yaml").read_text()
    assert (home / "presets" / "cursor.yaml").read_text() == "tool: cursor\nversion: 9\n"


def test_a_preset_under_another_name_is_not_doubled(cli, ready, home):
    (home / "presets" / "cline.yaml").rename(home / "presets" / "ours.yaml")

    assert cli("init").code == 0
    assert not (home / "presets" / "cline.yaml").exists()
    assert cli("presets", "check").out == "ok\n"


def test_a_skill_that_a_preset_names_comes_back(cli, ready, home):
    skill = home / "presets" / "skills" / "safe-shell.md"
    skill.unlink()

    assert cli("init", "--json").json["created"] == [str(skill)]


def test_force_rewrites_config_and_presets_after_a_backup(cli, ready, home, config):
    config("port: 8080 ", "port: 9999 ")
    (home / "presets" / "mine.txt").write_text("kept in the backup")
    keys = cli("keys", "list").out

    done = cli("init", "--force")

    [backup] = (home / "backups").iterdir()
    assert done.code == 0
    assert "port: 9999" in (backup / "config.yaml").read_text()
    assert (backup / "presets" / "mine.txt").exists()
    assert (home / "config.yaml").read_text() == example_text()
    assert files(home / "presets") == files(BUILTIN)
    assert cli("keys", "list").out == keys


def test_every_force_keeps_its_own_backup(cli, ready, home):
    for _ in range(3):
        assert cli("init", "--force").code == 0

    assert len(list((home / "backups").iterdir())) == 3


def test_force_mends_a_config_that_cannot_be_read(cli, ready, home):
    (home / "config.yaml").write_text(": no yaml")
    assert cli("init").code == 2

    assert cli("init", "--force").code == 0
    assert cli("config", "check").out == "ok\n"


def test_while_the_server_runs_files_are_completed_and_the_database_is_left_alone(cli, ready, home):
    (home / "presets" / "cline.yaml").unlink()
    release, held = threading.Event(), threading.Event()

    def serve():
        with ServeLock(home / "gateway.db"):
            held.set()
            release.wait(10)

    server = threading.Thread(target=serve)
    server.start()
    held.wait(10)
    try:
        done = cli("init", "--json")
        said = cli("init").err
        migrated = cli("db", "migrate", "--json")
    finally:
        release.set()
        server.join()

    assert done.json["served_by"] == os.getpid()
    assert done.json["created"] == [str(home / "presets" / "cline.yaml")]
    assert "The server runs" in said
    assert (migrated.code, migrated.error["code"]) == (7, "locked")


def test_a_deleted_database_comes_back_with_a_new_first_key(cli, ready, home):
    for path in home.glob("gateway.db*"):
        path.unlink()

    done = cli("init")

    assert done.out.startswith("gwk_")
    assert done.out != ready.out


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_the_secret_of_the_first_key_is_printed_once(cli, home, json):
    done = cli("init", *json)

    assert (done.out + done.err).count("gwk_") - (2 if json else 0) == (0 if json else 1)
