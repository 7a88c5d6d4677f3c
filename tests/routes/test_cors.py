"""Web pages of other origins: those of server.cors_origins may call, and nobody else's."""

import json

import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import ASK, check_refusal, request, run, wire

PAGE, OTHER = "https://chat.example.com", "https://evil.example.com"
OPEN = DEMO_CONFIG + f"server: {{cors_origins: ['{PAGE}', 'http://127.0.0.1:5173']}}\n"
BODY = json.dumps(ASK).encode()
STREAM = json.dumps({**ASK, "stream": True}).encode()
SENT_BY_SDKS = (
    "anthropic-dangerous-direct-browser-access,anthropic-version,anthropic-beta,authorization,"
    "content-type,openai-organization,x-api-key,x-stainless-package-version,x-stainless-retry-count"
)


def _ask_all(folder, config, *asked):
    async def scenario():
        async with started(folder, config) as gateway:
            replies = []
            for method, path, body, headers in asked:
                async with wire(gateway.url) as connection:
                    key = {"x_api_key": gateway.secret} if method != "OPTIONS" else {}
                    data = request(method, path, body, **key, **headers)
                    replies.append(await connection.ask(data, head_only=method == "OPTIONS"))
            return replies

    return run(scenario)


def _preflight(path, origin=PAGE, method="POST"):
    headers = {
        "origin": origin,
        "access_control_request_method": method,
        "access_control_request_headers": f"{SENT_BY_SDKS},x-invented",
    }
    return "OPTIONS", path, None, headers


def _told(reply):
    return {name: value for name, value in reply.headers if name.startswith("access-control-")}


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/messages", "POST"),
        ("/cline/v1/chat/completions", "POST"),
        ("/codex/responses", "POST"),
        ("/v1/messages/count_tokens", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/cursor/models/smart", "GET, HEAD"),
        ("/tenant/keys", "GET, HEAD, POST"),
        ("/tenant/keys/key_1", "DELETE, GET, HEAD"),
    ],
)
def test_a_page_that_is_named_is_told_what_it_may_send(tmp_path, path, methods):
    (reply,) = _ask_all(tmp_path, OPEN, _preflight(path))

    assert reply.status == 204
    told = _told(reply)
    assert told.pop("access-control-expose-headers").startswith("request-id, retry-after")
    assert told == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": methods,
        "access-control-allow-headers": SENT_BY_SDKS.replace(",", ", "),
        "access-control-max-age": "600",
    }
    assert reply.header("vary") == "Origin"


@pytest.mark.parametrize(
    "ask",
    [
        ("POST", "/v1/messages", BODY, {"origin": PAGE}),
        ("POST", "/v1/messages", STREAM, {"origin": PAGE}),
        ("POST", "/v1/messages", b"{", {"origin": PAGE}),
        ("GET", "/tenant/nowhere", None, {"origin": PAGE}),
        ("GET", "/v1/models", None, {"origin": "http://127.0.0.1:5173"}),
    ],
)
def test_it_may_read_every_answer_a_refusal_and_a_stream_too(tmp_path, ask):
    (reply,) = _ask_all(tmp_path, OPEN, ask)

    assert reply.header("access-control-allow-origin") == ask[3]["origin"]
    assert "retry-after" in reply.header("access-control-expose-headers")
    assert "access-control-allow-credentials" not in _told(reply)
    assert reply.header("vary") == "Origin"


def test_other_pages_and_other_routes_are_told_nothing(tmp_path):
    """Caches learn that another page may be told something."""
    refused, plain, unasked, health, metrics, preflight = _ask_all(
        tmp_path,
        OPEN,
        _preflight("/v1/messages", OTHER),
        ("POST", "/v1/messages", BODY, {"origin": OTHER}),
        ("OPTIONS", "/v1/messages", None, {"origin": PAGE}),
        ("GET", "/healthz", None, {"origin": PAGE}),
        _preflight("/metrics", method="GET"),
        _preflight("/v1/nowhere"),
    )

    assert [refused.status, unasked.status, metrics.status] == [405] * 3
    assert (plain.status, health.status, preflight.status) == (200, 200, 404)
    for reply in (refused, plain, health, metrics):
        assert _told(reply) == {}
    assert [reply.header("vary") for reply in (refused, plain, health)] == ["Origin"] * 2 + [None]


def test_without_the_setting_no_page_is_told_anything(tmp_path):
    asked, answered = _ask_all(
        tmp_path,
        DEMO_CONFIG,
        _preflight("/v1/messages"),
        ("POST", "/v1/messages", b"{", {"origin": PAGE}),
    )

    assert (asked.status, asked.header("allow")) == (405, "POST")
    check_refusal(answered, "anthropic", 400, "invalid_request_error")
    for reply in (asked, answered):
        assert _told(reply) == {}
        assert reply.header("vary") is None
