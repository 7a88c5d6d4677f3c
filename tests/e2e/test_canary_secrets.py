"""Every secret is marked; whatever a gateway does, none turns up where it has no business."""

import base64
import http.server
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import httpx
import pytest
from support.collectors import collector
from support.gateways import lay_out

from gatewayctl.main import run

LAUNCH = "import sys; from gatewayctl.main import run; sys.exit(run())"
# Serves as `gatewayctl serve` does; at SIGUSR1 it loses a part, so that a bug crashes requests.
SERVE = """
import os, signal, sys
from gatewayctl.ending import status_of
from gatewayctl.session import Session
from pathlib import Path
from server.config.load import load
from server.lifecycle import serve

def ready(gateway):
    lose = lambda *_: setattr(gateway.services.gateway, "rules", None)
    signal.signal(signal.SIGUSR1, lose)
    print(gateway.url, flush=True)

sys.exit(status_of(Session(), lambda: serve(load(Path(sys.argv[1])), port=0, ready=ready)))
"""
ENVIRON = {
    "CANARY_KEY": "sk-ant-api03-canary7aEnvironment0123456789abcdefghij",
    "CANARY_TOKEN": "canary7bHeaderToken0123456789",
    "CANARY_PASSWORD": "canary7cProxyPassword0123456789",
    "CANARY_COLLECTOR": "canary7iCollectorToken0123456789",
    "STRIPE_SECRET_KEY": "sk_test_canary7dStripe0123456789abcdef",
    "STRIPE_WEBHOOK_SECRET": "whsec_canary7eWebhook0123456789abcdef",
}
FILE_KEY = "sk-proj-canary7fFile0123456789abcdefghijklmnop"
LITERALS = {
    "key": "sk-ant-api03-canary7jLiteral0123456789abcdefghij",
    "token": "canary7kLiteralToken0123456789",
    "password": "canary7lLiteralPassword0123456789",
    "webhook": "whsec_canary7mLiteral0123456789abcdef",
}
PRESENTED = (
    "sk-ant-api03-canary7gPresented0123456789abcdefghij",
    "gwk_canary7hMalformed0123456789abcdefghijklmnopqrstuv",
)
CONFIG = """
server: {{public_url: "https://gateway.example"}}
log: {{level: debug}}
traces: {{endpoint: "{collector}", headers: {{authorization: "Bearer ${{CANARY_COLLECTOR}}"}}}}
upstreams:
  messages: {{protocol: anthropic, base_url: "{url}", api_key: "${{CANARY_KEY}}",
    headers: {{x-team-token: "${{CANARY_TOKEN}}"}}}}
  chat: {{protocol: openai, base_url: "{url}/v1", api_key: "file:key.txt"}}
  proxied: {{protocol: openai, base_url: "{url}/v1", api_key: "file:key.txt",
    proxy: "http://user:${{CANARY_PASSWORD}}@127.0.0.1:1"}}
  nowhere: {{protocol: anthropic, base_url: "http://127.0.0.1:1", api_key: "${{CANARY_KEY}}"}}
  written: {{protocol: anthropic, base_url: "{url}", api_keys: ["{key}"],
    headers: {{x-team-token: "{token}"}}}}
  written_proxied: {{protocol: anthropic, base_url: "{url}", api_key: "{key}",
    proxy: "http://user:{password}@127.0.0.1:1"}}
models:
  good: {{targets: [{{upstream: messages, model: good}}], free: true}}
  m400: {{targets: [{{upstream: messages, model: "400"}}], free: true}}
  m401: {{targets: [{{upstream: messages, model: "401"}}], free: true}}
  c400: {{targets: [{{upstream: chat, model: "400"}}], free: true}}
  c401: {{targets: [{{upstream: chat, model: "401"}}], free: true}}
  proxied: {{targets: [{{upstream: proxied, model: good}}], free: true}}
  nowhere: {{targets: [{{upstream: nowhere, model: good}}], free: true}}
  written: {{targets: [{{upstream: written, model: "400"}}], free: true}}
  written_proxied: {{targets: [{{upstream: written_proxied, model: good}}], free: true}}
auto: {{default: good}}
tiers: {{team: {{name: Team, price_cents: 2000, stripe_lookup_key: team}}}}
stripe: {{api_base: "http://127.0.0.1:1",
  webhook_secrets: ["${{STRIPE_WEBHOOK_SECRET}}", "{webhook}"]}}
"""
MODELS = (
    *("good", "m400", "m401", "c400", "c401"),
    *("proxied", "nowhere", "written", "written_proxied"),
)
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "good",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


