"""What a command says where the disk or its rights keep it from working."""

import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"


@pytest.mark.parametrize(
    "words",
    [("keys", "list"), ("usage", "--json"), ("credits", "ledger", "--csv"), ("--version",)],
)
def test_output_that_finds_no_room_is_an_error_of_one_line_and_a_hint(ready, words):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LAUNCH, *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=buffered,
        )

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Make room" in done.stderr
    assert len(done.stderr.splitlines()) == (1 if "--json" in words else 2)


def test_a_disk_without_room_is_named_where_a_change_fails(ready):
    """A file that may not grow is what a full disk looks like from inside."""
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, "keys", "create", "ci"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)),
    )

    assert (done.returncode, done.stdout) == (7, "")
    assert "hint: Look whether the disk is full" in done.stderr


@pytest.mark.parametrize("verb", ["verify", "ledger", "statement"])
def test_a_damaged_ledger_is_not_a_reason_to_try_again(cli, ready, home, verb):
    with closing(sqlite3.connect(home / "gateway.db")) as connection:
        found = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entry'")
        (page,) = found.fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with (home / "gateway.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)

    done = cli("credits", verb, "--json")

    assert (done.code, done.error["code"]) == (7, "unavailable")
    assert "malformed" in done.error["message"]
    assert "restore a backup" in done.error["hint"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_database_of_somebody_else_names_its_owner_as_the_way_out(cli, ready, home):
    (home / "gateway.db").chmod(0o400)

    done = cli("keys", "list", "--json")

    assert done.code == 7
    assert "Run this as the user who owns the file" in done.error["hint"]
