"""Cursor's bodies: three shapes come in, one goes on."""

import json

import pytest

from server.errors import InvalidRequest
from server.protocols import body
from server.protocols.translation.requests import chat_to_messages, cursor

GRAMMAR = 'start: "*** Begin Patch" hunk+'
PATCH = r'{"input":"*** \"p\""}'
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}


def as_chat(**members):
    raw = json.dumps({"model": "team-fast", **members}).encode()
    made = body.join(cursor.as_chat(body.split(raw)))
    return json.loads(body.join(body.read_chat(made).fields))


def messages(*said):
    return as_chat(messages=list(said))["messages"]


def function(name="read", **members):
    return {"type": "function", "function": {"name": name, **members}}


def text(words):
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "stream" : true, "messages":[ {"role":"user","content":"h\\u0069"} ],"model":"m"}',
        b'{"messages":[{"content":[{"text":"a","type":"text"}, {"type":"refusal"}], "role":"x"}]}',
        b'{"messages":[],"tools":[ {"function":{"name":"f"},"type":"function"}],"tool_choice":"a"}',
        b'{"messages":[],"tools":null,"tool_choice":{"type":"function","function":{"name": "f"}}}',
        b'{"messages":[],"tools":[],"system":null,"input":"beside messages"}',
        b'{"model":"m"}',
    ],
)
def test_a_true_chat_request_is_left_as_it_is(raw):
    fields = body.split(raw)
    fields.pop("system", None)

    made = cursor.as_chat(body.split(raw))

    assert body.join(made) == body.join(fields)


def test_a_responses_body_becomes_a_chat_request():
    asked = as_chat(
        instructions="You are an agent.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Fix it."}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Reading."}]},
            {"type": "function_call", "call_id": "c1", "name": "read", "arguments": '{"path":"a"}'},
            {"type": "custom_tool_call", "call_id": "c2", "name": "ApplyPatch", "input": '*** "p"'},
            {"type": "function_call_output", "call_id": "c1", "output": "text of a"},
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "applied"},
        ],
        tools=[
            {
                "type": "function",
                "name": "read",
                "description": "Reads.",
                "parameters": SCHEMA,
                "strict": False,
            },
            {"type": "web_search"},
        ],
        tool_choice={"type": "function", "name": "read"},
        parallel_tool_calls=True,
        reasoning={"effort": "high", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}},
        max_output_tokens=900,
        stream=True,
        stream_options={"include_usage": True},
        store=False,
        include=["reasoning.encrypted_content"],
        previous_response_id="resp_of_somebody_else",
        truncation="auto",
        prompt_cache_retention="24h",
    )

    calls = [
        {"id": "c1", "type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}},
        {
            "id": "c2",
            "type": "function",
            "function": {"name": "ApplyPatch", "arguments": PATCH},
        },
    ]
    assert asked.pop("messages") == [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "Reading.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "text of a"},
        {"role": "tool", "tool_call_id": "c2", "content": "applied"},
    ]
    assert asked == {
        "model": "team-fast",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 900,
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
        },
        "tools": [function("read", description="Reads.", parameters=SCHEMA, strict=False)],
        "tool_choice": function("read"),
        "parallel_tool_calls": True,
    }


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "function", "name": "read", "description": "Reads.", "parameters": SCHEMA},
        {"name": "read", "description": "Reads.", "input_schema": SCHEMA},
        {"type": "custom", "name": "read", "description": "Reads.", "input_schema": SCHEMA},
        {"name": "read", "description": "Reads.", "parameters": SCHEMA},
        function("read", description="Reads.", parameters=SCHEMA),
    ],
)
@pytest.mark.parametrize("shape", [{"messages": []}, {"input": "hi"}])
def test_a_tool_of_any_shape_becomes_a_function(shape, tool):
    assert as_chat(tools=[tool], **shape)["tools"] == [
        function("read", description="Reads.", parameters=SCHEMA)
    ]


@pytest.mark.parametrize(
    "tool",
    [
        {
            "name": "ApplyPatch",
            "description": "Patches files.",
            "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR},
        },
        {
            "custom": {
                "name": "ApplyPatch",
                "description": "Patches files.",
                "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": GRAMMAR}},
            }
        },
    ],
)
@pytest.mark.parametrize("shape", [{"messages": []}, {"input": "hi"}])
def test_a_custom_tool_becomes_a_function_of_one_string(shape, tool):
    (made,) = as_chat(tools=[{"type": "custom", **tool}], **shape)["tools"]

    assert made["function"]["name"] == "ApplyPatch"
    assert made["function"]["description"].startswith("Patches files.\n\n")
    assert made["function"]["description"].endswith(f"lark grammar:\n\n{GRAMMAR}")
    assert made["function"]["parameters"]["properties"]["input"]["type"] == "string"
    assert made["function"]["parameters"]["required"] == ["input"]


