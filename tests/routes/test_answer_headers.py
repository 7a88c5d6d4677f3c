"""What crosses the gateway in headers: ids both ways, limits one way, keys and the rest never."""

import json

import pytest
from support.gateways import config_for, started
from support.wires import (
    ASK,
    COMPLETION,
    MESSAGE,
    check_refusal,
    http_answer,
    recording,
    request,
    run,
    wire,
)

UPSTREAM_KEY = "sk-fake-upstream-key"
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
ANSWERS = {"anthropic": MESSAGE, "openai": COMPLETION}
OURS = {"request-id", "x-request-id", "content-type", "content-length", "connection"}
SHOWN = {
    "retry-after": "7",
    "anthropic-ratelimit-requests-remaining": "4",
    "x-ratelimit-remaining-tokens": "5",
    "openai-processing-ms": "12",
}
HIDDEN = {
    "x-api-key": UPSTREAM_KEY,
    "authorization": f"Bearer {UPSTREAM_KEY}",
    "set-cookie": "a=b",
    "server": "cloudflare",
    "alt-svc": 'h3=":443"',
    "access-control-allow-origin": "*",
    "anthropic-organization-id": "org-secret",
    "openai-organization": "org-secret",
    "location": "http://10.0.0.1/",
    "www-authenticate": "Bearer",
    "x-internal-host": "10.0.0.1",
    "via": "1.1 internal",
}
UPSTREAM = [f"{name}: {value}" for name, value in {**SHOWN, **HIDDEN}.items()]
ID = "request-id: req_upstream_1"


def _exchange(tmp_path, answer, *, protocol="anthropic", headers=None, ask=ASK):
    async def scenario():
        async with (
            recording(answer) as upstream,
            started(tmp_path, config_for(upstream.url, protocol=protocol)) as gateway,
            wire(gateway.url) as connection,
        ):
            sent = {"x_api_key": gateway.secret, **(headers or {})}
            body = json.dumps(ask).encode()
            reply = await connection.ask(request("POST", PATHS[protocol], body, **sent))
            return reply, upstream.heads, gateway.secret, await gateway.rows()

    return run(scenario)


@pytest.mark.parametrize("protocol", PATHS)
def test_only_ids_and_limits_come_back_from_an_upstream(tmp_path, protocol):
    answer = http_answer(200, ANSWERS[protocol], ID, *UPSTREAM)

    reply, _, _, rows = _exchange(tmp_path, answer, protocol=protocol)

    names = [name for name, _ in reply.headers]
    assert set(names) == OURS | set(SHOWN) | {"x-upstream-request-id"}
    assert len(names) == len(set(names))
    assert {name: reply.header(name) for name in SHOWN} == SHOWN
    assert reply.header("x-upstream-request-id") == "req_upstream_1"
    assert rows[0]["upstream_request_id"] == "req_upstream_1"


def test_a_stream_has_the_same_headers_and_is_not_to_be_cached(tmp_path):
    events = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
        b'{"input_tokens":7,"output_tokens":1}}}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    answer = http_answer(200, events, ID, *UPSTREAM)
    answer = answer.replace(b"application/json", b"text/event-stream")

    reply, _, _, _ = _exchange(tmp_path, answer, ask={**ASK, "stream": True})

    names = {name for name, _ in reply.headers} - {"transfer-encoding", "content-length"}
    expected = OURS - {"content-length"} | {"cache-control", "x-upstream-request-id"}
    assert names == expected | set(SHOWN)
    assert reply.header("content-type") == "text/event-stream; charset=utf-8"
    assert reply.body == events


@pytest.mark.parametrize("protocol", PATHS)
def test_the_upstreams_key_never_comes_back_with_an_error(tmp_path, protocol):
    error = {"type": "whatever", "message": f"Incorrect API key provided: {UPSTREAM_KEY}."}
    statuses = (302, 400, 401, 403, 404, 413, 429, 500, 503, 529)

    async def scenario():
        async with (
            recording(None) as upstream,
            started(tmp_path, config_for(upstream.url, protocol=protocol)) as gateway,
            wire(gateway.url) as connection,
        ):
            replies = []
            for status in statuses:
                upstream.answer = http_answer(status, {"error": error}, ID, *UPSTREAM)
                body = json.dumps(ASK).encode()
                post = request("POST", PATHS[protocol], body, x_api_key=gateway.secret)
                replies.append(await connection.ask(post))
            return replies

    replies = run(scenario)

    for reply in replies:
        assert reply.status >= 400
        assert UPSTREAM_KEY.encode() not in reply.body
        assert not {name for name, _ in reply.headers} & set(HIDDEN)
    log = (tmp_path / "gateway.log").read_text()
    assert UPSTREAM_KEY not in log
    assert "hello" not in log


