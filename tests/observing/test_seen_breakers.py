"""What is seen of targets and keys that are held off, in figures and in the database."""

import sqlite3
from contextlib import closing

import pytest
from support.gateways import started
from support.prometheus import parse
from support.wires import MESSAGE, http_answer, recording, run, until

from server.store import breakers

REFUSED = http_answer(401, {"type": "error", "error": {"type": "x", "message": "no"}})
BROKEN = http_answer(500, {"type": "error", "error": {"type": "api_error", "message": "no"}})
STATE = "gatewayctl_breaker_state"
ASK = {"model": "smart", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def _config(url):
    return f"""
upstreams:
  there:
    protocol: anthropic
    base_url: "{url}"
    api_keys: ["sk-fake-one", "sk-fake-two"]
models:
  smart: {{targets: [{{upstream: there, model: m}}], free: true}}
routing: {{max_attempts: 2, backoff_s: 0, breaker_failures: 2, breaker_open_s: 60}}
"""


async def _shown(gateway):
    async with gateway.client() as client:
        return (await client.get("/metrics")).text


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(REFUSED, {"m": 0, "1": 2, "2": 2}), (BROKEN, {"m": 2, "1": 0, "2": 0})],
)
def test_metrics_show_the_state_of_each_target_and_key_by_its_number(tmp_path, answer, expected):
    async def scenario():
        async with (
            recording(answer) as upstream,
            started(tmp_path, _config(upstream.url)) as gateway,
            gateway.client() as client,
        ):
            before = parse(await _shown(gateway))
            await client.post("/v1/messages", json=ASK)
            return before, await _shown(gateway)

    before, text = run(scenario)

    after = parse(text)
    assert set(before[STATE].values()) == {0}
    found = {dict(own).get("model") or dict(own)["key"]: v for own, v in after[STATE].items()}
    assert found == expected
    assert after.total("gatewayctl_attempts_total", upstream="there", model="m") == 2
    assert "fake" not in text
    assert "there key" not in text


async def _held_off(gateway):
    found = await gateway.services.store.read(breakers.held_off)
    return {(each.upstream, each.model or each.key): each for each in found}


def test_the_database_says_what_is_held_off_and_forgets_it_when_it_works_again(tmp_path):
    async def scenario():
        config = _config("{url}").replace("breaker_open_s: 60", "breaker_open_s: 0.2")
        async with recording(BROKEN) as upstream:
            config = config.replace("{url}", upstream.url)
            async with started(tmp_path, config) as gateway, gateway.client() as client:
                await client.post("/v1/messages", json=ASK)
                held = await until(lambda: _held_off(gateway))
                upstream.answer = http_answer(200, MESSAGE)

                async def is_served():
                    return (await client.post("/v1/messages", json=ASK)).status_code == 200

                await until(is_served)

                async def is_forgotten():
                    return not await _held_off(gateway)

                await until(is_forgotten)
                return held

    held = run(scenario)

    (row,) = held.values()
    assert list(held) == [("there", "m")]
    assert (row.state, row.reason) == ("open", "upstream_error")
    assert 0 < (row.until - row.since).total_seconds() <= 0.201


def test_nothing_is_left_in_the_database_at_the_end(tmp_path):
    async def scenario():
        async with recording(REFUSED) as upstream:
            async with started(tmp_path, _config(upstream.url)) as gateway:
                async with gateway.client() as client:
                    await client.post("/v1/messages", json=ASK)
                held = set(await until(lambda: _held_off(gateway)))
            with closing(sqlite3.connect(tmp_path / "gateway.db")) as database:
                return held, database.execute("SELECT count(*) FROM breaker").fetchone()

    held, left = run(scenario)

    assert held <= {("there", 1), ("there", 2)}
    assert left == (0,)
