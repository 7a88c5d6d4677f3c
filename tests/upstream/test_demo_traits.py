"""The demo models whose names say how they are."""

import pytest
from demo_harness import (
    chat_body,
    check_chat_stream,
    check_messages_stream,
    messages_body,
    post,
    serve,
)

from server.upstream.demo.model import REFUSAL

TWO = "Create a file a.txt containing x and a file b.txt containing y"
NAMES = ["path", "content"]
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in NAMES},
    "required": NAMES,
}
WRITE = {"name": "write_file", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}
BOTH = ["a.txt", "b.txt"]


def ask(*bodies, path="/v1/messages"):
    """Send one after the other to one demo upstream; give the answers."""

    async def scenario(server):
        return [await post(server, path, body) for body in bodies]

    return serve(scenario)


def messages(model, content="hello", **fields):
    body = messages_body(content, model=model, **fields)
    whole, stream = ask(body, {**body, "stream": True})
    message = whole.json()
    streamed = check_messages_stream(stream.content)
    for each in (message, streamed):
        each.pop("id")
        for block in each["content"]:
            block.pop("id", None)
    assert streamed == message
    return message


def chat(model, content="hello", **fields):
    body = chat_body(content, model=model, **fields)
    whole, stream = ask(body, {**body, "stream": True}, path="/v1/chat/completions")
    choice = whole.json()["choices"][0]
    streamed = check_chat_stream(stream.content)
    assert streamed["finish_reason"] == choice["finish_reason"]
    assert [(name, text) for name, _, text in streamed["tools"].values()] == [
        (call["function"]["name"], call["function"]["arguments"])
        for call in choice["message"].get("tool_calls", ())
    ]
    return choice


@pytest.mark.parametrize(
    ("model", "choice", "paths"),
    [
        ("demo-parallel", {"type": "auto"}, BOTH),
        ("demo-parallel", {"type": "auto", "disable_parallel_tool_use": True}, BOTH[:1]),
        ("demo", {"type": "auto"}, BOTH[:1]),
    ],
)
def test_a_parallel_model_writes_all_files_at_once_unless_told_not_to(model, choice, paths):
    message = messages(model, TWO, tools=[WRITE], tool_choice=choice)

    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    assert [call["input"]["path"] for call in calls] == paths
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize(("several", "count"), [(True, 2), (False, 1)])
def test_a_parallel_model_does_so_over_chat_too(several, count):
    choice = chat("demo-parallel", TWO, tools=[FUNCTION], parallel_tool_calls=several)

    assert len(choice["message"]["tool_calls"]) == count
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(("mode", "count"), [("required", 1), ("auto", 0)])
def test_of_several_tools_over_chat_some_may_be_allowed(mode, count):
    other = {"type": "function", "function": {"name": "read_me"}}
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [other]}}

    said = chat("demo", tools=[FUNCTION, other], tool_choice=choice)["message"]

    calls = said.get("tool_calls", [])
    assert [call["function"]["name"] for call in calls] == ["read_me"] * count


def test_a_thinking_model_thinks_unless_told_not_to():
    assert messages("demo-thinking")["content"][0]["type"] == "thinking"
    off = messages("demo-thinking", thinking={"type": "disabled"})
    assert [block["type"] for block in off["content"]] == ["text"]
    assert "The request is" in chat("demo-thinking")["message"]["reasoning_content"]
    assert "reasoning_content" not in chat("demo-thinking", reasoning_effort="none")["message"]


def test_a_thinking_model_takes_back_its_own_thoughts_alone():
    first = messages_body(model="demo-thinking")
    said = ask(first)[0].json()["content"]
    more = {"role": "user", "content": "go on"}

    def again(content):
        turns = [*first["messages"], {"role": "assistant", "content": content}, more]
        return ask({**first, "messages": turns})[0]

    assert again(said).status_code == 200
    refused = again([{**said[0], "signature": "c2ln"}, *said[1:]])
    assert refused.status_code == 400
    assert "Invalid `signature` in `thinking` block" in refused.text


def test_a_refusing_model_says_so_in_each_protocols_way():
    message, choice = messages("demo-refusal"), chat("demo-refusal")

    assert message["stop_reason"] == "refusal"
    assert message["content"] == [{"type": "text", "text": REFUSAL}]
    assert (choice["message"]["content"], choice["message"]["refusal"]) == (None, REFUSAL)
    assert choice["finish_reason"] == "stop"
