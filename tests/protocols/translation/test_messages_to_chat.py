"""Messages requests for a Chat server, but for their history of turns."""

import json

import msgspec
import pytest
from support.chat_requests import as_chat, translate, translate_bytes

from server.errors import InvalidRequest
from server.protocols.compat import OPENAI, SERVERS, Compat

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
READ = {"name": "Read", "description": "Reads.", "input_schema": SCHEMA}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
HI = b'{"role":"user","content":"hi"}'
LONG = "mcp__" + "a_server_with_a_long_name__" * 4 + "read"


def changed(base, **flags):
    return msgspec.structs.replace(base, **flags)


def test_a_plain_request_keeps_what_a_chat_server_knows():
    sent = as_chat(
        model="smart",
        system="Be brief.",
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=["END"],
        stream=True,
    )

    assert sent == {
        "model": "smart",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "max_completion_tokens": 100,
        "stop": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
    }


def test_what_only_the_messages_api_knows_stays_behind():
    sent = as_chat(
        metadata={"user_id": "x" * 300},
        container="c",
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        mcp_servers=[],
        service_tier="auto",
        speed="fast",
        inference_geo="eu",
        diagnostics={},
        cache_control={"type": "ephemeral"},
        betas=["a"],
        foo=1,
    )

    assert sent.keys() == {"model", "messages"}


def test_empty_and_null_members_are_as_absent():
    sent = as_chat(
        tools=None, tool_choice=None, stop_sequences=[], temperature=None, thinking=None,
        output_config=None, system=None, max_tokens=None, stream=None,
    )  # fmt: skip

    assert sent.keys() == {"model", "messages"}


def test_numbers_leave_as_they_were_written():
    sent = translate_bytes(
        b'{"model":"m","temperature":1.10,"top_p":1e-1,"messages":[' + HI + b"]}"
    )

    assert bytes(sent.fields["temperature"]) == b"1.10"
    assert bytes(sent.fields["top_p"]) == b"1e-1"


def test_the_output_limit_has_the_name_that_the_server_knows():
    assert as_chat(SERVERS["ollama"], max_tokens=5)["max_tokens"] == 5
    assert as_chat(OPENAI, max_tokens=5)["max_completion_tokens"] == 5


def test_warming_the_cache_asks_for_the_one_token_that_chat_servers_want():
    assert as_chat(max_tokens=0)["max_completion_tokens"] == 1


def test_top_k_goes_only_where_it_is_known():
    assert as_chat(SERVERS["vllm"], top_k=40)["top_k"] == 40
    assert "top_k" not in as_chat(OPENAI, top_k=40)


def test_members_that_a_server_must_not_see_are_dropped_last():
    compat = Compat(drop_params=("temperature", "max_completion_tokens", "tools"))

    sent = as_chat(compat, temperature=1, max_tokens=9, tools=[READ], top_p=1)

    assert sent.keys() == {"model", "messages", "top_p"}


def test_system_blocks_become_one_message():
    system = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": ""},
        {"type": "text", "text": 'Two "quoted" \\ \n é 😀'},
    ]

    sent = as_chat(system=system)["messages"]

    assert sent[0] == {"role": "system", "content": 'One.\n\nTwo "quoted" \\ \n é 😀'}


def test_the_attribution_of_claude_code_is_removed():
    """It differs between versions and conversations, and would stand before every cached byte."""
    attribution = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=0a1b2;"}

    sent = as_chat(system=[attribution, {"type": "text", "text": "You are a coder."}])["messages"]

    assert sent[0] == {"role": "system", "content": "You are a coder."}
    assert as_chat(system=[attribution])["messages"] == [{"role": "user", "content": "hi"}]


def test_a_system_that_is_no_text_is_refused():
    with pytest.raises(InvalidRequest, match="system must be text"):
        as_chat(system=[{"type": "image", "source": {}}])


def test_tools_become_functions():
    strict = {"name": "Run", "input_schema": SCHEMA, "strict": True, "type": "custom"}
    extras = {"cache_control": {"type": "ephemeral"}, "eager_input_streaming": True}

    sent = as_chat(tools=[{**READ, **extras}, strict, {"name": "Stop"}])["tools"]

    assert [tool["function"] for tool in sent] == [
        {"name": "Read", "description": "Reads.", "parameters": SCHEMA},
        {"name": "Run", "parameters": SCHEMA, "strict": True},
        {"name": "Stop"},
    ]
    assert {tool["type"] for tool in sent} == {"function"}


