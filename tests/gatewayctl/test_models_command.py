import http.server
import json
import socket
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.billing import prices
from server.config.load import load
from server.store.db import open_database, transaction

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


class _Provider(http.server.BaseHTTPRequestHandler):
    """Lists models to who has the key, redirects who asks for it."""

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        good = "good-fake-key" in self.headers.get("authorization", "")
        body = b'{"data":[]}'
        self.send_response(302 if self.server.redirects else 200 if good else 401)
        self.send_header("location", "/elsewhere")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture
def provider():
    with http.server.HTTPServer(("127.0.0.1", 0), _Provider) as server:
        server.seen, server.redirects = [], False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def routed(ready, config):
    """Route `smart` to an upstream of the given protocol at the given port."""

    def route(port, protocol="openai", extra=""):
        config(
            "  demo:\n",
            f"  there:\n    protocol: {protocol}\n    base_url: http://127.0.0.1:{port}/v1\n"
            f'    api_key: "${{THERE_KEY}}"\n{extra}  demo:\n',
        )
        config("upstream: demo, model: demo-smart", "upstream: there, model: some")

    return route


def test_models_are_listed_with_targets_prices_and_names(cli, ready):
    smart = cli("models", "list", "--json").json["data"][0]

    assert smart["id"] == "smart"
    assert smart["targets"] == [
        {"upstream": "demo", "model": "demo-smart", "order": 1, "weight": 1, "health": None}
    ]
    assert smart["keys"] == [{"upstream": "demo", "key": 1, "health": None}]
    assert smart["price"]["cache_write_1h"] == "8.00"
    assert smart["aliases"] == ["auto", "claude-*"]
    assert cli("models", "show", "smart", "--json").json == smart
    assert cli("models", "list").rows[0] == [
        *("smart", "demo/demo-smart", "4.00", "20.00", "0.20", "5.00", "8.00", "auto, claude-*"),
        "",
    ]


def test_a_model_is_shown_with_what_chooses_between_its_targets(cli, ready, config):
    config("fallback: null", "fallback: fast")
    config(
        "- {upstream: demo, model: demo-smart}",
        "- {upstream: demo, model: demo-smart, weight: 3}\n"
        "      - {upstream: demo, model: demo-fast, weight: 0, order: 2}",
    )

    shown = cli("models", "show", "smart", "--json").json
    told = dict(cli("models", "show", "smart").rows)

    assert [(each["order"], each["weight"]) for each in shown["targets"]] == [(1, 3), (2, 0)]
    assert (shown["fallback"], told["fallback"]) == ("fast", "fast")
    assert told["targets"] == (
        "demo/demo-smart (order 1, weight 3), demo/demo-fast (order 2, weight 0)"
    )
    assert dict(cli("models", "show", "fast").rows)["fallback"] == ""


def test_a_class_without_a_price_of_its_own_is_listed_at_what_it_costs(cli, ready):
    fast = cli("models", "show", "fast", "--json").json["price"]

    assert fast == {
        "input": "0.75",
        "output": "4.50",
        "cache_read": "0.075",
        "cache_write_5m": "0.75",
        "cache_write_1h": "0.75",
        "per_request": {"web_search": "0.01"},
    }


def test_what_else_a_model_bills_is_shown(cli, ready, config):
    config(
        "      per_request:\n",
        '      long_context: {above_input_tokens: 200000, input: "8.00", output: "30.00"}\n'
        '      per_request:\n        speed: {fast: "6"}\n',
    )

    price = cli("models", "show", "smart", "--json").json["price"]

    assert price["long_context"] == {
        "above_input_tokens": 200_000,
        "input": "8.00",
        "output": "30.00",
        "cache_read": "8.00",
        "cache_write_5m": "8.00",
        "cache_write_1h": "8.00",
    }
    assert price["per_request"] == {"web_search": "0.01", "speed": {"fast": "6"}}


def test_a_price_is_shown_with_its_number_once_the_database_has_it(cli, ready, config):
    def numbers():
        listed = cli("models", "list", "--json").json["data"]
        return {model["id"]: model["price_number"] for model in listed}

    settings = load(Path("config.yaml"))
    with closing(open_database(settings.database_path)), transaction():
        in_force = prices.in_force(settings.config, NOW)
    assert numbers() == {name: price.number for name, price in in_force.items()}

    config('"4.00"', '"4.01"')
    assert numbers() == {"smart": None, "fast": in_force["fast"].number}