def test_a_custom_tool_of_plain_text_needs_no_grammar():
    (made,) = as_chat(messages=[], tools=[{"type": "custom", "name": "say", "format": None}])[
        "tools"
    ]

    assert "description" not in made["function"]


def test_where_only_a_providers_tools_are_offered_nothing_is():
    asked = as_chat(messages=[], tools=[{"type": "web_search"}], tool_choice={"type": "any"})

    assert asked == {"model": "team-fast", "messages": []}


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ("required", "required"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "web_search"}, "auto"),
        ({"type": "tool", "name": "f"}, function("f")),
        ({"type": "function", "name": "f"}, function("f")),
        ({"type": "custom", "name": "f"}, function("f")),
        ({"type": "custom", "custom": {"name": "f"}}, function("f")),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "custom", "name": "f"}],
            },
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [function("f")]},
            },
        ),
    ],
)
@pytest.mark.parametrize("shape", [{"messages": []}, {"input": "hi"}])
def test_a_choice_of_any_shape_becomes_chats(shape, choice, made):
    asked = as_chat(tools=[function("f")], tool_choice=choice, **shape)

    assert asked["tool_choice"] == made
    assert "parallel_tool_calls" not in asked


def test_one_tool_at_a_time_is_understood_in_anthropics_words():
    choice = {"type": "auto", "disable_parallel_tool_use": True}

    asked = as_chat(messages=[], tools=[function()], tool_choice=choice)

    assert (asked["tool_choice"], asked["parallel_tool_calls"]) == ("auto", False)


def test_anthropics_blocks_in_chat_messages_become_chats():
    said = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "Fix it."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm", "signature": "x"},
                text("Reading."),
                {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": 'a"b'}},
                {"type": "tool_use", "id": "t2", "name": "look"},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "gone", "is_error": True},
                text("Hurry."),
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [
                        text("one"),
                        text("two"),
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AA"},
                        },
                    ],
                },
            ],
        },
    ]

    assert messages(*said) == [
        *said[:2],
        {
            "role": "assistant",
            "content": [text("Reading.")],
            "tool_calls": [
                {"id": "t1", **function("read", arguments='{"path": "a\\"b"}')},
                {"id": "t2", **function("look", arguments="{}")},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "Error: gone"},
        {"role": "tool", "tool_call_id": "t2", "content": "one\ntwo"},
        {
            "role": "user",
            "content": [
                text("Hurry."),
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
            ],
        },
    ]


def test_anthropics_blocks_stand_beside_chats_own():
    mixed = {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "t2", "name": "read", "input": {}}],
        "tool_calls": [{"id": "t1", **function("read", arguments="{}")}],
    }
    shown = [
        {"type": "image_url", "image_url": {"url": "https://host.example/a.png"}},
        {"type": "search_result", "title": "T", "source": "S", "content": [text("found")]},
    ]

    made = messages(mixed, {"role": "user", "name": "ann", "content": shown})

    assert (made[0]["content"], [call["id"] for call in made[0]["tool_calls"]]) == (
        None,
        ["t1", "t2"],
    )
    assert made[1] == {"role": "user", "name": "ann", "content": [shown[0], text("T\nS\nfound")]}


def test_a_message_of_thinking_alone_is_left_out():
    assert messages({"role": "assistant", "content": [{"type": "thinking"}]}) == []


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief."), text("Be kind.")]])
def test_a_system_prompt_in_anthropics_place_comes_first(system):
    asked = as_chat(system=system, messages=[{"role": "user", "content": "hi"}])

    assert asked == {
        "model": "team-fast",
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": "hi"}],
    }


def test_every_shape_can_go_on_to_a_messages_upstream():
    """The two translations in a row: Cursor with Claude behind it."""
    call, output = (
        {"type": "custom_tool_call", "call_id": "c.1", "name": "ApplyPatch", "input": "p"},
        {"type": "custom_tool_call_output", "call_id": "c.1", "output": "done"},
    )
    raw = json.dumps(
        {
            "model": "m",
            "input": [{"role": "user", "content": "go"}, call, output],
            "tools": [{"type": "custom", "name": "ApplyPatch"}],
        }
    ).encode()

    chat = cursor.as_chat(body.split(raw))
    fields = chat_to_messages.request(chat, max_tokens=5).fields

    asked, used, answered = json.loads(bytes(fields["messages"]))
    assert asked["content"] == [text("go")]
    (used,), (answered,) = used["content"], answered["content"]
    assert (used["name"], used["input"]) == ("ApplyPatch", {"input": "p"})
    assert answered["tool_use_id"] == used["id"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", 7),
        ("tools", [7]),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "custom", "name": "f", "format": 7}]),
        ("tool_choice", {"type": 7}),
        ("messages", [7]),
        ("messages", {}),
        ("messages", [{"role": "user", "content": [7]}]),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest, match=r"cannot be read|needs a name") as refused:
        cursor.as_chat(body.split(json.dumps({"messages": [], name: value}).encode()))

    assert refused.value.param == name
