"""Responses requests in Chat's form: what codex and the SDK send, and what cannot be served."""

import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.protocols import body
from server.protocols.translation.requests.responses_to_chat import request
from server.protocols.translation.requests.responses_tools import Kind, Tool
from server.protocols.translation.sealed_thinking import MARK, seal, unseal

SIGNED = {
    "type": "reasoning.text",
    "text": "hm",
    "signature": "c2ln",
    "format": "anthropic-claude-v1",
    "index": 0,
}
RUN = {"type": "function", "name": "run", "description": "Runs.", "parameters": {"type": "object"}}


def asked(**members):
    return request(body.split(json.dumps({"model": "m", "input": "hi", **members}).encode()))


def chat(**members):
    return {name: json.loads(bytes(raw)) for name, raw in asked(**members).fields.items()}


def messages(*items, **members):
    return chat(input=list(items), **members)["messages"]


def call(ident, name="run", arguments="{}", **more):
    item = {"type": "function_call", "call_id": ident, "name": name, "arguments": arguments}
    return item | more


def output(ident, said):
    return {"type": "function_call_output", "call_id": ident, "output": said}


def said(role, *parts):
    return {"type": "message", "role": role, "content": list(parts)}


def text(words, kind="input_text"):
    return {"type": kind, "text": words}


def called(ident, name="run", arguments="{}"):
    function = {"name": name, "arguments": arguments}
    return {"id": ident, "type": "function", "function": function}


def test_a_string_is_what_the_user_says():
    assert chat(instructions="Be brief.", stream=True) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ],
        "model": "m",
        "stream": True,
    }


def test_members_change_their_names_and_all_else_is_dropped():
    fields = chat(
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.25,
        reasoning={"effort": "high", "summary": "auto"},
        text={"verbosity": "low", "format": {"type": "text"}},
        store=True,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        metadata={"a": "b"},
        client_metadata={},
        previous_response_id=None,
        background=False,
    )

    assert fields.keys() == {
        *("messages", "model", "temperature", "top_p"),
        *("max_completion_tokens", "reasoning_effort", "prompt_cache_key"),
    }
    assert (fields["max_completion_tokens"], fields["reasoning_effort"]) == (9, "high")


def test_what_is_null_is_not_said():
    nulls = dict.fromkeys(
        ("instructions", "tools", "tool_choice", "temperature", "reasoning", "text", "user")
    )

    assert chat(**nulls).keys() == {"messages", "model"}


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"a": 1}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"a": 1}, "strict": True},
            },
        ),
    ],
)
def test_a_format_becomes_a_response_format(layout, expected):
    assert chat(text={"format": layout})["response_format"] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("conversation", {"id": "conv_1"}),
        ("prompt", {"id": "pmpt_1"}),
        ("background", True),
    ],
)
def test_what_needs_something_stored_is_refused(name, value):
    with pytest.raises(InvalidRequest, match=f"^{name} is not supported: the gateway stores") as no:
        asked(**{name: value})

    assert no.value.param == name


@pytest.mark.parametrize(
    ("item", "message", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "the gateway stores no items", "input[0]"),
        ({"type": "compaction", "encrypted_content": "x"}, "only the provider that", "input[0]"),
        ({"type": "compaction_trigger"}, "cannot compact", "input[0]"),
        (said("critic", text("x")), "unknown role", "input[0].role"),
        ({"role": "user", "content": 1}, "cannot be read", "input[0]"),
        (said("user", {"type": "input_image", "file_id": "file_1"}), "input_image", "input[0]"),
        (said("user", {"type": "input_file", "file_url": "https://x"}), "input_file", "input[0]"),
        (said("user", {"type": "input_hologram"}), "input_hologram is not", "input[0]"),
        ({"type": "function_call", "name": "f", "arguments": ""}, "call_id", "input[0].call_id"),
        ("hi", "cannot be read", "input[0]"),
        ({"type": "additional_tools", "tools": 1}, "array of tools", "input[0].tools"),
    ],
)
def test_an_item_that_cannot_be_served_is_refused_by_its_place(item, message, param):
    with pytest.raises(InvalidRequest, match=re.escape(message)) as refused:
        asked(input=[item])

    assert refused.value.param == param


