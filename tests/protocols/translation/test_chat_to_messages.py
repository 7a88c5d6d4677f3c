"""Chat requests for a Messages upstream: nothing is lost, and no cached prefix moves."""

import base64
import itertools
import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.protocols import body
from server.protocols.translation.requests import chat_to_messages

TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")
PDF = base64.b64encode(b"%PDF-1.7 small").decode()
PDF_URL = f"data:application/pdf;base64,{PDF}"
MARK = {"type": "ephemeral", "ttl": "1h"}
MISSING = "No result: the call was not carried out, or was cancelled."


def translated(raw):
    return chat_to_messages.request(body.read_chat(raw).fields, max_tokens=4096).fields


def request(messages=({"role": "user", "content": "hi"},), **members):
    asked = {"model": "m", "messages": list(messages), **members}
    return json.loads(body.join(translated(json.dumps(asked).encode())))


def turns(*messages):
    """Give the turns, each text block as its text alone."""
    return [
        (turn["role"], [block.get("text", block) for block in turn["content"]])
        for turn in request(messages)["messages"]
    ]


def user(content="hi", **members):
    return {"role": "user", "content": content, **members}


def assistant(content=None, *calls, **members):
    message = {"role": "assistant", "content": content, **members}
    return {**message, "tool_calls": list(calls)} if calls else message


def call(ident, arguments="{}", name="read"):
    function = {"name": name, "arguments": arguments}
    return {"id": ident, "type": "function", "function": function}


def tool(ident, content="done", **members):
    return {"role": "tool", "tool_call_id": ident, "content": content, **members}


def tool_use(ident, given=None, name="read"):
    return {"type": "tool_use", "id": ident, "name": name, "input": given or {}}


def text(words):
    return {"type": "text", "text": words}


def result(ident, *content, **members):
    said = {"content": list(content)} if content else {}
    return {"type": "tool_result", "tool_use_id": ident, **said, **members}


def missing(ident):
    return {
        "type": "tool_result", "tool_use_id": ident, "content": MISSING, "is_error": True
    }  # fmt: skip


def image(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}


def function(name="read", **members):
    return {"type": "function", "function": {"name": name, **members}}


def test_a_plain_question_becomes_one():
    assert request(stream=True) == {
        "model": "m",
        "max_tokens": 4096,
        "stream": True,
        "cache_control": {"type": "ephemeral"},
        "messages": [{"role": "user", "content": [text("hi")]}],
    }


def test_leading_instructions_become_system_in_order():
    asked = request(
        [
            {"role": "system", "content": "one"},
            {"role": "developer", "content": [text("two"), text("three")]},
            user(),
        ]
    )

    assert asked["system"] == [text("one"), text("two"), text("three")]
    assert asked["messages"] == [{"role": "user", "content": [text("hi")]}]


def test_instructions_alone_are_the_users_turn():
    asked = request([{"role": "system", "content": "Write a poem."}])

    assert "system" not in asked
    assert asked["messages"] == [{"role": "user", "content": [text("Write a poem.")]}]


def test_a_late_instruction_stays_where_it_was_said():
    late = [{"role": "developer", "content": "Be brief."}, user("now")]

    asked = request([{"role": "system", "content": "s"}, user(), assistant("hello"), *late])

    assert asked["system"] == [text("s")]
    assert asked["messages"][-1] == {
        "role": "user",
        "content": [text("<system-reminder>\nBe brief.\n</system-reminder>"), text("now")],
    }


def test_turns_alternate_whatever_stood_side_by_side():
    assert turns(user("a"), user("b"), assistant("c"), assistant("d"), user("e")) == [
        ("user", ["a", "b"]),
        ("assistant", ["c", "d"]),
        ("user", ["e"]),
    ]


def test_results_of_parallel_calls_and_what_the_user_says_are_one_turn_results_first():
    assert turns(
        user(),
        assistant("Reading.", call("a", '{"path":"x"}'), call("b")),
        tool("a", "1"),
        user("and hurry"),
        tool("b", "2"),
        assistant("Read."),
    ) == [
        ("user", ["hi"]),
        ("assistant", ["Reading.", tool_use("a", {"path": "x"}), tool_use("b")]),
        ("user", [result("a", text("1")), result("b", text("2")), "and hurry"]),
        ("assistant", ["Read."]),
    ]


