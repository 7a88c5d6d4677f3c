"""Chat requests made of Responses requests, in the ways of each server."""

import json

import pytest

from server.protocols import body
from server.protocols.compat import (
    DEEPSEEK,
    GENERIC,
    OLLAMA,
    OPENAI,
    OPENROUTER,
    SERVERS,
    VLLM,
    Compat,
)
from server.protocols.translation.requests import responses_to_chat
from server.protocols.translation.requests.fitted_chat import SCHEMA_TOLD, fitted

TOOL = {"type": "function", "name": "Read", "parameters": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {}}
FORMAT = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
LATE = {"role": "developer", "content": 'Be \u00e9 "brief".'}


def fit(compat, **members):
    raw = json.dumps({"model": "m", "input": "hi", **members}).encode()
    made = fitted(responses_to_chat.request(body.split(raw)).fields, compat)
    return {name: json.loads(bytes(value)) for name, value in made.items()}


@pytest.mark.parametrize("compat", SERVERS.values(), ids=SERVERS)
def test_the_limit_of_output_has_the_name_that_the_server_knows(compat):
    """One that it does not know would be no limit, and a hold would not cover the answer."""
    made = fit(compat, max_output_tokens=9)

    assert {name: value for name, value in made.items() if "tokens" in name} == {
        compat.max_tokens_field: 9
    }


@pytest.mark.parametrize(
    ("compat", "asked", "said"),
    [
        (OPENAI, "high", {}),  # it refuses an effort beside tools
        (Compat(effort_with_tools="none"), "high", {"reasoning_effort": "none"}),
        (VLLM, "xhigh", {"reasoning_effort": "high"}),
        (VLLM, "minimal", {"reasoning_effort": "low"}),
        (OPENROUTER, "medium", {"reasoning_effort": "medium"}),
        (OLLAMA, "none", {"reasoning_effort": "none"}),
        (DEEPSEEK, "none", {"thinking": {"type": "disabled"}}),
        (OPENAI, "none", {}),
        (VLLM, None, {}),
    ],
)
def test_an_effort_beside_tools_is_what_the_server_takes(compat, asked, said):
    made = fit(compat, tools=[TOOL], reasoning={"effort": asked})

    assert {name: made[name] for name in made if name in ("reasoning_effort", "thinking")} == said


@pytest.mark.parametrize("compat", SERVERS.values(), ids=SERVERS)
def test_an_effort_without_tools_is_the_clients_own_business(compat):
    assert fit(compat, reasoning={"effort": "minimal"})["reasoning_effort"] == "minimal"


@pytest.mark.parametrize("compat", SERVERS.values(), ids=SERVERS)
def test_a_system_message_that_comes_late_is_one_only_where_that_is_allowed(compat):
    items = [{"role": "user", "content": "hi"}, LATE, {"role": "user", "content": "go"}]

    made = fit(compat, instructions="First.", input=items)["messages"]

    text = LATE["content"]
    late = {"role": "system", "content": text}
    if compat.late_system == "user":
        tagged = f"<system-reminder>\n{text}\n</system-reminder>"
        late = {"role": "user", "content": tagged}
    assert made[0] == {"role": "system", "content": "First."}
    assert made[2] == late
    assert len(made) == 4


@pytest.mark.parametrize("compat", SERVERS.values(), ids=SERVERS)
def test_several_texts_are_one_string_where_content_must_be(compat):
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]

    (made,) = fit(compat, input=[{"role": "user", "content": parts}])["messages"]

    texts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert made["content"] == (texts if compat.text_parts else "a\n\nb")


def test_an_image_stays_one_even_where_content_should_be_a_string():
    image = {"type": "input_image", "image_url": "https://example.com/a.png"}
    parts = [{"type": "input_text", "text": "a"}, image]

    (made,) = fit(GENERIC, input=[{"role": "user", "content": parts}])["messages"]

    assert [part["type"] for part in made["content"]] == ["text", "image_url"]


@pytest.mark.parametrize("instructions", [None, "First."])
def test_a_schema_is_told_where_a_server_takes_none(instructions):
    made = fit(DEEPSEEK, instructions=instructions, text=FORMAT)

    assert made["response_format"] == {"type": "json_object"}
    told = made["messages"][0]["content"].removeprefix("First.\n\n")
    assert made["messages"][0]["role"] == "system"
    assert json.loads(told.removeprefix(SCHEMA_TOLD)) == SCHEMA
    assert fit(OPENAI, text=FORMAT)["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_layout_without_a_schema_stays_as_it_is():
    made = fit(DEEPSEEK, text={"format": {"type": "json_object"}})

    assert made["response_format"] == {"type": "json_object"}
    assert len(made["messages"]) == 1
