"""A database that cannot be read is our trouble: nobody is told that their key is wrong."""

import json
import sqlite3
from contextlib import closing

import httpx
from sanic import Sanic
from support.gateways import DEMO_CONFIG
from support.processes import prepare
from support.wires import ASK, check_refusal, request, run, wire

from server.config.load import load
from server.lifecycle import running

PAGE_BYTES = 4096
BODY = json.dumps(ASK).encode()


def _damage(path, name):
    """Write over the root page of the table or index `name`."""
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (root,) = connection.execute(sql, (name,)).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES)


def test_where_keys_cannot_be_read_every_route_that_needs_one_is_a_503(tmp_path):
    secret = prepare(tmp_path, DEMO_CONFIG)
    settings = load(tmp_path / "config.yaml")
    asked = {
        "/v1/messages": ("anthropic", "overloaded_error"),
        "/cline/chat/completions": ("openai", "unavailable"),
        "/tenant/keys": ("openai", "unavailable"),
        "/v1/messages/count_tokens": ("anthropic", "overloaded_error"),
    }

    async def scenario():
        Sanic.test_mode = True
        async with running(settings, port=0, environ={}) as gateway, wire(gateway.url) as client:
            _damage(settings.database_path, "key_secret_sha256")  # at the start it would be found
            replies = [
                await client.ask(request("POST", path, BODY, x_api_key=secret)) for path in asked
            ]
            async with httpx.AsyncClient(base_url=gateway.url) as other:
                return replies, (await other.get("/healthz")).status_code

    replies, healthy = run(scenario)

    for reply, (protocol, kind) in zip(replies, asked.values(), strict=True):
        check_refusal(reply, protocol, 503, kind)
        assert reply.header("retry-after") == "1"
        assert reply.header("x-should-retry") is None
    assert healthy == 200