def test_calls_of_one_turn_told_in_two_messages_stay_together():
    said = turns(user(), assistant(None, call("a")), assistant("Both.", call("b")), tool("a"))

    assert said[1:] == [
        ("assistant", ["Both.", tool_use("a"), tool_use("b")]),
        ("user", [result("a", text("done")), missing("b")]),
    ]


@pytest.mark.parametrize("later", [[], [user("stop")], [user("stop"), assistant("ok"), user("?")]])
def test_a_call_whose_result_never_came_is_told_as_failed(later):
    said = turns(user(), assistant(None, call("a"), call("b")), tool("b"), *later)

    results = [result("b", text("done")), missing("a")]
    assert said[2][1] == results + ["stop"] * bool(later)
    assert said[3:] == [("assistant", ["ok"]), ("user", ["?"])][: len(said) - 3]


@pytest.mark.parametrize("stray", [tool("gone", "found it"), tool("a", "found it")])
def test_a_result_without_its_call_is_told_as_text(stray):
    before = [user(), assistant(None, call("a")), tool("a")]

    said = turns(*before, stray, assistant("So."))

    assert said[2:] == [
        (
            "user",
            [
                result("a", text("done")),
                "The result of a tool call that is no longer in this conversation:",
                "found it",
            ],
        ),
        ("assistant", ["So."]),
    ]


def test_a_result_that_comes_too_late_is_told_as_text():
    said = turns(user(), assistant(None, call("a")), user("b"), assistant("c"), tool("a", "late"))

    assert said[4] == (
        "user",
        ["The result of a tool call that is no longer in this conversation:", "late"],
    )


def test_an_empty_stray_result_is_nothing():
    assert turns(user(), assistant(None, call("a")), tool("x", ""), tool("a"))[2:] == [
        ("user", [result("a", text("done"))])
    ]


def test_every_id_fits_the_pattern_and_leads_to_its_result():
    idents = ["functions.read:0", "a/b", "a.b", "", "ü", "toolu_01"]
    calls = [call(ident) for ident in idents]

    said = turns(user(), assistant(None, *calls), *[tool(ident, ident) for ident in idents])

    uses = [block["id"] for block in said[1][1]]
    assert all(TOOL_ID.fullmatch(ident) for ident in uses)
    assert len(set(uses)) == len(idents)
    assert [block["tool_use_id"] for block in said[2][1]] == uses


def test_an_id_that_comes_again_in_a_later_turn_gets_another_name():
    again = [assistant(None, call("call_0")), tool("call_0")]

    said = turns(user(), *again, *again, *again)

    assert [turn[1][0]["id"] for turn in said[1::2]] == ["call_0", "call_0_2", "call_0_3"]
    assert [turn[1][0]["tool_use_id"] for turn in said[2::2]] == [
        "call_0", "call_0_2", "call_0_3"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "blank", ["", "  ", "\n\t", None, [], [text("")], [text("\n")], [text(None)]]
)
def test_a_blank_text_is_no_block_and_no_turn(blank):
    assert turns(user("a"), assistant(blank), user(blank), user("b")) == [("user", ["a", "b"])]
    assert turns(user(), assistant(blank, call("a")), tool("a", blank))[1:] == [
        ("assistant", [tool_use("a")]),
        ("user", [result("a")]),
    ]


