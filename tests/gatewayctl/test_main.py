"""What holds for every command: global options, exit codes, errors, speed of `--help`."""

import json
import os
import signal
import subprocess
import sys

import pytest

SLOW = ("sanic", "stripe", "httpx", "peewee", "yaml", "platformdirs", "rich.table", "server.app")


def python(code, *words, **settings):
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        encoding=settings.get("PYTHONIOENCODING", "utf-8"),
        timeout=20,
        check=False,
        env={**os.environ, **settings},
    )


def test_help_imports_nothing_that_is_slow(home):
    code = (
        "import sys\nfrom gatewayctl.main import run\nrun(['--help'])\n"
        f"print([name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)"
    )

    done = python(code)

    assert "keys" in done.stdout
    assert done.stderr == "[]\n"


def test_bare_gatewayctl_shows_the_help(cli):
    assert cli() == cli("--help")
    assert cli().code == 0


def test_every_command_has_help_that_ends_with_a_period(cli):
    nouns = [line.split()[0] for line in cli().out.partition("Commands:")[2].splitlines() if line]
    assert {"init", "keys", "serve", "usage"} <= set(nouns)

    for noun in nouns:
        shown = cli(noun, "--help")
        assert shown.code == 0
        assert "--json" in shown.out
        summary = shown.out.split("\n\n")[1]
        assert summary.rstrip().endswith(".")


def test_the_version_is_a_line(cli):
    assert cli("--version").out.startswith("gatewayctl 0.")


@pytest.mark.parametrize(
    "words",
    [("--json", "tenants", "list"), ("tenants", "--json", "list"), ("tenants", "list", "--json")],
)
def test_global_options_are_accepted_before_and_after_the_verb(cli, ready, words):
    assert cli(*words).json["object"] == "list"


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_config_option_leads_to_another_gateway(cli, tmp_path, place):
    there = tmp_path / "elsewhere" / "config.yaml"
    named = ("--config", there)

    cli(*named, "init") if place == "before" else cli("init", *named)

    assert there.exists()
    assert not (tmp_path / "config.yaml").exists()
    assert cli("config", "path", *named).out == f"{there}\n"


def test_the_environment_names_the_config_too(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("GATEWAYCTL_CONFIG", str(tmp_path / "other.yaml"))

    cli("init")

    assert cli("config", "path").out == f"{tmp_path / 'other.yaml'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("kyes",), "No such command 'kyes'. Did you mean 'keys'?"),
        (("keys",), "Missing command."),
        (("keys", "create"), "Missing argument 'NAME'."),
        (("keys", "list", "--tenan", "x"), "No such option: --tenan (Possible options: --tenant)"),
        (("keys", "list", "extra"), "Got unexpected extra argument(s) (extra)"),
        (("serve", "--port", "70000"), "Invalid value for '--port'"),
    ],
)
def test_a_usage_error_is_one_line_and_a_hint(cli, words, message):
    done = cli(*words)

    first, hint, *more = done.err.splitlines()
    assert done.code == 2
    assert done.out == ""
    assert message in first
    assert hint.startswith("hint: `gatewayctl")
    assert more == []


def test_a_usage_error_is_json_where_json_was_asked_for(cli):
    done = cli("keys", "create", "--json", "--scope", "x", "y")

    assert done.code == 2
    assert done.error["code"] == "usage"
    assert set(done.error) == {"code", "message", "hint"}


def test_without_a_config_the_error_names_init(cli):
    done = cli("keys", "list", "--json")

    assert done.code == 2
    assert done.error["code"] == "config_error"
    assert "gatewayctl init" in done.error["message"]


def test_without_a_database_the_error_names_init(cli, ready, home):
    (home / "gateway.db").unlink()

    done = cli("keys", "list", "--json")

    assert done.code == 5
    assert done.error["code"] == "no_database"
    assert "gatewayctl init" in done.error["message"]


def test_a_broken_config_is_named_with_its_line(cli, ready, config):
    config("port: 8080 ", "prot: 8080 ")

    done = cli("keys", "list")

    assert done.code == 2
    assert "config.yaml:" in done.err
    assert "prot" in done.err


