"""`serve`, `quickstart` and `mock` as real processes."""

import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from gatewayctl.session import Session
from server import clock
from server.billing import ledger
from server.billing.ledger import Kind
from server.store.models import Entry
from server.tenants import tenants

LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"
PATIENCE_S = 15


class Server:
    """A running `gatewayctl` command; what it wrote so far is in `out` and `err`."""

    def __init__(self, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.out, self.err = [], []
        self._readers = [
            threading.Thread(target=target.extend, args=(stream,))
            for target, stream in ((self.out, self.process.stdout), (self.err, self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def document(self):
        """Wait for the JSON that a server prints once it serves."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                return json.loads("".join(self.out))
            except ValueError:
                assert self.process.poll() is None, "".join(self.err)
                time.sleep(0.02)
        raise TimeoutError("".join(self.out) + "".join(self.err))

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def start(home):
    """Start a command, and end it with the test."""
    started = []

    def call(*words):
        started.append(Server(*words))
        return started[-1]

    yield call
    for server in started:
        server.stop()


@pytest.fixture
def paid(ready):
    """What `init` makes, with ten dollars granted to the tenant."""
    with Session().changing():
        default, now = tenants.find("default").id, clock.now()
        ledger.post(default, Kind.GRANT, 10_000_000, ref="x", at=now, created_by="cli")
    return ready


def get(url, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
        return json.loads(reply.read())


def ask(url, key, path="/v1/messages"):
    with request(url + path, key) as reply:
        return json.loads(reply.read())


def request(url, key, **more):
    """Send a request; its answer is still to be read."""
    body = {
        "model": "auto",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Say hello."}],
        **more,
    }
    headers = {"x-api-key": key, "content-type": "application/json"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers)
    return urllib.request.urlopen(asked, timeout=5)


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as err:
        err.close()
        return err.code


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def test_quickstart_sets_up_and_serves_and_a_second_run_reuses_everything(start, cli, home):
    first = start("quickstart", "--port", "0", "--json")
    made = first.document()

    reply = ask(made["url"], made["key"]["secret"], "/claudecode/v1/messages")
    assert reply["type"] == "message"
    assert first.stop(signal.SIGINT) == 0
    usage = cli("usage", "--by", "tool", "--json").json["data"]
    assert [(row["tool"], row["requests"]) for row in usage] == [("claudecode", 1)]

    again = start("quickstart", "--port", "0", "--json")

    assert again.document()["key"] is None
    assert ask(again.document()["url"], made["key"]["secret"])["type"] == "message"
    assert len(cli("keys", "list").rows) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("after_s", [0, 0.05])
def test_ctrl_c_while_serve_imports_is_one_line_and_130(start, ready, after_s):
    server = start("serve", "--port", "0")
    command = Path(f"/proc/{server.process.pid}/cmdline")
    deadline = time.monotonic() + PATIENCE_S
    while b"gatewayctl.serving" not in command.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(after_s)  # not to wait for something: so far into its imports it is hit

    code = server.stop(signal.SIGINT)

    assert (code, server.err) == (130, ["error: Interrupted.\n"])


def test_a_second_ctrl_c_ends_quickstart_at_once_with_1(start, ready, config):
    config("model: demo-smart", 'model: "fault:endless"')
    server = start("quickstart", "--port", "0", "--json")
    url, deadline = server.document()["url"], time.monotonic() + PATIENCE_S
    with request(f"{url}/v1/messages", ready.out.strip(), stream=True) as endless:
        endless.readline()
        server.process.send_signal(signal.SIGINT)
        while status_of(f"{url}/readyz") == 200 and time.monotonic() < deadline:
            time.sleep(0.02)

        assert server.stop(signal.SIGINT) == 1


def test_quickstart_grants_ten_dollars_once(start, cli, ready):
    first = start("quickstart", "--port", "0", "--json")
    granted = first.document()["credits"]
    first.stop()

    again = start("quickstart", "--port", "0", "--json").document()["credits"]

    assert (granted["object"], granted["currency"]) == ("credits", "usd")
    assert (granted["balance_micros"], granted["available_micros"]) == (10_000_000, 10_000_000)
    assert again == granted
    with Session().reading():
        (entry,) = Entry.select().where(Entry.kind == "grant").dicts()
        ref = f"quickstart:{tenants.find('default').public_id}"
    assert (entry["ref"], entry["amount_micros"]) == (ref, 10_000_000)
    assert (entry["created_by"], entry["reason"]) == ("cli", "quickstart")


def test_quickstart_prints_the_key_once_and_three_ways_to_call(start):
    server = start("quickstart", "--port", "0")
    deadline = time.monotonic() + PATIENCE_S
    while "Ctrl-C" not in "".join(server.err) and time.monotonic() < deadline:
        time.sleep(0.02)
    server.stop()

    out, err = "".join(server.out), "".join(server.err)
    assert out.startswith("gwk_")
    assert out.count("\n") == 1
    assert err.count(out.strip()) == 1
    assert "$10.00 of credit; `gatewayctl credits show` tells what is left." in err
    for word in ("curl -N", "ANTHROPIC_BASE_URL=http://127.0.0.1:", "from openai import OpenAI"):
        assert word in err
    assert max(map(len, err.split("# OpenAI")[0].splitlines())) <= 80


def test_quickstart_mints_a_key_where_none_is_active(start, cli, ready):
    cli("keys", "revoke", cli("keys", "list").rows[0][0])

    made = start("quickstart", "--port", "0", "--json").document()

    assert ask(made["url"], made["key"]["secret"])["type"] == "message"


def test_a_taken_port_names_itself_and_the_way_out(start, taken, home):
    server = start("quickstart", "--port", taken)

    assert server.process.wait(PATIENCE_S) == 1
    server.stop()
    err = "".join(server.err)
    assert f"127.0.0.1:{taken}" in err
    assert "--port" in err
    assert "Traceback" not in err
    assert "".join(server.out).startswith("gwk_")  # what was minted before is not lost


def test_a_key_survives_a_taken_port_in_json_too(start, taken, home):
    server = start("quickstart", "--port", taken, "--json")
    server.process.wait(PATIENCE_S)
    server.stop()

    made = json.loads("".join(server.out))
    assert made["url"] is None
    assert made["key"]["secret"].startswith("gwk_")
    assert json.loads("".join(server.err))["error"]["code"] == "port_taken"


def test_serve_tells_where_it_is_and_stops_when_told(start, paid):
    server = start("serve", "--port", "0", "--json")
    url = server.document()["url"]

    assert get(f"{url}/healthz") == {"status": "ok"}
    assert ask(url, paid.out.strip())["type"] == "message"
    assert server.stop() == 0


@pytest.mark.parametrize("streams", [">&- 2>&-", "2>/dev/full"])
def test_serve_goes_on_where_nobody_can_be_told_anything(ready, streams):
    """As an old script for daemons starts it; or a terminal, or a disk, that went away."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, "-c", LAUNCH, "serve", "--port", str(port)]
    process = subprocess.Popen(f"exec {shlex.join(words)} {streams}", shell=True)
    deadline, answer = time.monotonic() + PATIENCE_S, None

    try:
        while answer is None and process.poll() is None and time.monotonic() < deadline:
            try:
                answer = get(f"http://127.0.0.1:{port}/healthz")
            except OSError:
                time.sleep(0.02)
        process.terminate()
        code = process.wait(PATIENCE_S)
    finally:
        process.kill()

    assert (answer, code) == ({"status": "ok"}, 0)


def test_while_it_serves_the_commands_work_and_a_second_server_does_not(start, paid, cli):
    server = start("serve", "--port", "0", "--json")
    url = server.document()["url"]

    secret = cli("keys", "create", "while-running").out.strip()
    assert ask(url, secret)["type"] == "message"
    cli("keys", "revoke", cli("keys", "list").rows[0][0])
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        ask(url, secret)
    refused.value.close()
    assert cli("db", "migrate").code == 7
    again = cli("quickstart", "--port", "0", "--json")
    assert (again.code, again.error["code"]) == (7, "locked")


def test_a_second_server_is_told_of_the_first_and_not_of_its_port(start, ready, cli):
    first = start("serve", "--port", "0", "--json")
    port = first.document()["url"].rpartition(":")[2]

    second = start("serve", "--port", port, "--json")

    assert second.process.wait(PATIENCE_S) == 7
    second.stop()
    error = json.loads("".join(second.err))["error"]
    assert error["code"] == "locked"
    assert f"process {first.process.pid};" in error["message"]


def test_while_it_serves_a_subscription_that_ends_has_ended_at_once(start, ready, cli):
    url = start("serve", "--port", "0", "--json").document()["url"]
    key = ready.out.strip()
    before = get(f"{url}/tenant/subscription", x_api_key=key)

    ended = cli("subscription", "cancel", "--json")

    assert (before["status"], ended.json["status"]) == ("active", "canceled")
    assert get(f"{url}/tenant/subscription", x_api_key=key) == ended.json


def test_serve_refuses_a_port_that_is_taken(start, ready, taken):
    server = start("serve", "--port", taken, "--json")

    assert server.process.wait(PATIENCE_S) == 1
    server.stop()
    assert json.loads("".join(server.err))["error"]["code"] == "port_taken"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "DELETE FROM schema_migration",
            "could not be migrated and is as it was: table instance already exists",
        ),
        (
            "INSERT INTO schema_migration (name, applied) VALUES ('9999_later', 0)",
            "was made by a newer release; upgrade gatewayctl.",
        ),
    ],
    ids=["a migration that fails", "a newer release"],
)
def test_serve_leaves_a_database_that_it_cannot_migrate_as_it_was(
    start, ready, home, change, message
):
    path = home / "gateway.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    before = path.read_bytes()

    server = start("serve", "--port", "0")
    server.process.wait(PATIENCE_S)

    assert server.stop() == 7
    assert server.out == []
    (line,) = server.err
    assert line.startswith(f"error: {path} {message}")
    assert path.read_bytes() == before
    assert not [*home.glob("gateway.db-*")]


@pytest.mark.parametrize(
    ("keys", "place", "reference"),
    [
        ('api_key: "${THERE_KEY}"', "upstreams.there.api_key", "${THERE_KEY}"),
        (
            'api_keys: ["a-fake-key", "fake-${THERE_2}", "file:third.key"]',
            "upstreams.there.api_keys[1]",
            "${THERE_2}, file:third.key",
        ),
    ],
)
def test_serve_refuses_to_start_without_an_upstreams_key(
    start, ready, config, keys, place, reference
):
    config("  demo:\n", '  there:\n    protocol: openai\n    base_url: "http://127.0.0.1:9"\n'
           f"    {keys}\n  demo:\n")  # fmt: skip
    config("upstream: demo, model: demo-smart", "upstream: there, model: some")

    server = start("serve")
    server.process.wait(PATIENCE_S)

    assert server.stop() == 2
    assert f"{place}: resolves to nothing: there needs {reference}; " in "".join(server.err)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_server_does_not_carry_what_the_command_line_needed(start, ready):
    """Typer brings pydantic: nine megabytes for as long as the gateway runs."""
    server = start("serve", "--port", "0", "--json")
    server.document()

    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    words = Path(f"/proc/{server.process.pid}/cmdline").read_text()
    server.stop()

    assert "httptools" in mapped
    assert "pydantic" not in mapped
    assert words.split("\0")[1:4] == ["-P", "-m", "gatewayctl.serving"]


def test_serving_beyond_this_machine_without_tls_is_worth_a_warning(start, ready):
    server = start("serve", "--host", "0.0.0.0", "--port", "0")
    deadline = time.monotonic() + PATIENCE_S
    while "Serving at" not in "".join(server.err) and time.monotonic() < deadline:
        time.sleep(0.02)
    server.stop()

    assert "warning: 0.0.0.0 can be reached from other machines" in "".join(server.err)


def test_the_demo_upstream_serves_alone(start, home):
    server = start("mock", "--port", "0", "--journal", "served.jsonl", "--json")
    url = server.document()["url"]

    assert ask(url, "any-key")["content"]
    assert "fault:overloaded" in [model["id"] for model in get(f"{url}/v1/models")["data"]]
    assert server.stop() == 0
    assert (home / "served.jsonl").read_text()


def test_the_demo_upstream_names_a_port_that_is_taken(cli, taken):
    done = cli("mock", "--port", taken, "--json")

    assert (done.code, done.error["code"]) == (1, "port_taken")
    assert taken in done.error["message"]
