"""What a bug of ours does to the request that meets it: it is told as one, and settled."""

import json

import pytest
from support.gateways import started
from support.priced import check_books, config, prove
from support.wires import run

ASK = {"model": "smart", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}


class Broken:
    """An upstream client with a bug; `keys` and `close` are those of the real one."""

    def __init__(self, real):
        self.keys, self.close = real.keys, real.close

    async def forward(self, _dispatch, _attempt):
        return {}["nothing"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_is_told_as_one_and_leaves_no_hold(tmp_path, caplog, stream):
    async def scenario():
        async with started(tmp_path, config()) as gateway, gateway.client() as client:
            real = gateway.gateway.upstream
            gateway.gateway.adopt(gateway.gateway.rules, Broken(real))
            reply = await client.post("/v1/messages", json=ASK | {"stream": stream})
            gateway.gateway.adopt(gateway.gateway.rules, real)
            served = await client.post("/v1/messages", json=ASK)
            return reply.status_code, json.loads(reply.content)["error"], served.status_code

    status, error, after = run(scenario)

    assert (status, error["type"], after) == (500, "api_error", 200)
    assert "its log has the details" in error["message"]
    assert "KeyError" in caplog.text
    broken, _ = check_books(tmp_path)
    assert (broken["status"], broken["error"], broken["cost_micros"]) == (500, "internal", 0)
    prove(tmp_path)