def test_images_and_files_keep_their_place():
    parts = [
        text("look"),
        image("data:image/JPG;base64,AAAA"),
        image("https://host.example/a.png"),
        {"type": "image_url", "image_url": "data:image/webp;base64,BBBB"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF_URL}},
        {"type": "file", "file": {"file_data": PDF}},
        {"type": "file", "file": {"file_data": "https://host.example/b.pdf"}},
        {"type": "file", "file": {"file_data": "data:text/markdown;base64,IyBI"}},
        {"type": "file", "file": {"file_data": "data:image/png;base64,CCCC"}},
    ]  # fmt: skip

    def source(kind, **members):
        return {"type": kind, **members}

    def base64_of(media, data):
        return source("base64", media_type=media, data=data)

    assert request([user(parts)])["messages"][0]["content"] == [
        text("look"),
        {"type": "image", "source": base64_of("image/jpeg", "AAAA")},
        {"type": "image", "source": source("url", url="https://host.example/a.png")},
        {"type": "image", "source": base64_of("image/webp", "BBBB")},
        {"type": "document", "source": base64_of("application/pdf", PDF), "title": "a.pdf"},
        {"type": "document", "source": base64_of("application/pdf", PDF)},
        {"type": "document", "source": source("url", url="https://host.example/b.pdf")},
        {"type": "document", "source": source("text", media_type="text/plain", data="# H")},
        {"type": "image", "source": base64_of("image/png", "CCCC")},
    ]


def test_an_image_in_a_tools_result_stays_in_it():
    said = turns(user(), assistant(None, call("a")), tool("a", [text("shot"), image("http://h/i")]))

    seen = {"type": "image", "source": {"type": "url", "url": "http://h/i"}}
    assert said[-1] == ("user", [result("a", text("shot"), seen)])


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "input_audio"),
        ({"type": "video_url"}, "video_url"),
        (image("data:,hello"), "data URL"),
        (image("/tmp/a.png"), "http"),
        ({"type": "image_url"}, "Expected `object`"),
        ({"type": "file", "file": {"file_id": "file_1"}}, "file_data"),
        ({"type": "file", "file": {"file_data": "data:application/zip;base64,AAAA"}}, "a PDF"),
        ({"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}}, "base64"),
        ({"type": "text", "text": 7}, "must be a string"),
        (7, "Expected `object`"),
    ],
)
def test_a_part_that_no_block_can_hold_is_refused(part, why):
    with pytest.raises(InvalidRequest, match=re.escape(why)) as refused:
        request([user([part])])

    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"role": "narrator", "content": "x"}, "narrator"),
        ({"content": "x"}, "role"),
        ("x", "Expected `object`"),
        (user(7), "Expected `array`"),
        (assistant(None, {"id": "a", "type": "custom", "custom": {}}), "call a function"),
        (assistant(None, audio={"id": "audio_1"}), "audio"),
    ],
)
def test_a_message_that_cannot_be_read_is_refused(message, why):
    with pytest.raises(InvalidRequest, match=why) as refused:
        request([message])

    assert refused.value.param == "messages"


def test_what_is_nested_too_deeply_is_refused():
    deep = msgspec.Raw(b'[{"role":"user","content":' + b"[" * 9999 + b"]" * 9999 + b"}]")

    with pytest.raises(InvalidRequest, match="messages cannot be read"):
        chat_to_messages.request({"model": msgspec.Raw(b'"m"'), "messages": deep}, max_tokens=1)


def test_a_refusal_stays_a_part_of_the_conversation():
    parts = [text("a"), {"type": "refusal", "refusal": "b"}]

    assert turns(user(), assistant(parts, refusal="c"))[1] == ("assistant", ["a", "b", "c"])


