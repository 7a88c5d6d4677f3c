"""What an upstream has cached of a session stays the same, byte for byte, on every way to it."""

import json
import re
from itertools import pairwise, product

import msgspec
import pytest
from msgspec import Raw
from support.gateways import started
from support.tool_sessions import ATTRIBUTION, SESSIONS, TURNS, claude_code, written
from support.wires import COMPLETION, MESSAGE, http_answer, recording, run

from server.presets.load import BUILTIN, load_presets

ANSWERS = {"anthropic": http_answer(200, MESSAGE), "openai": http_answer(200, COMPLETION)}
SERVERS = ("openai", "vllm", "deepseek", "openrouter", "generic", "unnamed")
KNOWING_MARKS = ("anthropic", "openrouter", "unnamed")
MARK = re.compile(rb',"cache_control":\{[^{}]*\}')
NEWER = ATTRIBUTION.replace("2.1.330", "2.1.331") + " cch=0a1b2;"
SENT = {**SESSIONS, "claude code, newer": (SESSIONS["claude code"][0], lambda: claude_code(NEWER))}

on_all = pytest.mark.parametrize("upstream", ["anthropic", *SERVERS])
with_each = pytest.mark.parametrize("tool", SESSIONS)


def _config(url):
    key = 'api_key: "sk-fake-upstream-key"'
    named = {name: f", compat: {{server: {name}}}" for name in SERVERS[:-1]}
    upstreams = "".join(
        f'  {name}: {{protocol: openai, base_url: "{url["openai"]}", {key}{named.get(name, "")}}}\n'
        for name in SERVERS
    )
    models = "".join(
        f"  {name}: {{targets: [{{upstream: {name}, model: upstream-model}}], free: true}}\n"
        for name in ("anthropic", *SERVERS)
    )
    return f"""
upstreams:
  anthropic: {{protocol: anthropic, base_url: "{url["anthropic"]}", {key}}}
{upstreams}
models:
{models}
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """Give the bodies that leave in each tool's session, by its name and the upstream's."""

    async def scenario():
        found = {}
        async with (
            recording(ANSWERS["anthropic"]) as messages,
            recording(ANSWERS["openai"]) as chat,
            started(
                tmp_path_factory.mktemp("gateway"),
                _config({"anthropic": messages.url, "openai": chat.url}),
            ) as gateway,
            gateway.client() as client,
        ):
            for (tool, (path, make)), name in product(SENT.items(), ("anthropic", *SERVERS)):
                there = messages if name == "anthropic" else chat
                count = len(there.bodies)
                for body in make():
                    reply = await client.post(path, content=written({**body, "model": name}))
                    assert reply.status_code == 200, (tool, name, reply.text)
                found[tool, name] = there.bodies[count:]
        return found

    return run(scenario)


def _members(body):
    return {
        name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, Raw]).items()
    }


@on_all
@with_each
def test_each_turn_begins_with_the_bytes_of_the_one_before(left, tool, upstream):
    """But for cache marks, which move on and are no part of what is cached."""
    bodies = left[tool, upstream]

    assert len(bodies) == TURNS
    knows_marks = upstream in KNOWING_MARKS
    turns = [_members(MARK.sub(b"", body) if knows_marks else body) for body in bodies]
    for before, after in pairwise(turns):
        assert after["messages"].startswith(before["messages"][:-1] + b",")
        others = {name: value for name, value in after.items() if name != "messages"}
        assert others == {name: value for name, value in before.items() if name != "messages"}
    front = turns[0]["system" if upstream == "anthropic" else "messages"]
    assert json.dumps(_preset_of(tool), ensure_ascii=False)[1:-1].encode() in front


def _preset_of(tool):
    return load_presets(BUILTIN)[SESSIONS[tool][0].split("/")[1]].text()


@with_each
def test_an_anthropic_upstream_gets_the_marks_where_the_client_put_them(left, tool):
    """At most four; a preset's block takes over the last of `system`, or gets one."""
    path, make = SESSIONS[tool]

    for body, asked in zip(left[tool, "anthropic"], make(), strict=True):
        sent, is_marked = json.loads(body), b'"cache_control"' in written(asked)
        theirs, ours = _marks(asked), _marks(sent)
        assert 1 <= body.count(b'"cache_control"') <= 4
        assert ("cache_control" in sent) is not is_marked  # the automatic one
        if path.partition("?")[0].endswith("/messages"):
            assert ours["messages"] == theirs["messages"]
            assert ours["system"][-1] == len(sent["system"]) - 1
            assert sent["system"][-1]["text"] == _preset_of(tool)
            assert len(ours["system"]) == max(1, len(theirs["system"]))
        elif is_marked:  # the first of its messages has become `system`
            assert len(ours["system"] + ours["messages"]) == len(theirs["messages"])


def _marks(body):
    """Tell where the marks stand: of `system`, and of the messages."""
    system = body.get("system") or []
    return {
        "system": [at for at, block in enumerate(system) if "cache_control" in block],
        "messages": [
            (number, at)
            for number, message in enumerate(body.get("messages", []))
            if isinstance(message["content"], list)
            for at, block in enumerate(message["content"])
            if "cache_control" in block
        ],
    }


@pytest.mark.parametrize("upstream", SERVERS)
def test_the_attribution_of_claude_code_changes_nothing_for_a_chat_upstream(left, upstream):
    """It differs from version to version, and would stand in front of every prefix."""
    bodies = left["claude code", upstream]

    assert bodies == left["claude code, newer", upstream]
    assert not any(b"x-anthropic-billing-header" in body for body in bodies)


@with_each
@pytest.mark.parametrize("upstream", SERVERS)
def test_only_a_chat_server_that_knows_cache_marks_is_sent_any(left, tool, upstream):
    is_sent = tool == "roo code, chat" and upstream in KNOWING_MARKS

    assert {b"cache_control" in body for body in left[tool, upstream]} == {is_sent}


@with_each
@pytest.mark.parametrize("upstream", SERVERS)
def test_reasoning_leaves_in_the_one_member_that_a_chat_server_has_for_it(left, tool, upstream):
    last = json.loads(left[tool, upstream][-1])
    turns = [each for each in last["messages"] if each["role"] == "assistant"]
    found = {name for turn in turns for name in turn if name.startswith("reasoning")}

    is_as_sent = tool == "opencode, chat" and upstream in KNOWING_MARKS
    has_reasoned = tool in ("claude code", "opencode, messages", "opencode, chat", "codex")
    fields = {"vllm": "reasoning", "deepseek": "reasoning_content"}
    fields["openrouter"] = "reasoning_details"
    wanted = {fields[upstream]} if upstream in fields and has_reasoned else set()
    if is_as_sent:
        wanted = {"reasoning_content"}
    elif upstream == "deepseek":
        wanted = {"reasoning_content"}  # it wants one in every turn
    assert found == wanted


@pytest.mark.parametrize("upstream", SERVERS)
def test_what_codex_asks_for_leaves_in_the_servers_own_ways(left, upstream):
    """It sends an effort and a cache key with every request; not all servers take them."""
    sent = json.loads(left["codex", upstream][0])

    efforts = {"vllm": "high", "deepseek": "high", "openrouter": "high"}
    assert sent.get("reasoning_effort") == efforts.get(upstream)
    assert ("prompt_cache_key" in sent) is (upstream != "generic")
