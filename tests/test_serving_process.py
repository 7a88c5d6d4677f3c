"""A real `serve` process: signals, drains, crashes, and what keeps it from starting."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from urllib.parse import urlsplit
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import httpx
import peewee
import pytest
from support.gateways import DEMO_CONFIG, lay_out
from support.validators import check_messages_stream

from server import clock
from server.config.load import load
from server.lifecycle import PortTaken, serve
from server.store import models
from server.store.db import open_database, transaction
from server.store.lock import ServeLock
from server.store.migrate import migrate
from server.store.problems import LockHeld
from server.tenants import keys, secrets, tenants

STREAM = {
    "model": "slow",
    "max_tokens": 100,
    "stream": True,
    "messages": [{"role": "user", "content": "hello"}],
}
CONFIG = DEMO_CONFIG.replace(
    "models:",
    "models:\n"
    '  slow: {targets: [{upstream: demo, model: "fault:stall:1.5"}], free: true}\n'
    '  endless: {targets: [{upstream: demo, model: "fault:endless:20"}], free: true}',
)
TOLD = "The gateway is restarting; send the request again."
SCRIPT = """
import sys
from pathlib import Path
from server.config.load import load
from server.lifecycle import serve

def ready(gateway):
    print(gateway.url, flush=True)

sys.exit(serve(load(Path(sys.argv[1])), port=0, ready=ready))
"""


def _prepare(folder, config=CONFIG):
    """Lay out a folder with a database and a key; give the config's path and the secret."""
    path = lay_out(folder, config)
    database_path = load(path).database_path
    migrate(database_path)
    database = open_database(database_path)
    secret, now = secrets.generate(), clock.now()
    with transaction():
        tenant = tenants.ensure_default(now)
        keys.mint(
            tenant.id,
            "test",
            billing=keys.Billing.PAY_PER_TOKEN,
            scope=keys.Scope.MANAGE,
            member=None,
            expires_at=None,
            created_by="cli",
            now=now,
            secret=secret,
        )
    database.close()
    return path, secret


