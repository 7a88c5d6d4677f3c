"""Presets on the wire: where they stand, where they do not, and caches that stay warm."""

import json
from itertools import pairwise

import pytest
from support.gateways import DEMO_CONFIG, started
from support.upstreams import both_protocols
from support.wires import COMPLETION, MESSAGE, TOOLS, http_answer, recording, run

from server.presets.load import BUILTIN, load_presets

TURNS = 10
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.330; cc_entrypoint=cli;"
HOUR = {"type": "ephemeral", "ttl": "1h"}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
ANSWERS = {
    "anthropic": http_answer(200, MESSAGE),
    "openai": http_answer(200, COMPLETION),
}
USER = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "json_schema", "schema": {"type": "object"}}


def _text(tool):
    return load_presets(BUILTIN)[tool].text()


def _forwarded(folder, protocol, *asks):
    """Give what an upstream is sent for each (path, body)."""

    async def scenario():
        async with (
            recording(ANSWERS[protocol]) as there,
            started(folder, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            for path, ask in asks:
                reply = await client.post(path, json=ask)
                assert reply.status_code == 200
        return there.bodies

    return [json.loads(body) for body in run(scenario)]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tools_messages_carry_its_preset_last_and_cached(tmp_path, tool):
    ask = {"model": "smart", "max_tokens": 9, "messages": USER, "system": "Be brief."}
    path = f"/{tool}/v1/messages"

    [sent, bare] = _forwarded(tmp_path, "anthropic", (path, ask), ("/v1/messages", ask))

    block = {"type": "text", "text": _text(tool), "cache_control": {"type": "ephemeral"}}
    assert sent["system"] == [{"type": "text", "text": "Be brief."}, block]
    assert sent | {"system": 0} == ask | {"model": "upstream-model", "system": 0}
    assert bare == ask | {"model": "upstream-model"}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tools_chat_carries_its_preset_in_the_system_message(tmp_path, tool):
    ask = {"model": "smart", "messages": [{"role": "system", "content": "Be brief."}, *USER]}
    alone = {"model": "smart", "messages": USER}
    path = f"/{tool}/v1/chat/completions"

    [sent, opened] = _forwarded(tmp_path, "openai", (path, ask), (path, alone))

    extended = {"role": "system", "content": f"Be brief.\n\n{_text(tool)}"}
    assert sent["messages"] == [extended, *USER]
    assert opened["messages"] == [{"role": "system", "content": _text(tool)}, *USER]


def test_a_request_for_json_of_a_schema_is_left_alone(tmp_path):
    title = {"model": "smart", "max_tokens": 9, "messages": USER}
    title["output_config"] = {"format": SCHEMA}
    chat = {
        "model": "smart",
        "max_tokens": 9,
        "messages": USER,
        "response_format": {"type": "json_object"},
    }

    [messages] = _forwarded(tmp_path, "anthropic", ("/claudecode/v1/messages", title))
    [chats] = _forwarded(tmp_path, "openai", ("/cursor/v1/chat/completions", chat))

    assert messages == title | {"model": "upstream-model"}
    assert chats == chat | {"model": "upstream-model"}


@pytest.mark.parametrize("tool", TOOLS)
def test_count_tokens_counts_what_the_client_sent(tmp_path, tool):
    """It asks nobody, and tells the same with and without a preset."""
    ask = {"model": "smart", "messages": USER, "system": "Be brief."}

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, gateway.client() as client:
            counts = [
                (await client.post(f"{root}/v1/messages/count_tokens", json=ask)).json()
                for root in ("", f"/{tool}")
            ]
            return counts, gateway.running.demo.journal.served, await gateway.rows()

    counts, served, rows = run(scenario)

    assert counts[0] == counts[1]
    assert counts[0].keys() == {"input_tokens"}
    assert (served, rows) == (0, [])


class Session:
    """Ten turns shaped like Claude Code's: three breakpoints, and the last one moves on."""

    def __init__(self, system):
        self.system = system
        self.messages = []

    def turn(self, number):
        for message in self.messages:
            for block in message["content"]:
                block.pop("cache_control", None)
        if number:
            self.messages.append(
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm é.", "signature": "c2ln"},
                        {"type": "tool_use", "id": f"toolu_{number}", "name": "Read", "input": {}},
                    ],
                }
            )
        result = {"type": "text", "text": f"Question {number} with \u00e9 and a / slash"}
        if number:
            result = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": "yes"}
        self.messages.append({"role": "user", "content": [{**result, "cache_control": HOUR}]})
        return {
            "model": "claude-opus-5-5",
            "max_tokens": 32000,
            "stream": True,
            "system": self.system,
            "tools": [{"name": "Read", "input_schema": {"type": "object"}}],
            "messages": self.messages,
            "metadata": {"user_id": "user_1"},
        }


SYSTEMS = {
    "cached twice": [
        {"type": "text", "text": ATTRIBUTION},
        {"type": "text", "text": "You are Claude Code.", "cache_control": HOUR},
        {"type": "text", "text": "Many rules.\n" * 200, "cache_control": HOUR},
    ],
    "cached once": [
        {"type": "text", "text": ATTRIBUTION},
        {"type": "text", "text": "Many rules.\n" * 200, "cache_control": HOUR},
    ],
    "not cached": [{"type": "text", "text": ATTRIBUTION}, {"type": "text", "text": "Rules."}],
    "a string": "Many rules.",
}


def _as_sent(body):
    """Encode as JavaScript does: no blanks, nothing escaped that need not be."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_turn_begins_with_the_bytes_of_the_one_before(tmp_path, system):
    """Up to the breakpoint that moves on, nothing may change, or every turn is paid in full."""
    session = Session(SYSTEMS[system])
    bodies = [_as_sent(session.turn(number)) for number in range(TURNS)]

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            for body in bodies:
                await client.post("/claudecode/v1/messages?beta=true", content=body)
        return there.bodies

    sent = run(scenario)

    assert len(sent) == TURNS
    mark = b',"cache_control":' + _as_sent(HOUR)
    for before, after in pairwise(sent):
        stable = before[: before.rindex(mark)]  # the question whose mark is gone now
        assert after.startswith(stable)
        assert len(stable) > len(_text("claudecode"))
    for body in sent:
        assert 1 <= body.count(b'"cache_control"') <= 4
        told = json.loads(body)
        assert told["system"][-1]["text"] == _text("claudecode")
        assert told["system"][-1]["cache_control"] == HOUR
        if system != "a string":
            assert told["system"][0] == {"type": "text", "text": ATTRIBUTION}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_provider_reads_each_turn_from_its_cache(tmp_path, system):
    """The demo upstream counts like a provider: what it has seen before is a cache read."""
    session = Session(SYSTEMS[system])
    asks = [json.loads(_as_sent(session.turn(number))) for number in range(TURNS)]

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, gateway.client() as client:
            for ask in asks:
                reply = await client.post("/claudecode/v1/messages", json=ask)
                assert reply.status_code == 200
            journal = gateway.running.demo.journal
            return await gateway.rows(), {entry.prefix for entry in journal.entries}

    rows, prefixes = run(scenario)

    assert len(prefixes) == 1
    assert rows[0]["cache_read_input_tokens"] == 0
    for before, after in pairwise(rows):
        seen = before["cache_read_input_tokens"] + before["cache_write_1h_tokens"]
        assert after["cache_read_input_tokens"] == seen
        assert after["cache_write_1h_tokens"] < 200
        assert after["cache_write_5m_tokens"] == 0