@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_upstreams_error_brings_its_id_and_its_limits_too(tmp_path, status):
    answer = http_answer(status, {"error": {"message": "no"}}, ID, *UPSTREAM)

    reply, _, _, rows = _exchange(tmp_path, answer)

    assert rows[0]["upstream_request_id"] == "req_upstream_1"
    assert reply.header("x-upstream-request-id") == "req_upstream_1"
    assert reply.header("anthropic-ratelimit-requests-remaining") == "4"


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("header", ["x_api_key", "authorization"])
def test_the_clients_key_and_its_other_headers_stay_here(tmp_path, protocol, header):
    async def scenario():
        async with (
            recording(http_answer(200, ANSWERS[protocol])) as upstream,
            started(tmp_path, config_for(upstream.url, protocol=protocol)) as gateway,
            wire(gateway.url) as connection,
        ):
            value = gateway.secret if header == "x_api_key" else f"Bearer {gateway.secret}"
            sent = {
                header: value,
                "cookie": "a=b",
                "x_request_id": "theirs",
                "x_forwarded_for": "192.0.2.1",
                "x_stainless_os": "Linux",
                "user_agent": "their-agent",
                "anthropic_beta": "one-2025-01-01,two-2025-01-01",
            }
            body = json.dumps(ASK).encode()
            reply = await connection.ask(request("POST", PATHS[protocol], body, **sent))
            return reply, upstream.heads[0].decode(), gateway.secret

    reply, head, secret = run(scenario)

    names = {line.split(":")[0] for line in head.split("\r\n")[1:-2]}
    fixed = {"host", "accept-encoding", "content-type", "user-agent", "content-length"}
    expected = {
        "anthropic": fixed | {"x-api-key", "anthropic-version", "anthropic-beta", "x-request-id"},
        "openai": fixed | {"authorization", "x-request-id"},
    }
    assert names == expected[protocol]
    assert secret not in head
    assert "theirs" not in head
    assert "their-agent" not in head
    assert f"x-request-id: {reply.header('request-id')}" in head
    assert secret not in (tmp_path / "gateway.log").read_text()


@pytest.mark.parametrize("value", ["a\x80b", "tab\there", "x" * 5000])
def test_a_forwarded_header_that_cannot_be_carried_is_a_400(tmp_path, value):
    reply, heads, _, rows = _exchange(
        tmp_path, http_answer(200, MESSAGE), headers={"anthropic_beta": value}
    )

    assert reply.status == 400
    assert (heads, rows) == ([], [])


def test_the_clients_own_request_id_is_only_logged_and_only_where_asked_for(tmp_path):
    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url, more="log: {level: debug}\n")) as gateway,
            wire(gateway.url) as connection,
        ):
            replies = []
            for theirs in ("theirs-1", "theirs-1", "y" * 129, "xyz\xe9", "b" * 128):
                sent = {"x_api_key": gateway.secret, "x_request_id": theirs}
                body = json.dumps(ASK).encode()
                replies.append(await connection.ask(request("POST", "/v1/messages", body, **sent)))
            return replies, await gateway.rows()

    replies, rows = run(scenario)

    ids = [reply.header("request-id") for reply in replies]
    log = (tmp_path / "gateway.log").read_text()
    assert [row["request_id"] for row in rows] == ids
    assert len(set(ids)) == 5
    assert f"{ids[0]}: the client calls it theirs-1\n" in log
    assert "b" * 128 in log
    assert "y" * 100 not in log
    assert "xyz" not in log


def test_every_kind_of_answer_carries_our_id_and_no_header_of_a_server(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            key = {"x_api_key": gateway.secret, "origin": "https://example.com"}
            asked = [
                request("GET", "/healthz", **key),
                request("GET", "/readyz", **key),
                request("GET", "/pricing", **key),
                request("GET", "/pricing/tokens", **key),
                request("GET", "/v1/models", **key),
                request("GET", "/v1/models/auto", **key),
                request("GET", "/tenant/keys", **key),
                request("POST", "/tenant/keys", b'{"name":"x"}', **key),
                request("GET", "/tenant/usage", **key),
                request("POST", "/v1/messages/count_tokens", json.dumps(ASK).encode(), **key),
                request("OPTIONS", "/v1/messages", **key),
                request("GET", "/nowhere", **key),
                request("POST", "/v1/messages", b"{", **key),
                request("GET", "/v1/models"),
                b"GET / HTTP/1.1\r\n\r\n",
            ]
            async with wire(gateway.url) as connection:
                return [await connection.ask(each) for each in asked]

    replies = run(scenario)

    for reply in replies:
        names = {name for name, _ in reply.headers}
        assert names <= OURS | {"allow", "x-should-retry"}
        assert reply.header("request-id").startswith("req_")
        assert reply.header("request-id") == reply.header("x-request-id")
    assert len({reply.header("request-id") for reply in replies}) == len(replies)


def test_a_bug_of_ours_is_a_bare_500_and_its_traceback_is_in_the_log(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            gateway.gateway.rules = None
            body = json.dumps(ASK).encode()
            asked = [
                request("POST", "/v1/messages", body, x_api_key=gateway.secret),
                request("GET", "/v1/models", x_api_key=gateway.secret),
                request("GET", "/healthz"),
            ]
            return [await connection.ask(each) for each in asked]

    messages, models, healthy = run(scenario)

    told = check_refusal(messages, "anthropic", 500, "api_error")
    assert told == check_refusal(models, "openai", 500, "internal")
    assert "NoneType" not in told
    assert messages.header("x-should-retry") is None
    assert healthy.status == 200
    log = (tmp_path / "gateway.log").read_text()
    assert f"unhandled error ({messages.header('request-id')})\nTraceback" in log


@pytest.mark.parametrize("line", ["x-ratelimit-a: 1\n b", "x-ratelimit-a: 1\rset-cookie: a=b"])
def test_an_upstream_cannot_begin_another_header_in_ours(tmp_path, line):
    reply, _, _, _ = _exchange(tmp_path, http_answer(200, MESSAGE, line))

    assert reply.status in (200, 502)
    assert not {name for name, _ in reply.headers} & set(HIDDEN)
    assert all("\r" not in value and "\n" not in value for _, value in reply.headers)