@pytest.mark.parametrize("nothing", [None, [], [{"type": "web_search_call", "id": "ws_1"}]])
def test_a_request_needs_an_input(nothing):
    with pytest.raises(InvalidRequest, match="input is required") as refused:
        asked(input=nothing)

    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("name", "value"),
    [("input", 1), ("instructions", 1), ("reasoning", 1), ("text", 1), ("tools", 1)],
)
def test_a_member_of_a_wrong_type_is_refused(name, value):
    with pytest.raises(InvalidRequest, match=name):
        asked(**{name: value})


def test_system_messages_side_by_side_become_one():
    """Chat templates of some models take one system message, and only at the beginning."""
    assert messages(
        said("developer", text("one"), text("two")),
        said("system", text("three")),
        said("user", text("hi")),
        said("developer", text("later")),
        instructions="zero",
    ) == [
        {"role": "system", "content": "zero\n\none\n\ntwo\n\nthree"},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "later"},
    ]


def test_a_message_may_leave_out_its_type():
    assert messages({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}) == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
    ]


def test_images_files_and_sounds_come_along():
    sound = {"data": "AAAA", "format": "wav"}
    image = "data:image/png;base64,AAAA"
    parts = [
        text("look"),
        {"type": "input_image", "image_url": image, "detail": "original"},
        {"type": "input_image", "image_url": image},
        {"type": "input_file", "filename": "a.pdf", "file_data": "AAAA"},
        {"type": "input_audio", "input_audio": sound},
    ]

    assert messages(said("user", *parts))[0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": image, "detail": "high"}},
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "AAAA"}},
        {"type": "input_audio", "input_audio": sound},
    ]


def test_one_turn_becomes_one_assistant_message_ahead_of_its_results():
    assert messages(
        said("assistant", text("I ", "output_text"), text("look.", "output_text")),
        call("c1"),
        call("c2", arguments='{"a": 1.10}'),
        output("c1", "one"),
        output("c2", [text("t"), text("wo")]),
        said("assistant", {"type": "refusal", "refusal": "No."}),
    ) == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [called("c1"), called("c2", arguments='{"a": 1.10}')],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "t\nwo"},
        {"role": "assistant", "content": "No."},
    ]


def test_a_result_stands_behind_its_call_whatever_came_between():
    """Chat servers refuse a call whose result does not follow at once."""
    roles = [
        message.get("tool_call_id", message["role"])
        for message in messages(
            call("c1"), said("user", text("wait")), output("c1", "x"), call("c2"), output("c2", "y")
        )
    ]

    assert roles == ["assistant", "c1", "user", "assistant", "c2"]


def test_an_image_in_a_result_is_shown_by_the_user():
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "high"}

    assert messages(call("c1"), output("c1", [image, text("done")]), said("user", text("so?")))[
        1:
    ] == [
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": image["image_url"], "detail": "high"}}
            ],
        },
        {"role": "user", "content": "so?"},
    ]


def test_a_result_without_its_call_is_not_lost():
    assert messages(said("user", text("hi")), output("c9", "x"))[1:] == [
        {"role": "tool", "tool_call_id": "c9", "content": "x"}
    ]


def test_what_one_agent_tells_another_is_read_as_the_users_words():
    """codex gives a sub-agent its task in this way; without it the agent has nothing to do."""
    item = {
        "type": "agent_message",
        "author": "lead",
        "recipient": "lead.sub",
        "content": [
            text("Payload:\n"),
            {"type": "encrypted_content", "encrypted_content": "Say hi."},
        ],
    }

    assert messages(item) == [{"role": "user", "content": "Payload:\nSay hi."}]


def test_signed_thinking_comes_back_to_the_turn_that_it_led_to():
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": seal([SIGNED])}

    turns = messages(
        sealed, said("assistant", text("ho", "output_text")), call("c1"), output("c1", "x")
    )

    assert turns[0]["reasoning_details"] == [SIGNED]
    assert turns[0]["content"] == "ho"
    assert [called["id"] for called in turns[0]["tool_calls"]] == ["c1"]


@pytest.mark.parametrize(
    "foreign",
    ["gAAAAABo", MARK + "!", MARK + "AAAA", MARK + "WzFd", MARK + "W10"],
)
def test_anyone_elses_reasoning_is_dropped(foreign):
    item = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "secret"}],
        "content": None,
        "encrypted_content": foreign,
    }

    assert messages(item, said("assistant", text("ho", "output_text"))) == [
        {"role": "assistant", "content": "ho"}
    ]


