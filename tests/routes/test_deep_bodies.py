"""Bodies nested to the last level that is read, or long without end: never our bug."""

import json
from collections import Counter

import pytest
from support.gateways import DEMO_CONFIG, config_for, started
from support.wires import MESSAGE, http_answer, recording, request, run, wire

HELLO = [{"role": "user", "content": "hello"}]
ASK = {"model": "smart", "max_tokens": 10, "messages": HELLO}
CODEX = {"model": "smart", "input": HELLO}
TOOL = {"type": "function", "name": "t", "parameters": {"x": 0}}
ROUTES = {
    "/v1/messages": {**ASK, "tools": [{"name": "t", "input_schema": {"x": 0}}]},
    "/cline/v1/chat/completions": {**ASK, "tools": [{"type": "function", "function": TOOL}]},
    "/cursor/v1/chat/completions": {**ASK, "tools": [{"name": "t", "input_schema": {"x": 0}}]},
    "/codex/v1/responses": {**CODEX, "tools": [TOOL]},
}


@pytest.mark.parametrize("path", ROUTES)
def test_the_last_level_that_is_read_is_no_error_of_ours(tmp_path, path):
    """What reads a body again may stand deeper on the stack than what has let it pass."""
    whole = json.dumps(ROUTES[path])

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, wire(gateway.url) as connection:
            statuses = []
            for depth in range(960, 1000):
                deep = whole.replace('{"x": 0}', '{"x": ' + "[" * depth + "]" * depth + "}")
                asking = request("POST", path, deep.encode(), x_api_key=gateway.secret)
                statuses.append((await connection.ask(asking)).status)
            return statuses

    statuses = run(scenario)

    assert Counter(statuses).keys() <= {200, 400}, statuses
    assert statuses[-1] == 400
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


MANY = 20_001
BLOCK = [{"type": "text", "text": "x"}]
TWO_WAYS = """
upstreams:
  demo: {protocol: demo}
  chat: {protocol: openai, base_url: "http://127.0.0.1:9/v1", api_key: k}
models:
  smart: {targets: [{upstream: demo, model: demo}], free: true}
  over: {targets: [{upstream: chat, model: far}], free: true}
auto: {default: smart}
"""
LONG = {
    "fields": ("/v1/messages", ASK | {f"x{n}": 1 for n in range(1001)}),
    "turns": ("/v1/messages", ASK | {"model": "over", "messages": HELLO * MANY}),
    "blocks": (
        "/v1/messages",
        ASK | {"model": "over", "messages": [{"role": "user", "content": BLOCK * MANY}]},
    ),
    "items": ("/codex/v1/responses", {"model": "over", "input": HELLO * MANY}),
}


@pytest.mark.parametrize("what", LONG)
def test_what_would_be_looked_at_one_by_one_without_end_is_refused(tmp_path, what):
    path, ask = LONG[what]

    async def scenario():
        async with started(tmp_path, TWO_WAYS) as gateway, wire(gateway.url) as connection:
            asking = request("POST", path, json.dumps(ask).encode(), x_api_key=gateway.secret)
            return await connection.ask(asking), await gateway.rows()

    reply, rows = run(scenario)

    assert (reply.status, rows) == (400, [])
    assert str(MANY - 1) in reply.body.decode() or "1,000" in reply.body.decode()


def test_a_preset_leaves_a_system_of_too_many_blocks_as_it_is(tmp_path):
    ask = ASK | {"system": BLOCK * MANY, "tools": [{"name": "t", "input_schema": {}}]}

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
            gateway.client() as client,
        ):
            reply = await client.post("/claudecode/v1/messages", json=ask)
            return reply.status_code, json.loads(upstream.bodies[0])["system"]

    assert run(scenario) == (200, BLOCK * MANY)