def test_models_are_listed_without_a_database(cli, ready):
    Path("gateway.db").unlink()

    done = cli("models", "list", "--json")

    assert [model["price_number"] for model in done.json["data"]] == [None, None]
    assert done.err == ""


def test_a_free_model_has_no_price(cli, ready, config):
    config(
        'price: {input: "0.75", output: "4.50", cache_read: "0.075", '
        'per_request: {web_search: "0.01"}}',
        "free: true",
    )

    free = cli("models", "list", "--json").json["data"][1]

    assert (free["price"], free["price_number"]) == (None, None)
    assert cli("models", "list").rows[1][2:7] == [""] * 5


def test_an_unknown_model_is_not_found_with_near_ones(cli, ready):
    done = cli("models", "show", "smrt")

    assert done.code == 5
    assert '"smart"' in done.err
    assert "`gatewayctl models list`" in cli("models", "show", "nothing-like-it").err


def test_the_demo_upstream_is_always_fine(cli, ready):
    done = cli("models", "check", "--json")

    assert done.code == 0
    assert [(each["upstream"], each["ok"]) for each in done.json["data"]] == [("demo", True)]


def test_an_upstream_that_answers_is_fine(cli, provider, routed, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "good-fake-key")
    monkeypatch.setenv("X_TEAM", "platform")
    routed(provider.server_port, extra='    headers: {x-team: "${X_TEAM}"}\n')

    done = cli("models", "check", "--json")

    there = done.json["data"][0]
    assert (done.code, there["key"], there["connects"], there["answers"]) == (
        0,
        "found",
        True,
        True,
    )
    path, headers = provider.seen[0]
    assert path == "/v1/models"
    assert {name.lower(): value for name, value in headers.items()}["x-team"] == "platform"


def test_the_anthropic_protocol_sends_its_own_headers(cli, provider, routed, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "good-fake-key")
    routed(provider.server_port, "anthropic")

    done = cli("models", "check", "--json")

    path, headers = provider.seen[0]
    sent = {name.lower(): value for name, value in headers.items()}
    assert done.code == 3
    assert done.json["data"][0]["status"] == 401
    assert (path, sent["x-api-key"]) == ("/v1/models", "good-fake-key")
    assert sent["anthropic-version"] == "2023-06-01"


def test_a_missing_key_fails_the_check(cli, provider, routed):
    routed(provider.server_port)

    done = cli("models", "check", "--json")

    assert done.code == 3
    assert done.json["data"][0]["key"] == "missing"
    assert json.loads(done.err)["error"]["code"] == "check_failed"


def test_each_key_of_an_upstream_is_tried(cli, provider, routed, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "good-fake-key")
    monkeypatch.setenv("SECOND_KEY", "bad-fake-key")
    routed(provider.server_port, extra='    api_keys: ["${SECOND_KEY}"]\n')

    refused = cli("models", "check", "--json")
    monkeypatch.setenv("SECOND_KEY", "another-good-fake-key")
    taken = cli("models", "check", "--json")

    assert (refused.code, taken.code) == (3, 0)
    there = refused.json["data"][0]
    assert (there["key"], there["status"]) == ("found", 401)
    assert there["detail"].startswith("key 2: ")
    assert "there" in refused.error["message"]


def test_keys_may_all_be_in_the_list(cli, provider, routed, config, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "good-fake-key")
    routed(provider.server_port)
    config('api_key: "${THERE_KEY}"', 'api_keys: ["${THERE_KEY}"]')

    done = cli("models", "check", "--json")

    assert (done.code, done.json["data"][0]["key"]) == (0, "found")


def test_a_redirect_is_not_followed_with_the_key(cli, provider, routed, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "good-fake-key")
    provider.redirects = True
    routed(provider.server_port)

    assert cli("models", "check").code == 3
    assert [path for path, _ in provider.seen] == ["/v1/models"]


def test_an_upstream_that_is_not_there_fails_the_check(cli, routed, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "good-fake-key")
    with socket.socket() as deaf:  # bound, so that nobody else listens there meanwhile
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        routed(port)

        done = cli("models", "check", "--json")

    there = done.json["data"][0]
    assert (done.code, there["connects"], there["answers"]) == (3, False, None)
    assert f"127.0.0.1:{port}" in there["detail"]


def test_a_check_in_a_pipe_says_yes_and_no(cli, provider, routed, monkeypatch):
    monkeypatch.setenv("THERE_KEY", "bad-fake-key")
    routed(provider.server_port)

    done = cli("models", "check")

    assert done.rows[0][:5] == ["there", "openai", "found", "yes", "no"]
    assert "Cannot serve: there." in done.err
