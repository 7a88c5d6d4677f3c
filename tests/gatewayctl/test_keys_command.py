from datetime import UTC, datetime

import pytest


def test_a_piped_create_prints_the_secret_alone(cli, ready):
    done = cli("keys", "create", "ci")

    assert done.code == 0
    assert done.out.startswith("gwk_")
    assert done.out.count("\n") == 1
    assert "Shown only now" in done.err


def test_quiet_says_nothing_else(cli, ready):
    assert cli("keys", "create", "ci", "--quiet").err == ""


def test_create_as_json_is_the_key_with_its_secret(cli, ready):
    words = ("--billing", "subscription", "--scope", "inference", "--member", "ada")

    key = cli("keys", "create", "ci", *words, "--expires", "90d", "--json").json

    assert key["secret"].startswith(key["prefix"])
    assert key["secret"].endswith(key["last4"])
    assert (key["billing"], key["scope"], key["member"]) == ("subscription", "inference", "ada")
    lasts = datetime.fromisoformat(key["expires_at"]) - datetime.now(UTC)
    assert lasts.days in (89, 90)
    assert key["created_by"] == "cli"


def test_a_list_has_the_newest_first_and_never_a_secret(cli, ready):
    secret = cli("keys", "create", "ci").out.strip()

    listed = cli("keys", "list", "--json")

    assert [key["name"] for key in listed.json["data"]] == ["ci", "first"]
    assert secret not in listed.out
    assert [row[1] for row in cli("keys", "list").rows] == ["ci", "first"]


def test_a_list_is_whole_however_long(cli, ready):
    from gatewayctl.session import Session
    from server import clock
    from server.tenants import keys, secrets, tenants

    with Session().changing():
        owner = tenants.find("default").id
        for number in range(230):
            keys.mint(
                owner,
                f"n{number}",
                billing=keys.Billing.PAY_PER_TOKEN,
                scope=keys.Scope.INFERENCE,
                member=None,
                expires_at=None,
                created_by="cli",
                now=clock.now(),
                secret=secrets.generate(),
            )

    assert len(cli("keys", "list").rows) == 231


def test_revoking_twice_is_fine_and_an_unknown_key_is_not(cli, ready):
    key_id = cli("keys", "list").rows[0][0]

    assert cli("keys", "revoke", key_id).out == f"{key_id}\n"
    assert cli("keys", "revoke", key_id, "--json").json["status"] == "revoked"
    assert cli("keys", "revoke", "key_none").code == 5


def test_a_rotated_key_lives_on_for_its_grace(cli, ready):
    key_id = cli("keys", "list").rows[0][0]

    successor = cli("keys", "rotate", key_id, "--grace", "1h", "--json").json

    old = cli("keys", "show", key_id, "--json").json
    assert successor["name"] == old["name"]
    assert successor["id"] != key_id
    assert old["status"] == "active"
    assert old["expires_at"] is not None


def test_without_grace_the_old_key_ends_at_once(cli, ready):
    key_id = cli("keys", "list").rows[0][0]

    cli("keys", "rotate", key_id, "--grace", "0s")

    assert cli("keys", "show", key_id, "--json").json["status"] == "revoked"
    assert cli("keys", "rotate", key_id).code == 6


@pytest.mark.parametrize("span", ["90", "d", "-1d", "9999999d", "1.5h", "٣d"])
def test_a_span_that_is_none_is_a_usage_error(cli, ready, span):
    done = cli("keys", "create", "ci", "--json", f"--expires={span}")

    assert done.code == 2
    assert "--expires must be a span" in done.error["message"]


def test_a_name_that_cannot_be_printed_is_refused(cli, ready):
    assert cli("keys", "create", "a\tb").code == 2


def test_keys_belong_to_the_tenant_that_was_named(cli, ready):
    tenant_id = cli("tenants", "create", "two").out.strip()

    cli("keys", "create", "theirs", "--tenant", "two")

    assert [row[1] for row in cli("keys", "list", "--tenant", tenant_id).rows] == ["theirs"]
    assert [row[1] for row in cli("keys", "list").rows] == ["first"]
    assert cli("keys", "create", "x", "--tenant", "nobody").code == 5


def test_a_key_is_shown_field_by_field(cli, ready):
    key_id = cli("keys", "list").rows[0][0]

    shown = dict(cli("keys", "show", key_id).rows)

    assert (shown["id"], shown["name"], shown["revoked_at"]) == (key_id, "first", "")