@pytest.mark.parametrize("nothing", [None, ""])
def test_what_was_thought_without_a_signature_comes_back_as_reasoning(nothing):
    """Some servers want it back, and the summary is all of it."""
    item = {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}],
        "encrypted_content": nothing,
    }

    assert messages(item, said("assistant", text("ho", "output_text"))) == [
        {
            "role": "assistant",
            "content": "ho",
            "reasoning_details": [{"type": "reasoning.text", "text": "a\n\nb"}],
        }
    ]


def test_reasoning_that_led_to_nothing_is_dropped():
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": seal([SIGNED])}

    turns = messages(sealed, said("user", text("hi")), said("assistant", text("ho", "output_text")))

    assert "reasoning_details" not in turns[1]


def test_tools_of_every_kind_become_functions_and_hosted_ones_are_dropped():
    custom = {
        "type": "custom",
        "name": "apply_patch",
        "description": "Patches.",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
    }
    search = {"type": "tool_search", "execution": "client", "description": "Finds."}
    space = {"type": "namespace", "name": "agents", "description": "d", "tools": [RUN, custom]}
    hosted = [
        {"type": "web_search", "external_web_access": False},
        {"type": "tool_search", "execution": "server"},
        {"type": "mcp", "server_label": "x"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
    ]

    got = asked(
        tools=[{**RUN, "strict": False}, custom, space, {"type": "local_shell"}, search, *hosted]
    )

    functions = [tool["function"] for tool in json.loads(bytes(got.fields["tools"]))]
    assert [function["name"] for function in functions] == [
        *("run", "apply_patch", "agents__run", "agents__apply_patch", "local_shell", "tool_search")
    ]
    assert functions[0] == {
        "name": "run",
        "description": "Runs.",
        "parameters": {"type": "object"},
        "strict": False,
    }
    assert functions[1]["parameters"]["required"] == ["input"]
    assert functions[1]["description"] == (
        "Patches.\n\nThe input must follow this lark grammar:\n\nstart: x"
    )
    assert functions[5]["parameters"] == {"type": "object", "properties": {}}
    assert got.tools == {
        "run": Tool(Kind.FUNCTION, "run"),
        "apply_patch": Tool(Kind.CUSTOM, "apply_patch"),
        "agents__run": Tool(Kind.FUNCTION, "run", "agents"),
        "agents__apply_patch": Tool(Kind.CUSTOM, "apply_patch", "agents"),
        "local_shell": Tool(Kind.LOCAL_SHELL, "local_shell"),
        "tool_search": Tool(Kind.TOOL_SEARCH, "tool_search"),
    }


def test_tools_are_offered_wherever_in_the_input_they_stand():
    """codex gives newer models their tools as an input item, and adds those that it found."""
    space = {"type": "namespace", "name": "agents", "description": "", "tools": [RUN]}
    found = {"type": "tool_search_output", "call_id": "c1", "tools": [space, RUN]}
    search = {"type": "tool_search_call", "call_id": "c1", "arguments": {"query": "x"}}

    fields = chat(
        input=[
            {"type": "additional_tools", "role": "developer", "tools": [RUN]},
            said("user", text("hi")),
            search,
            found,
        ],
        tool_choice="auto",
    )

    assert [tool["function"]["name"] for tool in fields["tools"]] == ["run", "agents__run"]
    assert fields["tool_choice"] == "auto"
    assert fields["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [called("c1", "tool_search", '{"query": "x"}')],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Tools found: agents__run, run."},
    ]


def test_what_a_providers_own_search_found_is_offered():
    fields = chat(
        input=[
            said("user", text("hi")),
            {"type": "tool_search_call", "call_id": None, "arguments": {}},
            {"type": "tool_search_output", "call_id": None, "tools": [RUN]},
        ]
    )

    assert [tool["function"]["name"] for tool in fields["tools"]] == ["run"]
    assert [message["role"] for message in fields["messages"]] == ["user"]


