"""How targets and keys do, as `models list` and `models show` tell it from what a gateway wrote."""

import os
import time
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from server import clock
from server.config.load import load
from server.store import breakers, instances
from server.store.breakers import HeldOff
from server.store.db import open_database, transaction
from server.store.lock import ServeLock

CLOSED = {"state": "closed", "since": None, "until": None, "reason": None}
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@contextmanager
def served(*found):
    """Hold the lock as a gateway does that has written down `found`; give its number."""
    path = load(Path("config.yaml")).database_path
    with ServeLock(path):
        with closing(open_database(path)), transaction():
            number = instances.begin(os.getpid(), "host", "0.1.0", clock.now())
            breakers.write_down(number, found)
        yield number


def held(model="demo-smart", key=0, state="open", in_=MINUTE):
    """Make a line on something that fails since a minute."""
    now = clock.now()
    until = None if in_ is None else now + in_
    return HeldOff("demo", model, key, state, now - MINUTE, until, "upstream_error")


def health(cli, name="smart"):
    return next(row[8] for row in cli("models", "list").rows if row[0] == name)


def test_what_nobody_holds_off_is_ok(cli, ready):
    with served():
        smart = cli("models", "show", "smart", "--json").json
        assert smart["targets"][0]["health"] == smart["keys"][0]["health"] == CLOSED
        assert health(cli) == "ok"


def test_a_target_that_is_held_off_says_until_when_and_why(cli, ready):
    target = held()
    with served(target):
        smart = cli("models", "show", "smart", "--json").json

        assert smart["targets"][0]["health"] == {
            "state": "open",
            "since": clock.rfc3339(target.since),
            "until": clock.rfc3339(target.until),
            "reason": "upstream_error",
        }
        assert smart["keys"][0]["health"] == CLOSED
        assert health(cli) == f"open until {target.until:%H:%M:%S}: upstream_error"
        assert health(cli, "fast") == "ok"


@pytest.mark.parametrize("how", [{"state": "half_open", "in_": None}, {"in_": -MINUTE}])
def test_what_may_be_tried_again_is_half_open(cli, ready, how):
    with served(held(**how)):
        smart = cli("models", "show", "smart", "--json").json

        assert smart["targets"][0]["health"]["state"] == "half_open"
        assert smart["targets"][0]["health"]["until"] is None
        assert health(cli) == "half-open"


def test_where_there_is_a_choice_it_is_said_what_is_held_off(cli, ready, config):
    config("  demo:\n", "  demo:\n    api_keys: [fake-1, fake-2, fake-3]\n")
    key = held(model="", key=2)
    with served(key, held(state="half_open", in_=None)):
        keys = cli("models", "show", "smart", "--json").json["keys"]

        assert [(each["key"], each["health"]["state"]) for each in keys] == [
            (1, "closed"), (2, "open"), (3, "closed"),
        ]  # fmt: skip
        until = f"{key.until:%H:%M:%S}: upstream_error"
        assert health(cli) == f"demo/demo-smart half-open; demo key 2 open until {until}"
        assert "fake-" not in cli("models", "show", "smart", "--json").out


def test_a_gateway_that_was_killed_says_nothing_any_more(cli, ready):
    with served(held()):
        pass
    assert health(cli) == ""

    with served() as number:
        assert health(cli) == "ok"
    with closing(open_database(load(Path("config.yaml")).database_path)), transaction():
        breakers.write_down(number, [held()])
        instances.end(number, clock.now())
        assert breakers.held_off() == []