def test_the_older_function_calls_are_understood():
    asked = request(
        [
            user(),
            assistant(None, function_call={"name": "f", "arguments": '{"a":1}'}),
            {"role": "function", "name": "f", "content": "42"},
            assistant(None, function_call={"name": "f", "arguments": ""}),
        ],
        functions=[{"name": "f", "description": "d", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )

    assert [turn["content"] for turn in asked["messages"][1:]] == [
        [tool_use("call_f", {"a": 1}, "f")],
        [result("call_f", text("42"))],
        [tool_use("call_f_2", {}, "f")],
        [missing("call_f_2")],
    ]
    assert asked["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}
    ]
    assert asked["tool_choice"] == {"type": "tool", "name": "f"}


def signed(**members):
    return {"format": "anthropic-claude-v1", "index": 0, **members}


def test_signed_thinking_comes_back_ahead_of_all_else():
    details = [
        signed(type="reasoning.text", text="because", signature="c2ln"),
        signed(type="reasoning.text", text="therefore", signature="bmV4dA"),
        signed(type="reasoning.encrypted", data="b3BhcXVl", index=1),
    ]

    said = turns(user(), assistant("So.", call("a"), reasoning_details=details))

    assert said[1][1] == [
        {"type": "thinking", "thinking": "because", "signature": "c2ln"},
        {"type": "thinking", "thinking": "therefore", "signature": "bmV4dA"},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        "So.",
        tool_use("a"),
    ]


def test_thinking_that_a_client_kept_piece_by_piece_becomes_whole():
    details = [
        signed(type="reasoning.text", text="never signed"),
        signed(type="reasoning.text", text="be", index=1),
        signed(type="reasoning.text", text="cause", index=1),
        signed(type="reasoning.text", signature="c2ln", index=1),
    ]

    said = turns(user(), assistant("So.", reasoning_details=details))

    assert said[1][1] == [{"type": "thinking", "thinking": "because", "signature": "c2ln"}, "So."]


@pytest.mark.parametrize(
    "details",
    [
        [signed(type="reasoning.text", text="t")],
        [signed(type="reasoning.text", text="t", signature="")],
        [signed(type="reasoning.text", text="t", signature="s", format="google-gemini-v1")],
        [{"type": "reasoning.encrypted", "data": "d", "format": "openai-responses-v1"}],
        [{"type": "reasoning.encrypted", "data": "d"}],
        [7],
        "t",
        {},
        None,
    ],
)
def test_thinking_that_claude_did_not_sign_is_never_shown_to_it(details):
    said = turns(user(), assistant("So.", reasoning_details=details, reasoning_content="t"))

    assert said[1] == ("assistant", ["So."])


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ('{"a": 1.10, "b": 1e400, "c": 12345678901234567890123}', None),
        ('{\n  "a": "\\u00fc"\n}', None),
        ("", b"{}"),
        (" \n", b"{}"),
        ("[1]", rb'{"invalid_arguments":"[1]"}'),
        ('{"a": ', rb'{"invalid_arguments":"{\"a\": "}'),
        ('{"a": "\\ud800"}', rb'{"invalid_arguments":"{\"a\": \"\\ud800\"}"}'),
        ("plain words", b'{"invalid_arguments":"plain words"}'),
    ],
)
def test_arguments_are_the_text_that_the_model_wrote(arguments, sent):
    asked = {"model": "m", "messages": [user(), assistant(None, call("a", arguments))]}

    fields = translated(json.dumps(asked).encode())

    assert b'"input":%b}' % (sent or arguments.encode()) in bytes(fields["messages"])


@pytest.mark.parametrize(("arguments", "sent"), [({"a": 1}, {"a": 1}), (None, {})])
def test_arguments_that_are_no_text_are_taken_too(arguments, sent):
    assert turns(user(), assistant(None, call("a", arguments)))[1][1] == [tool_use("a", sent)]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON), st.booleans())
def test_any_object_survives_as_arguments(value, is_ascii):
    arguments = json.dumps(value, ensure_ascii=is_ascii)
    asked = {"model": "m", "messages": [user(), assistant(None, call("a", arguments))]}

    fields = translated(json.dumps(asked).encode())

    assert b'"input":%b}' % arguments.encode() in bytes(fields["messages"])


def test_tools_keep_their_schema_to_the_byte():
    schema = b'{ "type":"object", "properties":{"n":{"maximum":1.10}},"$defs":{} }'
    raw = (
        b'{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"read",'
        b'"description":"Reads \\u00fc","strict":true,"parameters":%b}}]}' % schema
    )

    assert bytes(translated(raw)["tools"]) == (
        b'[{"name":"read","description":"Reads \\u00fc","input_schema":%b,"strict":true}]' % schema
    )


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, {"type": "object", "properties": {}}),
        ({}, {"type": "object", "properties": {}}),
        ({"type": None}, {"type": "object", "properties": {}}),
        (
            {"properties": {"a": {}}, "required": ["a"]},
            {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        ),
    ],
)
def test_a_schema_gets_what_the_api_cannot_do_without(parameters, schema):
    assert request(tools=[function(parameters=parameters)])["tools"] == [
        {"name": "read", "input_schema": schema}
    ]


