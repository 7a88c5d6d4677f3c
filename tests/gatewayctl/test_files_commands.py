"""The commands that read config and presets: `config`, `presets`, `db`, `tenants`."""

import sqlite3

import pytest

from server.presets.load import load_presets


def test_config_path_prints_where_it_is(cli, ready, home):
    assert cli("config", "path").out == f"{home / 'config.yaml'}\n"
    assert cli("config", "path", "--json").json["path"] == str(home / "config.yaml")


def test_config_check_names_the_upstream_without_a_key(cli, ready, config, monkeypatch):
    assert cli("config", "check").out == "ok\n"
    config("  demo:\n    protocol: demo ", DEMO_AND_OTHER)
    config("upstream: demo, model: demo-smart", "upstream: other, model: some")

    done = cli("config", "check", "--json")

    assert done.code == 3
    assert done.json["upstreams_without_key"] == ["other"]
    assert done.error["code"] == "check_failed"
    assert "other needs ${OTHER_KEY}" in done.error["hint"]
    monkeypatch.setenv("OTHER_KEY", "not-a-real-key")
    assert cli("config", "check").code == 0


def test_config_show_masks_what_is_secret(cli, ready, config):
    config(
        "  demo:\n    protocol: demo ", DEMO_AND_OTHER.replace('"${OTHER_KEY}"', "not-a-real-key")
    )

    for words in ((), ("--json",)):
        shown = cli("config", "show", *words)
        assert shown.code == 0
        assert "not-a-real-key" not in shown.out + shown.err
        assert "***" in shown.out
    assert "warning:" in cli("config", "show").err


def test_presets_render_prints_the_exact_text_that_is_injected(cli, ready, home):
    done = cli("presets", "render", "cline")

    preset = load_presets(home / "presets")["cline"]
    assert done.out == preset.text()
    assert "tokens" in done.err
    assert cli("presets", "render", "cline", "--json").json["text"] == preset.text()


def test_presets_render_reads_the_users_own_folder(cli, ready, home):
    (home / "presets" / "cline.yaml").write_text("tool: cline\nversion: 2\nsystem: Be brief.\n")

    assert cli("presets", "render", "cline").out == "Be brief."


def test_presets_are_listed_with_their_size(cli, ready):
    listed = cli("presets", "list", "--json").json["data"]

    assert [preset["tool"] for preset in listed] == [
        "claudecode",
        "cline",
        "codex",
        "cursor",
        "roocode",
    ]
    assert all(preset["tokens"] > 100 for preset in listed)
    assert cli("presets", "list").rows[0][0] == "claudecode"
    assert cli("presets", "show", "cline", "--json").json == listed[1]


def test_an_unknown_preset_is_not_found(cli, ready):
    done = cli("presets", "show", "vim")

    assert done.code == 5
    assert "claudecode, cline, codex, cursor, roocode" in done.err


def test_presets_check_finds_a_model_that_is_not_there(cli, ready, home):
    (home / "presets" / "cline.yaml").write_text("tool: cline\nversion: 2\nmodel: gone\n")

    done = cli("presets", "check", "--json")

    assert (done.code, done.json["unknown_models"]) == (3, ["cline"])


def test_presets_check_names_the_line_of_a_broken_file(cli, ready, home):
    (home / "presets" / "cline.yaml").write_text("tool: cline\nversion: many\n")

    done = cli("presets", "check")

    assert done.code == 2
    assert "cline.yaml:2: version" in done.err


def test_db_check_tells_older_and_newer_schemas(cli, ready, home):
    assert cli("db", "check", "--json").json["state"] == "current"
    with sqlite3.connect(home / "gateway.db") as raw:
        raw.execute("INSERT INTO schema_migration (name, applied) VALUES ('9999_later', 0)")
    raw.close()

    done = cli("db", "check", "--json")

    assert (done.code, done.json["state"]) == (7, "newer")
    assert done.error["code"] == "schema_too_new"
    assert cli("keys", "list").code == 7


def test_an_older_schema_names_the_command_that_migrates(cli, ready, home):
    for path in home.glob("gateway.db*"):
        path.unlink()
    sqlite3.connect(home / "gateway.db").close()

    done = cli("keys", "list", "--json")

    assert (done.code, done.error["code"]) == (7, "schema_too_old")
    assert "gatewayctl db migrate" in done.error["message"]
    assert cli("db", "migrate", "--json").json["applied"] != []
    assert cli("db", "migrate").out == ""
    assert cli("db", "check").code == 0


def test_db_check_without_a_database_is_not_found(cli, ready, home):
    (home / "gateway.db").unlink()

    assert cli("db", "check").code == 5


def test_tenants_are_created_listed_and_shown(cli, ready):
    tenant_id = cli("tenants", "create", "two").out.strip()

    assert [row[:2] for row in cli("tenants", "list").rows][1] == [tenant_id, "two"]
    assert cli("tenants", "show", "two", "--json").json["id"] == tenant_id
    assert cli("tenants", "show", tenant_id, "--json").json["name"] == "two"
    assert cli("tenants", "show", "--json").json["name"] == "default"


@pytest.mark.parametrize(
    ("words", "code"), [(("create", "default"), 6), (("create", " "), 2), (("show", "x"), 5)]
)
def test_what_is_wrong_with_a_tenant_is_an_exit_code(cli, ready, words, code):
    assert cli("tenants", *words).code == code


def test_people_get_a_table(terminal, ready):
    shown = terminal("keys", "list").out

    assert "first" in shown
    assert "last_used_at" not in shown  # no key has been used
    assert "─" in shown


DEMO_AND_OTHER = """\
  other:
    protocol: openai
    base_url: "http://127.0.0.1:9"
    api_key: "${OTHER_KEY}"
  demo:
    protocol: demo """