@contextmanager
def _serving(path):
    """Run `serve` in a process of its own; gives it, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class _Streams:
    """Streams that run in threads, until each ends in its own way."""

    def __init__(self, url, secret, count, ask=STREAM):
        self._client = httpx.Client(base_url=url, headers={"x-api-key": secret}, timeout=30)
        self._begun = threading.Semaphore(0)
        self.ends = []
        self._threads = [
            threading.Thread(target=self._read, args=(ask,), daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            assert self._begun.acquire(timeout=20)

    def _read(self, ask):
        received = b""
        try:
            with self._client.stream("POST", "/v1/messages", json=ask) as answer:
                for piece in answer.iter_raw():
                    if not received:
                        self._begun.release()
                    received += piece
        except httpx.HTTPError as error:
            received = error
        self.ends.append(received)

    def join(self):
        for thread in self._threads:
            thread.join(20)
        self._client.close()
        return self.ends


def _rows(path):
    database = open_database(load(path).database_path, query_only=True)
    try:
        return list(models.Request.select().order_by(models.Request.id).dicts())
    finally:
        database.close()


def _wait_until_draining(url):
    """Ask as a load balancer does: on a new connection each time."""
    deadline = time.monotonic() + 5
    while httpx.get(url + "/readyz").json() != {"status": "draining"}:
        assert time.monotonic() < deadline, "it went on to be ready"
        time.sleep(0.01)


def _get(url, path):
    with urlopen(HttpRequest(url + path), timeout=5) as answer:
        return json.load(answer)


def test_the_first_signal_lets_20_streams_finish_and_then_the_process_ends(tmp_path):
    path, secret = _prepare(tmp_path)

    with _serving(path) as (process, url):
        idle = httpx.Client(base_url=url)  # a kept-alive connection must not delay the end
        assert idle.get("/readyz").json() == {"status": "ready"}
        waiting = httpx.Client(base_url=url, headers={"x-api-key": secret})
        streams = _Streams(url, secret, 20)
        process.send_signal(signal.SIGTERM)
        _wait_until_draining(url)
        refused = waiting.post("/v1/messages", json=STREAM)
        healthy = httpx.get(url + "/healthz")
        ends = streams.join()
        last = time.monotonic()
        status = process.wait(10)
        lag = time.monotonic() - last
        idle.close()
        waiting.close()

    assert all(check_messages_stream(received) for received in ends)
    assert len(ends) == 20
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json()["error"]["message"] == TOLD
    assert (healthy.status_code, healthy.headers["connection"]) == (200, "close")
    assert status == 0
    assert lag < 0.5
    assert [row["outcome"] for row in _rows(path)] == ["completed"] * 20


def test_while_draining_a_connection_in_use_gets_a_503_and_is_closed(tmp_path):
    """The request is on its way when the signal comes: its body follows after it."""
    path, secret = _prepare(tmp_path)

    with _serving(path) as (process, url):
        streams = _Streams(url, secret, 1)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as client:
            ask = json.dumps(STREAM).encode()
            head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(ask)}\r\n"
            client.sendall(head.encode())
            time.sleep(0.1)  # nothing shows when the process has read this
            process.send_signal(signal.SIGTERM)
            _wait_until_draining(url)
            client.sendall(f"x-api-key: {secret}\r\n\r\n".encode() + ask)
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        ends = streams.join()
        status = process.wait(10)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 5\r\n" in answer
    assert b"\r\nconnection: close\r\n" in answer
    assert b'"type":"overloaded_error"' in answer
    assert check_messages_stream(ends[0])
    assert status == 0


def test_a_look_at_readyz_while_draining_is_told_so(tmp_path):
    """A load balancer that asks on a connection that stood before the signal."""
    path, secret = _prepare(tmp_path)

    with _serving(path) as (process, url):
        streams = _Streams(url, secret, 1)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 5) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\n")
            time.sleep(0.1)  # nothing shows when the process has read this
            process.send_signal(signal.SIGTERM)
            _wait_until_draining(url)
            client.sendall(b"\r\n")
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        streams.join()
        status = process.wait(10)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b'{"status":"draining"}')
    assert status == 0


def test_sighup_has_the_config_read_again_and_ends_nothing(tmp_path):
    """A second one is no wish to end at once, and a running stream notices neither."""
    path, secret = _prepare(tmp_path)

    with _serving(path) as (process, url):
        streams = _Streams(url, secret, 2)
        path.write_text(path.read_text().replace("demo-smart", "demo-other"))
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        _wait_until_logged(tmp_path, "config reloaded, changed: models")
        ends = streams.join()
        ready = _get(url, "/readyz")
        process.send_signal(signal.SIGTERM)
        status = process.wait(10)

    assert all(check_messages_stream(received) for received in ends)
    assert (ready, status) == ({"status": "ready"}, 0)


def test_under_nohup_too_sighup_has_the_config_read_again(tmp_path):
    path, _ = _prepare(tmp_path)
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does; children inherit it

    try:
        with _serving(path) as (process, url):
            process.send_signal(signal.SIGHUP)
            _wait_until_logged(tmp_path, "config reloaded, changed: nothing")
            ready = _get(url, "/readyz")
            status = process.poll()
    finally:
        signal.signal(signal.SIGHUP, kept)

    assert (ready, status) == ({"status": "ready"}, None)


def _wait_until_logged(folder, words):
    deadline = time.monotonic() + 5
    while words not in (folder / "gateway.log").read_text():
        assert time.monotonic() < deadline, "the log never said it"
        time.sleep(0.02)


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    path, secret = _prepare(tmp_path)

    with _serving(path) as (process, url):
        streams = _Streams(url, secret, 2, {**STREAM, "model": "endless"})
        process.send_signal(signal.SIGINT)
        _wait_until_draining(url)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(2) == 1
        ends = streams.join()

    assert all(isinstance(end, httpx.HTTPError) for end in ends)


@contextmanager
def _locked(path):
    """Hold the database's write lock, as a program that hangs might."""
    with closing(sqlite3.connect(load(path).database_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_a_second_signal_ends_a_process_whose_database_is_stuck(tmp_path):
    """The first one would have it wait for what it has to write."""
    path, _ = _prepare(tmp_path)

    with _serving(path) as (process, url):
        assert _get(url, "/readyz") == {"status": "ready"}
        with _locked(path):
            process.send_signal(signal.SIGTERM)
            _wait_until_unbound(process, url)
            process.send_signal(signal.SIGTERM)
            status = process.wait(1)

    assert status == 1


def _wait_until_unbound(process, url):
    """Wait until nobody listens any more: what is left to do is to be written."""
    parts, deadline = urlsplit(url), time.monotonic() + 5
    while True:
        try:
            socket.create_connection((parts.hostname, parts.port), 5).close()
        except OSError:
            assert process.poll() is None
            return
        assert time.monotonic() < deadline, "it went on to listen"
        time.sleep(0.01)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_signal_while_it_starts_ends_it_before_it_is_ready(tmp_path, signals):
    """One lets it come to a clean end; a second does not wait for the database."""
    path, _ = _prepare(tmp_path)
    port = _free_port()

    with _locked(path):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.replace("port=0", f"port={port}"), str(path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        _wait_until_bound(port)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)  # or the system makes one of two
        if signals == 2:
            status = process.wait(1)
    if signals == 1:
        status = process.wait(10)
    said = process.communicate()[0]

    assert (status, said) == (signals - 1, "")


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_bound(port):
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            assert time.monotonic() < deadline, "it never listened"
            time.sleep(0.01)
        else:
            return


def test_streams_that_outlast_the_drain_are_cut_and_settled(tmp_path):
    path, secret = _prepare(tmp_path, CONFIG + "server: {drain_s: 0.5}\n")

    with _serving(path) as (process, url):
        streams = _Streams(url, secret, 3, {**STREAM, "model": "endless"})
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status = process.wait(10)
        took = time.monotonic() - begun
        ends = streams.join()

    rows = _rows(path)
    assert status == 0
    assert took < 2
    for end in ends:
        event, _, data = end.rstrip().rpartition(b"\n\n")[2].partition(b"\ndata: ")
        assert event == b"event: error"
        assert json.loads(data)["error"] == {"type": "overloaded_error", "message": TOLD}
    assert [(row["state"], row["outcome"]) for row in rows] == [("settled", "cancelled")] * 3


def test_what_a_killed_process_left_open_is_settled_as_interrupted(tmp_path):
    path, secret = _prepare(tmp_path)
    with _serving(path) as (process, url):
        streams = _Streams(url, secret, 3, {**STREAM, "model": "endless"})
        process.kill()
        process.wait()
        streams.join()
    assert {row["state"] for row in _rows(path)} == {"open"}

    with _serving(path) as (_, url):
        assert _get(url, "/readyz") == {"status": "ready"}
        rows = _rows(path)

    assert [(row["state"], row["outcome"]) for row in rows] == [("settled", "interrupted")] * 3
    assert all(row["input_tokens"] > 0 for row in rows)
    database = peewee.SqliteDatabase(load(path).database_path)
    assert database.execute_sql("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_named_and_nothing_is_touched(tmp_path, host):
    path = lay_out(tmp_path, CONFIG)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(PortTaken, match=rf"{port}\b.* --port"):
            serve(load(path), host=host, port=port)

    assert not (tmp_path / "gateway.db").exists()


def test_a_database_that_another_process_serves_is_left_alone(tmp_path):
    path, _ = _prepare(tmp_path)

    with ServeLock(load(path).database_path), pytest.raises(LockHeld, match=r"in use by process"):
        serve(load(path), port=0)


def test_a_process_listens_on_ipv6_too(tmp_path):
    path, _ = _prepare(tmp_path, CONFIG + 'server: {host: "::1"}\n')

    with _serving(path) as (_, url):
        assert url.startswith("http://[::1]:")
        assert _get(url, "/healthz") == {"status": "ok"}
