"""Sessions whose next turn another upstream serves: none is sent what it refuses."""

import json
import re

import pytest
from support.gateways import started
from support.raw_upstream import sized, upstream
from support.wires import COMPLETION, MESSAGE, run

ROTTEN = "functions.Read:0"  # as some servers name their calls
SAFE = re.compile(r"[A-Za-z0-9_-]+")
TOOL = {"name": "Read", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "function": {"name": "Read", "parameters": {"type": "object"}}}
FLAT = {"type": "function", "name": "Read", "parameters": {"type": "object"}}
SIGNED = {"type": "thinking", "thinking": "Signed.", "signature": "c2ln"}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {}}
BY_CLAUDE = {**MESSAGE, "content": [SIGNED, CALLED], "stop_reason": "tool_use"}
CALL = {"id": ROTTEN, "type": "function", "function": {"name": "Read", "arguments": "{}"}}
THOUGHT = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "Unsigned.",
    "tool_calls": [CALL],
}
BY_CHAT = {
    **COMPLETION,
    "choices": [{"index": 0, "finish_reason": "tool_calls", "message": THOUGHT}],
}
MODELS = ("claude", "openai", "deepseek", "unnamed")


def _config(url):
    key = 'api_key: "sk-fake-upstream-key"'
    models = "".join(
        f"  {name}: {{targets: [{{upstream: {name}, model: m}}], free: true}}\n" for name in MODELS
    )
    return f"""
upstreams:
  claude: {{protocol: anthropic, base_url: "{url}", {key}}}
  openai: {{protocol: openai, base_url: "{url}", {key}, compat: {{server: openai}}}}
  deepseek: {{protocol: openai, base_url: "{url}", {key}, compat: {{server: deepseek}}}}
  unnamed: {{protocol: openai, base_url: "{url}", {key}}}
models:
{models}
"""


class ByMessages:
    """A Messages client, which gives every answer back as it got it."""

    path = "/v1/messages"

    def __init__(self):
        self.turns = [{"role": "user", "content": "go"}]

    def ask(self, model):
        return {"model": model, "max_tokens": 300, "messages": self.turns, "tools": [TOOL]}

    def take(self, answer):
        (call,) = [each for each in answer["content"] if each["type"] == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": "ok"}
        self.turns += [
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": [result]},
        ]


class ByChat:
    """A Chat client, likewise; `reasoning_details` too."""

    path = "/v1/chat/completions"

    def __init__(self):
        self.turns = [{"role": "user", "content": "go"}]

    def ask(self, model):
        return {"model": model, "max_tokens": 300, "messages": self.turns, "tools": [FUNCTION]}

    def take(self, answer):
        said = answer["choices"][0]["message"]
        ident = said["tool_calls"][0]["id"]
        self.turns += [said, {"role": "tool", "tool_call_id": ident, "content": "ok"}]


class ByResponses:
    """A Responses client, which gives all items back."""

    path = "/v1/responses"

    def __init__(self):
        self.turns = [{"role": "user", "content": "go"}]

    def ask(self, model):
        return {"model": model, "max_output_tokens": 300, "input": self.turns, "tools": [FLAT]}

    def take(self, answer):
        (call,) = [each for each in answer["output"] if each["type"] == "function_call"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "ok"}
        self.turns += [*answer["output"], result]


CLIENTS = (ByMessages, ByChat, ByResponses)
with_each = pytest.mark.parametrize("make", CLIENTS)


def _left(folder, make, models):
    """Let the models answer one after the other; give what left for each."""
    scripts = [sized(json.dumps(BY_CLAUDE if m == "claude" else BY_CHAT).encode()) for m in models]

    async def scenario():
        talk = make()
        async with (
            upstream(*scripts) as there,
            started(folder, _config(there.url)) as gateway,
            gateway.client() as client,
        ):
            for model in models:
                reply = await client.post(talk.path, json=talk.ask(model))
                assert reply.status_code == 200, reply.text
                talk.take(reply.json())
            return [json.loads(body) for _, body in there.requests]

    return run(scenario)


def _blocks(body, kind):
    return [
        block
        for message in body["messages"]
        if isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == kind
    ]


def _reasoning(body):
    return [
        {name: value for name, value in message.items() if name.startswith("reasoning")}
        for message in body["messages"]
        if message["role"] == "assistant"
    ]


@with_each
@pytest.mark.parametrize("before", ["openai", "deepseek", "unnamed"])
def test_an_anthropic_upstream_gets_no_unsigned_thought_and_no_unsafe_id(tmp_path, make, before):
    *_, sent = _left(tmp_path, make, [before, "claude"])

    assert _blocks(sent, "thinking") == []
    (use,), (result,) = _blocks(sent, "tool_use"), _blocks(sent, "tool_result")
    assert use["id"] == result["tool_use_id"]
    assert SAFE.fullmatch(use["id"])
    assert "Unsigned." not in json.dumps(sent)


@with_each
def test_a_chat_upstream_gets_its_calls_ids_back_as_they_were(tmp_path, make):
    *_, sent = _left(tmp_path, make, ["openai", "claude", "openai"])

    (first,) = sent["messages"][1]["tool_calls"]
    assert (first["id"], sent["messages"][2]["tool_call_id"]) == (ROTTEN, ROTTEN)


@with_each
def test_signed_thoughts_come_back_to_who_signed_them(tmp_path, make):
    """Whoever serves the turns between; without its thinking a turn with calls is refused."""
    *_, sent = _left(tmp_path, make, ["claude", "openai", "deepseek", "claude"])

    assert _blocks(sent, "thinking") == [SIGNED]
    used = [each["id"] for each in _blocks(sent, "tool_use")]
    assert [each["tool_use_id"] for each in _blocks(sent, "tool_result")] == used
    assert len(set(used)) == 3  # two servers called theirs alike
    assert sent["messages"][1]["content"][0] == SIGNED


@with_each
@pytest.mark.parametrize("before", ["claude", "deepseek"])
def test_openai_gets_no_members_that_it_refuses(tmp_path, make, before):
    *_, sent = _left(tmp_path, make, [before, "openai"])

    assert _reasoning(sent) == [{}]


@with_each
def test_deepseek_gets_the_reasoning_of_every_turn_in_its_own_member(tmp_path, make):
    *_, sent = _left(tmp_path, make, ["claude", "deepseek", "deepseek"])

    assert _reasoning(sent) == [
        {"reasoning_content": "Signed."},
        {"reasoning_content": "Unsigned."},
    ]


def test_a_server_that_nobody_named_gets_a_chat_clients_turns_as_they_are(tmp_path):
    first, second = _left(tmp_path, ByChat, ["unnamed", "unnamed"])

    assert second["messages"] == [
        *first["messages"],
        THOUGHT,
        {"role": "tool", "tool_call_id": ROTTEN, "content": "ok"},
    ]
