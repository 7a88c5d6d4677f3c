"""Models, token counts, prices and health, as the vendors' own strict clients read them."""

import json

import anthropic
import httpx
import openai
import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import ASK, ROOTS, TOOLS, request, run, wire

SLASHES = DEMO_CONFIG.replace(
    "models:",
    "models:\n  acme/large-v.2: {targets: [{upstream: demo, model: demo-x}], free: true}",
)


def _anthropic(gateway, path="", **options):
    return anthropic.AsyncAnthropic(
        base_url=gateway.url + path,
        api_key=gateway.secret,
        max_retries=0,
        _strict_response_validation=True,
        **options,
    )


def _openai(gateway, path="/v1"):
    return openai.AsyncOpenAI(
        base_url=gateway.url + path,
        api_key=gateway.secret,
        max_retries=0,
        _strict_response_validation=True,
    )


@pytest.mark.parametrize("path", ["", "/claudecode", "/cline", "/cursor", "/roocode/v1"])
def test_the_anthropic_sdk_reads_models_and_counts_in_strict_mode(tmp_path, path):
    async def scenario():
        async with started(tmp_path, SLASHES) as gateway, _anthropic(gateway, path) as client:
            listed = [model async for model in client.models.list(limit=2)]
            one = await client.models.retrieve("smart")
            slashed = await client.models.retrieve("acme/large-v.2")
            with pytest.raises(anthropic.NotFoundError) as missing:
                await client.models.retrieve("nobody")
            counted = await client.messages.count_tokens(model="smart", messages=ASK["messages"])
            answer = await client.messages.create(**ASK)
        return listed, one, slashed, missing.value, counted, answer

    listed, one, slashed, missing, counted, answer = run(scenario)

    ids = [model.id for model in listed]
    assert ids[:2] == ["auto", "claude-auto"]
    assert sorted(ids) == sorted(["auto", "claude-auto", "smart", "fast", "acme/large-v.2"])
    assert (one.id, slashed.id) == ("smart", "acme/large-v.2")
    assert missing.body["error"]["type"] == "not_found_error"
    assert counted.input_tokens > 0
    assert answer.usage.output_tokens > 0


@pytest.mark.parametrize("path", ["/v1", "/cursor", "/cline/v1", "/roocode/v1/v1"])
def test_the_openai_sdk_reads_models_in_strict_mode(tmp_path, path):
    async def scenario():
        async with started(tmp_path, SLASHES) as gateway, _openai(gateway, path) as client:
            listed = [model async for model in client.models.list()]
            slashed = await client.models.retrieve("acme/large-v.2")
            with pytest.raises(openai.NotFoundError) as missing:
                await client.models.retrieve("nobody")
            answer = await client.chat.completions.create(model="smart", messages=ASK["messages"])
        return listed, slashed, missing.value, answer

    listed, slashed, missing, answer = run(scenario)

    assert [model.id for model in listed][:2] == ["auto", "claude-auto"]
    assert slashed.id == "acme/large-v.2"
    assert missing.code == "model_not_found"
    assert answer.usage.completion_tokens > 0


def test_ids_with_slashes_are_found_however_they_are_written(tmp_path):
    async def scenario():
        async with started(tmp_path, SLASHES) as gateway, wire(gateway.url) as connection:
            return [
                await connection.ask(
                    request("GET", f"/v1/models/{written}", x_api_key=gateway.secret)
                )
                for written in ("acme/large-v.2", "acme%2Flarge-v.2", "acme%2flarge-v%2E2")
            ]

    assert [reply.json()["id"] for reply in run(scenario)] == ["acme/large-v.2"] * 3


def test_claude_codes_discovery_finds_models_whose_names_it_keeps(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            headers = {
                "authorization": f"Bearer {gateway.secret}",
                "anthropic-version": "2023-06-01",
                "user-agent": "claude-code/2.1.330",
            }
            async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
                return await client.get("/claudecode/v1/models?limit=1000")

    answer = run(scenario)

    document = answer.json()
    assert answer.status_code == 200
    assert "claude-auto" in [model["id"] for model in document["data"]]
    assert all(model["display_name"] for model in document["data"])
    assert (document["first_id"], document["has_more"]) == ("auto", False)


def test_an_odd_page_is_still_a_page(tmp_path):
    odd = ("limit=0", "limit=-5", "limit=x", "limit=%00", "after_id=nobody", "limit=" + "9" * 99)

    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            return [await client.get(f"/v1/models?{query}") for query in odd]

    for answer in run(scenario):
        assert answer.status_code == 200
        assert answer.json()["data"][0]["id"] == "auto"


def test_counting_is_free_local_and_without_the_preset(tmp_path):
    """Claude Code counts 25 fragments at once; each must come back as if no preset was there."""

    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            counts = {
                (await client.post(f"{root}/messages/count_tokens", json=ASK)).text
                for root in ROOTS
            }
            log = await client.get(f"{gateway.running.demo.url}/__log")
            rows = await gateway.rows()
        return counts, log.json(), rows

    counts, log, rows = run(scenario)

    assert len(counts) == 1
    assert json.loads(counts.pop()).keys() == {"input_tokens"}
    assert log["entries"] == []
    assert rows == []


def test_prices_and_health_need_no_key(tmp_path):
    async def scenario():
        paths = ("/healthz", "/readyz", "/pricing", "/pricing/tokens")
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            return [(await connection.ask(request("GET", path))).json() for path in paths]

    health, ready, tiers, rates = run(scenario)

    assert health == {"status": "ok"}
    assert ready == {"status": "ready"}
    assert tiers["data"][0]["routes"] == list(TOOLS)
    assert {"id", "input", "output"} <= rates["data"][0].keys()
    assert all(isinstance(row["input"], int) for row in rates["data"])