@pytest.mark.parametrize(
    "tool_of_another_kind",
    [
        {"type": "custom", "custom": {"name": "patch"}},
        {"type": "web_search_20250305", "name": "web_search"},
        {"type": "function"},
    ],
)
def test_a_tool_that_is_no_function_is_refused(tool_of_another_kind):
    with pytest.raises(InvalidRequest, match="function") as refused:
        request(tools=[tool_of_another_kind])

    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        ({}, None),
        ({"tool_choice": None, "parallel_tool_calls": True}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": function("b")}, {"type": "tool", "name": "b"}),
        ({"function_call": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        (
            {"tool_choice": function("b"), "parallel_tool_calls": False},
            {"type": "tool", "name": "b", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_the_choice_of_tools_is_kept(asked, choice):
    assert request(tools=[function("a"), function("b")], **asked).get("tool_choice") == choice


def test_of_allowed_tools_only_those_are_offered():
    allowed = {"mode": "required", "tools": [function("b"), {"type": "custom"}]}

    asked = request(
        tools=[function("a"), function("b")],
        tool_choice={"type": "allowed_tools", "allowed_tools": allowed},
    )

    assert [each["name"] for each in asked["tools"]] == ["b"]
    assert asked["tool_choice"] == {"type": "any"}


@pytest.mark.parametrize("choice", ["any", {"type": "function"}, 7, {"type": "custom"}])
def test_a_choice_that_cannot_be_read_is_refused(choice):
    with pytest.raises(InvalidRequest, match="tool_choice") as refused:
        request(tools=[function()], tool_choice=choice)

    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("none", [{}, {"tools": []}, {"tools": None}])
def test_without_tools_there_is_nothing_to_choose(none):
    asked = request(tool_choice="auto", parallel_tool_calls=False, **none)

    assert asked.keys() & {"tools", "tool_choice"} == set()


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"max_tokens": 4096}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": None, "max_completion_tokens": None}, {"max_tokens": 4096}),
        ({"stop": "a"}, {"stop_sequences": ["a"]}),
        ({"stop": ["\n", "a", " "]}, {"stop_sequences": ["a"]}),
        ({"stop": ["\n"]}, {}),
        ({"stop": None}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 1, "top_p": 1}, {}),
        ({"temperature": 1.7}, {}),
        ({"temperature": 1, "top_p": 0.9}, {"top_p": 0.9}),
        ({"temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2}),
        ({"reasoning_effort": "minimal"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "xhigh"}, {"output_config": {"effort": "xhigh"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": None}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"n": 1, "logprobs": False, "modalities": ["text"], "audio": None}, {}),
        (
            {
                "reasoning_effort": "high",
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}},
                },
            },
            {
                "output_config": {
                    "effort": "high",
                    "format": {"type": "json_schema", "schema": {"type": "object"}},
                }
            },
        ),
    ],
)
def test_settings_become_those_of_the_messages_api(asked, sent):
    always = {"model": "m", "cache_control": {"type": "ephemeral"}, "max_tokens": 4096}

    made = request(**asked)

    del made["messages"]
    assert made == {**always, **sent}


def test_a_wish_for_json_is_told_at_the_end_of_system():
    asked = request(
        [{"role": "system", "content": "s"}, user()], response_format={"type": "json_object"}
    )

    assert asked["system"] == [text("s"), text("Answer with one JSON object and nothing else.")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("audio", {"voice": "a"}),
        ("modalities", ["text", "audio"]),
        ("modalities", "audio"),
        ("web_search_options", {}),
        ("stop", 7),
        ("stop", [7]),
        ("temperature", "hot"),
        ("reasoning_effort", "much"),
        ("response_format", {"type": "grammar"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", "json"),
        ("tools", {}),
        ("functions", [{}]),
    ],
)
def test_what_a_messages_upstream_cannot_do_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest, match=f"^{name} |^The type of {name}") as refused:
        request(**{name: value})

    assert refused.value.param == name


def test_what_it_has_no_name_for_is_left_out():
    names = """
        seed user store metadata logit_bias frequency_penalty presence_penalty top_logprobs
        prompt_cache_key prompt_cache_options verbosity service_tier prediction foo
    """
    other = dict.fromkeys(names.split(), 1)

    assert request(**other, stream_options={"include_usage": True}) == request()


def test_marks_of_the_cache_stay_where_the_client_put_them():
    asked = request(
        [
            {"role": "system", "content": [{**text("s"), "cache_control": MARK}]},
            user([{**text("a"), "cache_control": MARK}, text("b")]),
            assistant("c", call("x"), cache_control=MARK),
            tool("x", [{**text("d"), "cache_control": MARK}, text("e")]),
            user("f", cache_control=MARK),
        ],
        tools=[function("g"), {**function("h"), "cache_control": MARK}],
        functions=[{"name": "i", "cache_control": MARK}],
    )

    marked = {"cache_control": MARK}
    assert "cache_control" not in asked
    assert asked["system"] == [{**text("s"), **marked}]
    assert [turn["content"] for turn in asked["messages"]] == [
        [{**text("a"), **marked}, text("b")],
        [{**text("c"), **marked}, tool_use("x")],
        [{**result("x", text("d"), text("e")), **marked}, {**text("f"), **marked}],
    ]
    assert [(each["name"], each.get("cache_control")) for each in asked["tools"]] == [
        ("i", MARK), ("g", None), ("h", MARK)
    ]  # fmt: skip


def test_a_client_that_marks_nothing_gets_the_automatic_cache():
    spoken = [user('What is "cache_control"?'), assistant("A mark.", cache_control=None)]

    assert request(spoken[:1])["cache_control"] == {"type": "ephemeral"}
    assert request(cache_control=MARK)["cache_control"] == MARK


def session(length):
    """Give the requests of a session as opencode leads one: all that was said, every time."""
    shot = [text("Like this:"), image("data:image/png;base64," + "iVBORw0KGgo=" * 40)]
    said = [{"role": "system", "content": "You are a coding agent.\n" * 30}, user("Fix the bug.")]
    for turn in range(length):
        yield [*said]
        calls = [
            call(f"call_{turn}.{each}", f'{{"path": "{each}.py"}}') for each in range(turn % 3)
        ]
        said.append(
            assistant(None if turn == 5 else f"Step {turn}.", *calls, reasoning_content="Hm")
        )
        said += [tool(each["id"], f"line ü {turn}\n" * 20) for each in reversed(calls)]
        if not calls:
            said += [user(shot if turn % 2 else f"And {turn}?")]
        if turn == 6:
            said.append({"role": "system", "content": "The user has changed the mode."})


def test_a_growing_session_keeps_its_bytes():
    """The provider's cache is keyed by the prefix: not one byte of it may change."""
    tools = [function(name, parameters={"type": "object"}) for name in ("read", "write")]
    asked = [
        translated(json.dumps({"model": "m", "messages": said, "tools": tools}).encode())
        for said in session(10)
    ]

    for earlier, later in itertools.pairwise(asked):
        assert bytes(later["system"]) == bytes(earlier["system"])
        assert bytes(later["tools"]) == bytes(earlier["tools"])
        assert bytes(later["messages"]).startswith(bytes(earlier["messages"])[:-1])
    assert len(bytes(asked[-1]["messages"])) > 4 * len(bytes(asked[0]["messages"]))


def test_only_the_end_of_the_users_turn_moves_when_they_say_more():
    said = [user(), assistant("a"), user("b")]

    earlier, later = (
        bytes(translated(json.dumps({"model": "m", "messages": each}).encode())["messages"])
        for each in (said, [*said, user("c")])
    )

    assert later.startswith(earlier[: -len(b"]}]")])