def test_calls_of_every_kind_are_told_as_their_functions_are():
    action = {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": None}

    turn, *results = messages(
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": 'a"b\n'},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
        call("c2", namespace="agents"),
        {"type": "local_shell_call", "id": "l", "call_id": "c3", "action": action},
        {"type": "local_shell_call_output", "id": "c3", "output": "a"},
    )

    assert turn["tool_calls"] == [called("c1", "apply_patch", '{"input":"a\\"b\\n"}')]
    assert [call["function"] for call in results[1]["tool_calls"]] == [
        {"name": "agents__run", "arguments": "{}"},
        {"name": "local_shell", "arguments": '{"command":["ls"],"env":{}}'},
    ]
    assert results[2] == {"role": "tool", "tool_call_id": "c3", "content": "a"}


def test_a_choice_without_tools_is_not_said():
    """OpenAI's own servers refuse it; codex sends one where it compacts a conversation."""
    fields = chat(tools=[], tool_choice="auto", parallel_tool_calls=False)

    assert fields.keys() == {"messages", "model"}


NAMED = {"type": "function", "function": {"name": "run"}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        *((word, word) for word in ("auto", "none", "required")),
        ({"type": "function", "name": "run"}, NAMED),
        ({"type": "custom", "name": "run"}, NAMED),
        (
            {"type": "function", "name": "run", "namespace": "agents"},
            {"type": "function", "function": {"name": "agents__run"}},
        ),
        ({"type": "local_shell"}, {"type": "function", "function": {"name": "local_shell"}}),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "run"}, {"type": "web_search"}],
            },
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
        ),
        (
            {"type": "allowed_tools", "tools": [{"type": "namespace", "name": "agents"}]},
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "agents__run"}}],
                },
            },
        ),
        ({"type": "allowed_tools", "tools": [{"type": "web_search"}]}, "none"),
    ],
)
def test_a_choice_of_every_form_is_understood(choice, expected):
    space = {"type": "namespace", "name": "agents", "description": "", "tools": [RUN]}

    fields = chat(tools=[RUN, space, {"type": "local_shell"}], tool_choice=choice)

    assert fields["tool_choice"] == expected


@pytest.mark.parametrize("choice", [{"type": "web_search"}, {"type": "function"}, "any", 1])
def test_a_choice_that_cannot_be_met_is_refused(choice):
    with pytest.raises(InvalidRequest, match="tool_choice must be") as refused:
        asked(tools=[RUN], tool_choice=choice)

    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ({"type": "function"}, "A function tool needs a name"),
        ({"type": "custom", "name": ""}, "A custom tool needs a name"),
        ({"type": "namespace", "tools": [RUN]}, "A namespace needs a name"),
        ({"type": "function", "name": 1}, "array of tools"),
    ],
)
def test_a_tool_that_cannot_be_read_is_refused(tool, message):
    with pytest.raises(InvalidRequest, match=message) as refused:
        asked(tools=[tool])

    assert refused.value.param == "tools"


names = st.text("ab_.é", min_size=1, max_size=3) | st.text("a_", min_size=30, max_size=70)


@given(st.lists(st.tuples(st.none() | names, names), unique=True, max_size=8))
def test_every_tool_has_a_name_of_its_own_that_chat_takes(tools):
    offered = [
        {"type": "function", "name": name}
        if space is None
        else {
            "type": "namespace",
            "name": space,
            "description": "",
            "tools": [{"type": "function", "name": name}],
        }
        for space, name in tools
    ]

    got = asked(tools=offered)

    assert all(re.fullmatch("[A-Za-z0-9_-]{1,64}", name) for name in got.tools)
    assert [(tool.namespace, tool.name) for tool in got.tools.values()] == tools


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    arguments=anything,
    words=st.text(),
    patch=st.text(),
    schema=st.dictionaries(st.text(), anything, max_size=3),
)
def test_whatever_tools_say_arrives_as_it_was(arguments, words, patch, schema):
    raw = json.dumps(arguments)

    fields = chat(
        input=[
            call("c1", arguments=raw),
            output("c1", words),
            {"type": "custom_tool_call", "call_id": "c2", "name": "p", "input": patch},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": words},
        ],
        tools=[{**RUN, "parameters": schema}],
    )

    first, one, second, two = fields["messages"]
    assert first["tool_calls"][0]["function"]["arguments"] == raw
    assert json.loads(second["tool_calls"][0]["function"]["arguments"]) == {"input": patch}
    assert one["content"] == two["content"] == words
    assert fields["tools"][0]["function"]["parameters"] == schema


@given(st.lists(st.dictionaries(st.text(), anything, max_size=3), max_size=3))
def test_what_was_sealed_is_found_again(details):
    assert [msgspec.json.decode(raw) for raw in unseal(seal(details))] == details


def test_the_answer_will_repeat_what_was_asked():
    echo = asked(instructions="Be brief.", tools=[RUN], truncation=None, user="u").echo

    assert json.loads(bytes(echo["tools"])) == [RUN]
    assert bytes(echo["instructions"]) == b'"Be brief."'
    assert bytes(echo["truncation"]) == b'"disabled"'
    assert bytes(echo["tool_choice"]) == b'"auto"'
