"""Extras: what costs more than its tokens is seen, however it is spelled."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.protocols import body, extras
from server.protocols.extras import NONE, Extras, asked_chat, asked_messages

BOTH = pytest.mark.parametrize("asked", [asked_messages, asked_chat])


def members(**given):
    return body.split(json.dumps({"model": "m", "messages": [], **given}).encode())


def with_tools(raw):
    return body.split(b'{"tools":%b}' % raw)


@BOTH
@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"tools": None},
        {"tools": []},
        {"tools": [{"name": "f", "input_schema": {"type": "web_search_20250305"}}]},
        {"tools": [{"type": "custom", "name": "web_search_20250305"}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"type": None, "name": "f", "max_uses": "any"}]},
        *(
            {"service_tier": tier}
            for tier in ("auto", "default", "standard", "standard_only", None)
        ),
        {"speed": "standard"},
        {"speed": None},
        {"inference_geo": "global"},
        {"inference_geo": "not_available"},
        {"inference_geo": None},
        {"mcp_servers": [{"type": "url"}], "container": "c_1"},
        {"modalities": ["text"], "web_search_options": None},
        {"modalities": None},
    ],
)
def test_what_changes_no_bill_is_no_extra(asked, plain):
    assert asked(members(**plain)) is NONE


@pytest.mark.parametrize(
    "tool",
    [
        *("bash_20250124", "text_editor_20250728", "computer_20251124", "memory_20250818"),
        *("computer_toolset_20260801", "browser_toolset_20260801", "mcp_toolset"),
        *("web_fetch_20260318", "tool_search_tool_bm25_20251119", "tool_search_tool_regex"),
    ],
)
def test_tools_that_cost_their_tokens_alone_are_no_extra(tool):
    assert asked_messages(members(tools=[{"type": tool, "max_uses": 5}])) is NONE


@BOTH
def test_server_tools_are_told_without_their_version_and_with_their_limit(asked):
    tools = [
        {"type": "custom", "name": "f"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
        {"type": "web_search_20991231", "max_uses": 0},
        {"type": "code_execution_20260521", "max_uses": None},
        {"type": "advisor_20260301", "model": "m"},
        {"type": "novel"},
    ]

    assert asked(members(tools=tools)).uses == (
        ("web_search", 5),
        ("web_search", 0),
        ("code_execution", None),
        ("advisor", None),
        ("novel", None),
    )


@BOTH
@given(st.sets(st.integers(0, 18)), st.booleans())
def test_no_escape_hides_a_tool(asked, escaped, upper):
    kind = "".join(
        f"\\u{ord(letter):04{'X' if upper else 'x'}}" if at in escaped else letter
        for at, letter in enumerate("web_search_20250305")
    )
    tools = b'[{"name":"a"},{"\\u0074ype" :\n"%b","m\\u0061x_uses":3}]' % kind.encode()

    assert asked(with_tools(tools)).uses == (("web_search", 3),)


@BOTH
def test_settings_are_told_as_they_are_asked_for(asked):
    given = members(service_tier="flex", speed="fast", inference_geo="us")

    assert asked(given).settings == (
        ("service_tier", "flex"),
        ("speed", "fast"),
        ("inference_geo", "us"),
    )


def test_fast_is_the_tier_that_answers_call_priority():
    assert asked_chat(members(service_tier="fast")).settings == (("service_tier", "priority"),)


def test_a_chat_search_is_one_use_that_no_answer_reports():
    found = Extras((("web_search", 1),), unreported=("web_search",))

    assert asked_chat(members(web_search_options={})) == found
    assert asked_messages(members(web_search_options={})) is NONE


def test_sound_costs_extra():
    assert asked_chat(members(modalities=["text", "audio"])).settings == (("modalities", "audio"),)


@pytest.mark.parametrize(
    ("uses", "limit"), [(b"7", 7), (b"999999999", 999_999_999), (b"9" * 6000, extras.MAX_USES)]
)
def test_a_limit_is_read_whatever_its_length(uses, limit):
    tools = b'[{"type":"web_search_20250305","max_uses":%b}]' % uses

    assert asked_messages(with_tools(tools)).uses == (("web_search", limit),)


@BOTH
@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": "web_search_20250305"}, "tools"),
        ({"tools": [5]}, "tools"),
        ({"tools": [None]}, "tools"),
        ({"tools": [{"type": ["web_search_20250305"]}]}, "tools"),
        ({"tools": [{"type": 5}]}, "tools"),
        *(
            ({"tools": [{"type": "web_search_20250305", "max_uses": odd}]}, "tools")
            for odd in (-1, 1.5, "3", True, [], {})
        ),
        ({"service_tier": ["priority"]}, "service_tier"),
        ({"speed": 5}, "speed"),
        ({"inference_geo": {}}, "inference_geo"),
    ],
)
def test_what_cannot_be_read_could_cost_anything_and_is_refused(asked, given, param):
    with pytest.raises(InvalidRequest, match=r"must be a") as caught:
        asked(members(**given))

    assert caught.value.param == param


@pytest.mark.parametrize("odd", ["audio", 5, ["text", 5], [["audio"]]])
def test_modalities_that_cannot_be_read_are_refused(odd):
    with pytest.raises(InvalidRequest, match="modalities must be an array of strings"):
        asked_chat(members(modalities=odd))


def test_a_name_is_told_in_short():
    found = asked_messages(members(tools=[{"type": "x" * 500}], speed="y" * 500))

    assert found == Extras((("x" * 64, None),), (("speed", "y" * 64),))


@pytest.mark.parametrize("twin", ["Web_search_options", "INFERENCE_GEO", "Speed", "modalitieS"])
def test_no_case_hides_a_field(twin):
    with pytest.raises(InvalidRequest, match="only by case"):
        members(**{twin: "fast"})