@pytest.mark.slow  # it waits as long as a command waits for the lock
def test_a_locked_database_is_unavailable(cli, ready, home):
    code = (
        "import sqlite3, sys\n"
        "held = sqlite3.connect('gateway.db', isolation_level=None)\n"
        "held.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        holder.stdout.readline()
        done = cli("tenants", "create", "two", "--json")
    finally:
        holder.communicate()

    assert done.code == 7
    assert done.error["code"] == "unavailable"


def test_a_file_that_is_no_database_is_unavailable(cli, ready, home):
    for path in home.glob("gateway.db*"):
        path.unlink()
    (home / "gateway.db").write_bytes(b"not a database" * 100)

    assert cli("keys", "list").code == 7


def test_what_follows_two_dashes_is_never_an_option(cli, ready):
    done = cli("keys", "create", "--", "--json")

    assert done.code == 0
    assert done.out.startswith("gwk_")


def test_a_reader_that_goes_away_leaves_no_traceback(cli, ready, home):
    code = "import sys; from gatewayctl.main import run; sys.exit(run())"
    done = subprocess.Popen(
        [sys.executable, "-c", code, "usage"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    done.stdout.close()

    assert b"Traceback" not in done.stderr.read()
    done.stderr.close()
    assert done.wait() in (0, 1)


def test_ctrl_c_ends_with_130(home):
    code = (
        "import os, signal, sys\n"
        "import gatewayctl.commands.config as config\n"
        "from gatewayctl.main import run\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))\n"
        "@config.app.command('wait')\n"
        "def wait() -> None:\n"
        "    signal.setitimer(signal.ITIMER_REAL, 0.05)\n"
        "    signal.pause()\n"
        "    signal.pause()\n"
        "sys.exit(run(['config', 'wait']))\n"
    )

    done = python(code)

    assert done.returncode == 130 == 128 + signal.SIGINT
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("gatewayctl ke", {"keys"}),
        ("gatewayctl keys r", {"revoke", "rotate"}),
        ("gatewayctl keys show key_", None),
        ("gatewayctl presets show c", {"claudecode", "cline", "codex", "cursor"}),
        ("gatewayctl models show s", {"smart"}),
        ("gatewayctl keys list --tenant d", {"default"}),
        ("gatewayctl keys create --billing s", {"subscription"}),
    ],
)
def test_the_shell_completes_verbs_and_what_is_stored(cli, ready, typed, offered):
    code = "from gatewayctl.main import run; run([])"
    key_ids = {key["id"] for key in cli("keys", "list", "--json").json["data"]}

    done = python(
        code,
        _GATEWAYCTL_COMPLETE="complete_bash",
        COMP_WORDS=typed,
        COMP_CWORD=str(typed.count(" ")),
    )

    assert done.stderr == ""
    assert set(done.stdout.split()) == (key_ids if offered is None else offered)


def test_completion_without_a_gateway_offers_nothing(home):
    code = "from gatewayctl.main import run; run([])"
    words = {"COMP_WORDS": "gatewayctl keys show key_", "COMP_CWORD": "3"}

    done = python(code, _GATEWAYCTL_COMPLETE="complete_bash", **words)

    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_locale_makes_a_command_fail(ready, encoding):
    code = "import sys; from gatewayctl.main import run; sys.exit(run())"

    made = python(code, "keys", "create", "é…", "--json", PYTHONIOENCODING=encoding)
    listed = python(code, "keys", "list", PYTHONIOENCODING=encoding)

    assert json.loads(made.stdout)["name"] == "é…"
    assert (listed.returncode, listed.stderr) == (0, "")


def test_a_file_in_the_way_is_an_error_of_one_line(cli, home):
    (home / "file").write_text("")

    done = cli("--config", "file/config.yaml", "init", "--json")

    assert done.code == 1
    assert done.error["code"] == "io_error"
    assert "file" in done.error["message"]