def test_a_schema_keeps_its_bytes():
    schema = rb'{ "type":"object", "maximum":1.10, "pattern":"\/" }'
    tools = b'[{"name":"Read","input_schema":' + schema + b"}]"

    sent = translate_bytes(b'{"model":"m","messages":[' + HI + b'],"tools":' + tools + b"}")

    assert b'"parameters":' + schema in bytes(sent.fields["tools"])


@pytest.mark.parametrize("tool", [SEARCH, {"type": "bash_20250124", "name": "bash"}])
def test_tools_that_only_the_provider_knows_are_dropped(tool):
    sent = as_chat(tools=[READ, tool], tool_choice={"type": "auto"})

    assert [each["function"]["name"] for each in sent["tools"]] == ["Read"]
    assert sent["tool_choice"] == "auto"


def test_where_nothing_is_left_of_the_tools_nothing_is_said_of_them():
    choice = {"type": "auto", "disable_parallel_tool_use": True}

    assert as_chat(tools=[SEARCH], tool_choice=choice).keys() == {"model", "messages"}
    assert as_chat(tools=[], tool_choice=choice).keys() == {"model", "messages"}


def test_an_operator_can_have_server_tools_refused():
    with pytest.raises(InvalidRequest, match="web_search"):
        as_chat(Compat(server_tools="refuse"), tools=[READ, SEARCH])


def test_a_choice_of_a_dropped_tool_is_refused():
    """To let the model choose freely instead would give an answer that was not asked for."""
    with pytest.raises(InvalidRequest, match=r'"web_search".*not offered'):
        as_chat(tools=[READ, SEARCH], tool_choice={"type": "tool", "name": "web_search"})


def test_a_choice_of_any_tool_is_refused_where_none_is_left():
    with pytest.raises(InvalidRequest, match="none is offered"):
        as_chat(tools=[SEARCH], tool_choice={"type": "any"})


def test_a_deferred_tool_is_offered_but_for_a_placeholder():
    placeholder = {"name": "DeferredToolPlaceholder", "defer_loading": True}

    sent = as_chat(tools=[{**READ, "defer_loading": True}, placeholder])["tools"]

    assert [tool["function"]["name"] for tool in sent] == ["Read"]
    assert "defer_loading" not in json.dumps(sent)


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "Read"}, {"type": "function", "function": {"name": "Read"}}),
    ],
)
def test_each_choice_has_its_counterpart(choice, sent):
    assert as_chat(tools=[READ], tool_choice=choice)["tool_choice"] == sent


def test_an_unknown_choice_is_refused():
    with pytest.raises(InvalidRequest, match=r"tool_choice\.type must be"):
        as_chat(tools=[READ], tool_choice={"type": "some"})


@pytest.mark.parametrize("kind", ["auto", "any"])
def test_parallel_calls_can_be_turned_off(kind):
    choice = {"type": kind, "disable_parallel_tool_use": True}

    assert as_chat(tools=[READ], tool_choice=choice)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in as_chat(tools=[READ], tool_choice={"type": kind})


def test_a_name_that_is_too_long_is_shortened_everywhere_and_can_be_restored():
    called = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [_use("t1", LONG)]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1"}]},
    ]
    request = {
        "tools": [{**READ, "name": LONG}, READ],
        "tool_choice": {"type": "tool", "name": LONG},
        "messages": called,
    }

    sent = as_chat(**request)

    short = sent["tools"][0]["function"]["name"]
    assert len(short) == 64
    assert sent["tool_choice"]["function"]["name"] == short
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == short
    assert translate(**request).names == {short: LONG}


def _use(ident, name, given=None):
    return {"type": "tool_use", "id": ident, "name": name, "input": given or {}}


def test_long_names_that_begin_alike_stay_apart():
    tools = [{"name": LONG + end} for end in ("", "_a", "_b")]

    request = translate(tools=tools)

    assert sorted(request.names.values()) == sorted(tool["name"] for tool in tools)
    assert all(len(name) == 64 for name in request.names)


def test_a_shortened_name_does_not_depend_on_the_other_tools():
    alone = translate(tools=[{"name": LONG}]).names
    among = translate(tools=[{"name": LONG + "x"}, READ, {"name": LONG}]).names

    assert alone.items() < among.items()


def test_a_name_with_a_strange_character_is_mended_and_can_be_restored():
    (short,) = translate(tools=[{"name": "files.read"}]).names

    assert short.startswith("files_read_")


def test_a_tool_that_has_the_short_name_of_another_is_refused():
    (short,) = translate(tools=[{"name": LONG}]).names

    with pytest.raises(InvalidRequest, match="needs another name"):
        translate(tools=[{"name": short}, {"name": LONG}])


