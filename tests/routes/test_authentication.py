"""Who may call what: keys in either header, scopes, kinds, revocation and expiry."""

import asyncio
import json
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest
from support.gateways import DEMO_CONFIG, config_for, started
from support.raw_upstream import BIT
from support.wires import (
    ASK,
    MESSAGE,
    TOOLS,
    check_refusal,
    http_answer,
    recording,
    request,
    run,
    until,
    wire,
)

from server import clock
from server.tenants import secrets
from server.tenants.keys import Billing, Scope

BODY = json.dumps(ASK).encode()
PATHS = ("/v1/messages", "/claudecode/v1/messages", "/v1/models", "/v1/messages/count_tokens")
UNKNOWN = secrets.generate()


async def _statuses(gateway, **headers):
    """Ask each kind of route."""
    async with wire(gateway.url) as connection:
        return {
            (
                await connection.ask(
                    request("GET", path, **headers)
                    if path.endswith("models")
                    else request("POST", path, BODY, **headers)
                )
            ).status
            for path in PATHS
        }


def test_either_header_may_hold_the_key_and_the_other_may_hold_anything(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            key = gateway.secret
            ways = [
                {"x_api_key": key},
                {"x_api_key": f"  {key}  "},
                {"authorization": f"Bearer {key}"},
                {"authorization": f"bearer   {key}"},
                {"AUTHORIZATION": f"BEARER {key}"},
                {"authorization": f"Bearer {key}", "x_api_key": key},
                {"authorization": f"Bearer {key}", "x_api_key": UNKNOWN},
                {"authorization": f"Bearer {key}", "x_api_key": "dummy"},
                {"authorization": f"Bearer {key}", "x_api_key": ""},
                {"authorization": f"Bearer {UNKNOWN}", "x_api_key": key},
                {"authorization": "Bearer ", "x_api_key": key},
                {"authorization": "Basic dXNlcjpwYXNz", "x_api_key": key},
            ]
            return [await _statuses(gateway, **way) for way in ways]

    assert run(scenario) == [{200}] * 12


NO_KEYS = [
    "",
    " ",
    "dummy",
    "gwk_",
    "' OR '1'='1",
    "gwk_' OR '1'='1' --",
    "%",
    "null",
    "\xe9\xff" * 20,
    "gwk_\xe9" + "a" * 48,
    "x" * 10_000,
    "gwk_" + "a" * 10_000,
    UNKNOWN,
    UNKNOWN[:-1],
    "gwk_" + "0" * 49,
    "a" * 64,
]


def test_whatever_is_no_key_is_a_401_that_is_not_to_be_retried(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            seen = []
            for key in NO_KEYS:
                bearer = {"authorization": f"Bearer {key}"}
                asked = [
                    request("POST", "/v1/messages", BODY, x_api_key=key),
                    request("POST", "/cursor/v1/chat/completions", BODY, **bearer),
                    request("GET", "/tenant/keys", x_api_key=key, authorization="Bearer x"),
                    request("GET", "/v1/models", authorization=key),
                ]
                seen.append([await connection.ask(each) for each in asked])
            return seen, await gateway.rows()

    seen, rows = run(scenario)

    log = (tmp_path / "gateway.log").read_text()
    for key, replies in zip(NO_KEYS, seen, strict=True):
        check_refusal(replies[0], "anthropic", 401, "authentication_error")
        for reply in replies[1:]:
            check_refusal(reply, "openai", 401, "invalid_api_key")
        assert {reply.header("x-should-retry") for reply in replies} == {"false"}
        if len(key) > 5:
            assert key not in log
            assert all(key.encode("latin-1") not in reply.body for reply in replies)
    assert rows == []
    assert log.count("refused 127.0.0.1: ") == 4 * len(NO_KEYS)
    assert " ERROR " not in log


@pytest.mark.parametrize("public_url", [None, "https://gateway.example.com"])
def test_a_subscription_key_works_on_tool_routes_only_and_is_told_so(tmp_path, public_url):
    config = DEMO_CONFIG + (f'server: {{public_url: "{public_url}"}}\n' if public_url else "")

    async def scenario():
        async with started(tmp_path, config) as gateway:
            _, secret = await gateway.mint(billing=Billing.SUBSCRIPTION)
            async with wire(gateway.url) as connection:
                paths = ["/v1/messages", "/v1/chat/completions"]
                paths += [f"/{tool}/v1/messages" for tool in TOOLS]
                paths += ["/v1/messages/count_tokens"]
                return [
                    await connection.ask(request("POST", path, BODY, x_api_key=secret))
                    for path in paths
                ]

    messages, chat, *served = run(scenario)

    told = check_refusal(messages, "anthropic", 403, "permission_error")
    assert told == check_refusal(chat, "openai", 403, "key_not_allowed")
    for tool in TOOLS:
        assert f"{public_url or ''}/{tool}" in told
    assert messages.header("x-should-retry") == "false"
    assert {reply.status for reply in served} == {200}


def test_an_inference_key_changes_and_sees_no_keys(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            key_id, secret = await gateway.mint(scope=Scope.INFERENCE)
            async with wire(gateway.url) as connection:
                asked = [
                    request("GET", "/tenant/keys", x_api_key=secret),
                    request("POST", "/tenant/keys", b'{"name":"x"}', x_api_key=secret),
                    request("GET", f"/tenant/keys/{key_id}", x_api_key=secret),
                    request("DELETE", f"/tenant/keys/{key_id}", x_api_key=secret),
                    request("GET", "/tenant/keys/key_nobody", x_api_key=secret),
                ]
                refused = [await connection.ask(each) for each in asked]
                served = await connection.ask(
                    request("POST", "/v1/messages", BODY, x_api_key=secret)
                )
        return refused, served

    refused, served = run(scenario)

    for reply in refused:
        check_refusal(reply, "openai", 403, "scope_not_allowed")
    assert served.status == 200


def _elsewhere(folder, sql, *values):
    """Change the database from outside, as the command line does while the gateway serves."""
    with closing(sqlite3.connect(folder / "gateway.db")) as connection:
        connection.execute(sql, values)
        connection.commit()


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_revocation_elsewhere_lets_streams_finish_and_refuses_the_next_request(tmp_path, column):
    """The key was just used and may be remembered: the very next request is refused."""
    first = (
        b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
        b'{"input_tokens":7,"output_tokens":1}}}\n\n'
    ) + BIT
    last = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    async def scenario():
        go_on = asyncio.Event()

        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
            writer.write(head + first)
            await go_on.wait()
            writer.write(last)
            writer.close()

        upstream = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
        async with started(tmp_path, config_for(url)) as gateway:
            key_id, secret = await gateway.mint()
            ask = json.dumps({**ASK, "stream": True}).encode()
            post = request("POST", "/v1/messages", ask, x_api_key=secret)
            async with wire(gateway.url) as stream, wire(gateway.url) as other:
                await stream.send(post)
                await stream.reader.readuntil(b"message_start")
                now = clock.to_ms(clock.now())
                sql = f'UPDATE "key" SET {column} = ? WHERE public_id = ?'
                _elsewhere(tmp_path, sql, now, key_id)
                refused = [await other.ask(post) for _ in range(2)]
                refused.append(await other.ask(request("GET", "/v1/models", x_api_key=secret)))
                go_on.set()
                rest = await stream.reader.readuntil(b"0\r\n\r\n")
            rows = await gateway.rows()
        upstream.close()
        return refused, rest, rows

    refused, rest, rows = run(scenario)

    assert [reply.status for reply in refused] == [401, 401, 401]
    assert last in rest
    assert [row["outcome"] for row in rows] == ["completed"]


def test_a_revocation_over_http_counts_at_once_and_twice_is_the_same(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            key_id, secret = await gateway.mint()
            headers = {"x-api-key": secret}
            before = await client.post("/v1/messages", json=ASK, headers=headers)
            revoked = [await client.delete(f"/tenant/keys/{key_id}") for _ in range(2)]
            after = await client.post("/v1/messages", json=ASK, headers=headers)
        return before, revoked, after

    before, (first, second), after = run(scenario)

    assert (before.status_code, after.status_code) == (200, 401)
    assert first.json() == second.json()
    assert first.json()["status"] == "revoked"


def test_a_remembered_key_that_has_died_is_told_nothing_else(tmp_path):
    """Not which models there are, nor how the providers do."""
    routing = "routing: {max_attempts: 1, breaker_failures: 1, breaker_open_s: 60}"

    async def scenario():
        async with (
            recording(http_answer(503, b"{}")) as upstream,
            started(tmp_path, f"{config_for(upstream.url)}{routing}\n") as gateway,
        ):
            key_id, secret = await gateway.mint(billing=Billing.SUBSCRIPTION)
            asks = [("/claudecode/v1/messages", ASK), ("/v1/messages", ASK)]
            asks += [("/claudecode/v1/messages", {"model": "nobody", "messages": []})]
            asks += [("/claudecode/v1/messages", {"max_tokens": -1})]
            posts = [
                request("POST", path, json.dumps(ask).encode(), x_api_key=secret)
                for path, ask in [asks[0], *asks]
            ]
            await gateway.subscribe("team")
            async with wire(gateway.url) as connection:
                before = [(await connection.ask(post)).status for post in posts]
                sql = 'UPDATE "key" SET revoked_at = ? WHERE public_id = ?'
                _elsewhere(tmp_path, sql, clock.to_ms(clock.now()), key_id)
                after = [(await connection.ask(post)).status for post in posts]
            return before, after

    before, after = run(scenario)

    assert before == [529, 529, 403, 404, 400]
    assert after == [401] * 5


def test_where_one_of_two_keys_dies_the_other_counts(tmp_path):
    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
            gateway.client() as client,
        ):
            key_id, secret = await gateway.mint()
            both = {"authorization": f"Bearer {secret}"}
            before = await client.post("/v1/messages", json=ASK, headers=both)
            await client.delete(f"/tenant/keys/{key_id}")
            after = await client.post("/v1/messages", json=ASK, headers=both)
            return before.status_code, after.status_code, await gateway.rows()

    before, after, rows = run(scenario)

    assert (before, after) == (200, 200)
    assert rows[0]["key"] != rows[1]["key"]


def test_a_key_expires_by_itself(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            _, secret = await gateway.mint(expires_at=clock.now() + timedelta(milliseconds=300))
            seen = {200}

            async def is_refused():
                status = await _statuses(gateway, x_api_key=secret)
                seen.update(status)
                return status == {401}

            await until(is_refused)
            return seen

    assert run(scenario) == {200, 401}


def test_a_refusal_names_the_client_behind_a_trusted_proxy(tmp_path):
    config = DEMO_CONFIG + 'server: {trusted_proxies: ["127.0.0.1", "10.0.0.0/8"]}\n'

    async def scenario():
        async with started(tmp_path, config) as gateway, wire(gateway.url) as connection:
            forwarded = "203.0.113.9, 198.51.100.7, 10.1.2.3"
            return await connection.ask(
                request("GET", "/v1/models", x_api_key=UNKNOWN, x_forwarded_for=forwarded)
            )

    reply = run(scenario)

    line = f"{reply.header('request-id')}: refused 198.51.100.7: "
    assert line in (tmp_path / "gateway.log").read_text()
