"""Bodies nested to the last level that is read: refused or served, on any route, never our bug."""

import json
from collections import Counter

import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import request, run, wire

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