def test_an_output_format_becomes_a_response_format():
    wanted = {"type": "json_schema", "schema": SCHEMA}

    sent = as_chat(output_config={"format": wanted})

    assert sent["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
    }
    assert sent["messages"] == [{"role": "user", "content": "hi"}]


def test_a_server_that_takes_no_schema_is_told_it():
    """DeepSeek also wants the word JSON somewhere in the prompt."""
    wanted = {"type": "json_schema", "schema": SCHEMA}

    sent = as_chat(SERVERS["deepseek"], output_config={"format": wanted}, system="Title it.")

    assert sent["response_format"] == {"type": "json_object"}
    told = sent["messages"][0]["content"]
    assert told.startswith("Title it.\n\nAnswer with one JSON object")
    assert told.endswith(json.dumps(SCHEMA))


EFFORT = [
    ("low", "low", "low"),
    ("medium", "medium", "medium"),
    ("high", "high", "high"),
    ("xhigh", "high", "xhigh"),
    ("max", "high", "max"),
]


@pytest.mark.parametrize(("asked", "vllm", "openai"), EFFORT)
def test_an_effort_is_lowered_to_the_highest_that_the_server_knows(asked, vllm, openai):
    request = {"output_config": {"effort": asked}, "thinking": {"type": "adaptive"}}

    assert as_chat(SERVERS["vllm"], **request)["reasoning_effort"] == vllm
    willing = changed(OPENAI, reasoning_effort=True)
    assert as_chat(willing, **request)["reasoning_effort"] == openai


@pytest.mark.parametrize(
    ("budget", "effort"),
    [(1024, "low"), (4096, "medium"), (16_383, "medium"), (31_999, "high"), (-1, "low")],
)
def test_a_budget_says_how_much_effort(budget, effort):
    thinking = {"type": "enabled", "budget_tokens": budget}

    assert as_chat(SERVERS["vllm"], thinking=thinking)["reasoning_effort"] == effort


def test_an_effort_that_is_named_outweighs_the_budget():
    thinking = {"type": "enabled", "budget_tokens": 31_999}

    sent = as_chat(SERVERS["vllm"], thinking=thinking, output_config={"effort": "low"})

    assert sent["reasoning_effort"] == "low"


def test_a_budget_beyond_the_output_limit_passes():
    """Qwen Code sends it so; a Chat server never sees the budget."""
    sent = as_chat(max_tokens=8000, thinking={"type": "enabled", "budget_tokens": 32_000})

    assert sent.keys() == {"model", "messages", "max_completion_tokens"}


@pytest.mark.parametrize(
    "request_",
    [{}, {"thinking": {"type": "adaptive"}}, {"output_config": {"effort": "odd"}}],
)
def test_where_no_effort_is_named_the_server_keeps_its_own(request_):
    assert as_chat(SERVERS["vllm"], **request_).keys() == {"model", "messages"}


def test_a_server_without_the_member_is_not_asked_for_effort():
    """OpenAI's newer models refuse it beside tools, its older ones always."""
    sent = as_chat(OPENAI, output_config={"effort": "high"}, thinking={"type": "adaptive"})

    assert sent.keys() == {"model", "messages"}


def test_what_is_said_of_effort_beside_tools_can_be_fixed():
    compat = Compat(effort_with_tools="none")
    wish = {"output_config": {"effort": "high"}}

    assert as_chat(compat, tools=[READ], **wish)["reasoning_effort"] == "none"
    assert "reasoning_effort" not in as_chat(compat, **wish)


@pytest.mark.parametrize(
    ("server", "member", "value"),
    [
        ("deepseek", "thinking", {"type": "disabled"}),
        ("ollama", "reasoning_effort", "none"),
        ("openrouter", "reasoning_effort", None),
        ("openai", "reasoning_effort", None),
    ],
)
def test_reasoning_is_turned_off_where_that_can_be_done(server, member, value):
    off = {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}

    assert as_chat(SERVERS[server], **off).get(member) == value


@pytest.mark.parametrize(
    "members",
    [
        {"tools": "none"},
        {"tools": [{"description": "nameless"}]},
        {"tool_choice": "auto", "tools": [READ]},
        {"thinking": True},
        {"messages": [{"role": 7, "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"text": "typeless"}]}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
        {"messages": [{"role": "tool", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        {"messages": []},
    ],
)
def test_what_cannot_be_read_is_the_clients_fault(members):
    with pytest.raises(InvalidRequest, match=r"cannot be read|must be|must say"):
        as_chat(**members)