class _Provider(http.server.BaseHTTPRequestHandler):
    """Answers well, or refuses with the key that it was sent in its message."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["x-api-key"] or self.headers["authorization"]
        self.server.heard |= {key, self.headers["x-team-token"]}
        status = int(asked["model"]) if asked["model"].isdigit() else 200
        message = f"Incorrect API key provided: {key}."
        error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
        self._answer(status, ANSWER if status == 200 else error)

    def do_GET(self):
        self._answer(401, {"error": {"message": f"Wrong: {self.headers}"}})

    def _answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Stay silent."""


@contextmanager
def _provider():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Provider) as server:
        server.heard = set()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A config, a way to run commands in its folder, and all that was said so far."""
    for name, value in {**ENVIRON, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    said = []

    def command(*words):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            run(["--config", str(tmp_path / "config.yaml"), *words])
        said.append(err.getvalue().encode())
        if not {"init", "create", "rotate"} & set(words):
            said.append(out.getvalue().encode())
        return out.getvalue()

    return tmp_path, command, said


def _requests(url, key):
    """Send good and bad requests; give the answers."""
    answers = []
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:

        def ask(method, path, secret=key, **options):
            answers.append(client.request(method, path, headers={"x-api-key": secret}, **options))
            return answers[-1]

        for model in MODELS:
            for stream in (False, True):
                body = {"model": model, "max_tokens": 9, "stream": stream}
                body["messages"] = [{"role": "user", "content": "hi"}]
                ask("POST", "/v1/messages", json=body)
                ask("POST", "/v1/chat/completions", json=body)
        for secret in PRESENTED:
            ask("POST", "/v1/messages", secret, json={})
            client.get("/tenant/usage", headers={"authorization": f"Bearer {secret}"})
        for content in (b"{", b"\xff", b'{"model": 1}', b"[" * 2000):
            ask("POST", "/v1/messages", content=content)
        ask("POST", "/tenant/billing/topup", json={"amount_cents": 2500})
        ask("POST", "/stripe/webhook", content=b"{}")
        ask("PUT", "/v1/messages")
        ask("GET", "/v1/models/nothing")
        # Who sent it may read it again in the answer, and nobody else anywhere.
        for secret in (key, LITERALS["webhook"]):
            client.get(f"/nowhere/{'a/' * 80}{secret}/{secret}?key={secret}")
    return answers


def _process_texts(pid):
    """Give the arguments of a process and of its children, and the children's environment."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    yield Path(f"/proc/{pid}/cmdline").read_bytes()
    for child in children:
        yield Path(f"/proc/{child}/cmdline").read_bytes()
        yield Path(f"/proc/{child}/environ").read_bytes()


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux's /proc")
def test_no_secret_turns_up_in_logs_database_output_spans_or_process_lists(house):
    folder, command, said = house
    with _provider() as (provider, provider_url), collector() as there:
        lay_out(folder, CONFIG.format(url=provider_url, collector=there.url, **LITERALS))
        (folder / "key.txt").write_text(FILE_KEY + "\n")
        first = command("init").strip()
        made = command("keys", "create", "canary", "--json")
        second, key_id = (json.loads(made)[name] for name in ("secret", "id"))
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(folder / "config.yaml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        url = process.stdout.readline().decode().strip()
        assert url, process.stderr.read().decode()
        answers = _requests(url, first)
        minted = httpx.post(
            f"{url}/tenant/keys", headers={"x-api-key": second}, json={"name": "child"}
        ).json()["secret"]
        third = command("keys", "rotate", key_id).strip()
        for words in (
            ["keys", "list", "--json"],
            ["keys", "show", key_id],
            ["config", "show"],
            ["config", "show", "--json"],
            ["config", "check"],
            ["models", "check"],
            ["credits", "sync"],
            ["credits", "grant", "5", "--reason", "canary"],
            ["usage", "--by", "key"],
            ["db", "check"],
            ["service", "install", "--print"],
            ["keys", "revoke"],
        ):
            command(*words)
        _let_the_collector_refuse(there, url, first)
        process.send_signal(signal.SIGUSR1)
        crash = httpx.post(f"{url}/v1/messages", headers={"x-api-key": first}, json=_ask())
        listed = list(_process_texts(process.pid))
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=30)
        listed += _as_served(folder)

    secrets = [*ENVIRON.values(), *LITERALS.values(), FILE_KEY, *PRESENTED]
    secrets += [first, second, third, minted]
    passwords = (ENVIRON["CANARY_PASSWORD"], LITERALS["password"])
    secrets += [base64.b64encode(f"user:{each}".encode()).decode() for each in passwords]
    assert len(set(secrets)) == 19
    assert all(len(secret) > 20 for secret in secrets)
    assert {ENVIRON["CANARY_KEY"], f"Bearer {FILE_KEY}", ENVIRON["CANARY_TOKEN"]} <= provider.heard
    assert {LITERALS["key"], LITERALS["token"]} <= provider.heard
    assert {200, 400, 401, 404, 405, 502} <= {answer.status_code for answer in answers}
    assert there.headers[0]["authorization"] == f"Bearer {ENVIRON['CANARY_COLLECTOR']}"
    assert len(there.spans) == 4 * len(MODELS)
    files = _files(folder)
    del files[folder / "key.txt"], files[folder / "config.yaml"]
    log = files[folder / "gateway.log"]
    assert crash.status_code == 500
    assert b"Traceback" in log
    assert b"Stripe: APIConnectionError" in log
    assert b"Not welcome: Bearer ***" in log
    assert any(b"gatewayctl.serving" in each for each in listed)
    bodies = [answer.content for answer in [*answers, crash]]
    heads = [str(answer.headers).encode() for answer in answers]
    for place, texts in {
        "files": [*files.values(), *_values(folder / "gateway.db")],
        "output": said,
        "process list": listed,
        "answers": bodies + heads,
        "spans": there.bodies,
    }.items():
        text = b"\n".join(texts)
        found = [each for each in secrets if any(piece in text for piece in _pieces(each))]
        assert found == [], place


def _ask():
    return {"model": "good", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


def _pieces(secret):
    """Give what nobody may see of a secret: keys are listed by their first 8 and last 4.

    A part of it is as bad: something may have cut it short.
    """
    core = secret[8:-4].encode()
    return (core[at : at + 12] for at in range(len(core) - 11))


def _let_the_collector_refuse(there, url, secret):
    """Have the collector, once it has all spans so far, say in its refusal what it was sent."""
    deadline = time.monotonic() + 10
    while len(there.spans) < 4 * len(MODELS) and time.monotonic() < deadline:
        time.sleep(0.02)
    there.status, there.echo = 401, "authorization"
    httpx.post(f"{url}/v1/messages", headers={"x-api-key": secret}, json=_ask())


def _as_served(folder):
    """Give the process list's view of the real `gatewayctl serve`, which becomes another one."""
    words = ["--config", str(folder / "config.yaml"), "serve", "--port", "0", "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            process.stdout.readline()
            return list(_process_texts(process.pid))
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def _values(path):
    """Give every text and blob in the database: a page may hold one in pieces."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            for row in database.execute(f'SELECT * FROM "{name}"'):
                yield from (os.fsencode(str(value)) for value in row)
    database.close()
