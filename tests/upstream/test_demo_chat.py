"""The demo upstream speaks OpenAI Chat Completions as strictly as the official SDK reads it."""

import json

import openai
import pytest
from demo_harness import chat_body, check_chat_stream, post, serve

WRITE = {
    "type": "function",
    "function": {
        "name": "write",
        "parameters": {
            "type": "object",
            "properties": {"filePath": {"type": "string"}, "content": {"type": "string"}},
            "required": ["content", "filePath"],
        },
    },
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}


def sdk(server):
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="fake", max_retries=0, _strict_response_validation=True
    )


def whole(body, path="/v1/chat/completions"):
    async def scenario(server):
        return await post(server, path, body)

    return serve(scenario).json()


def streamed(body):
    async def scenario(server):
        return await post(server, "/v1/chat/completions", {**body, "stream": True})

    include = body.get("stream_options", {}).get("include_usage", False)
    return check_chat_stream(serve(scenario).content, include_usage=include)


VARIANTS = {
    "plain": {},
    "length": {"max_completion_tokens": 7},
    "old length": {"max_tokens": 7},
    "stop": {"stop": "scripted"},
    "stops": {"stop": ["zebra", "scripted"]},
    "schema": {"response_format": FORM},
    "object": {"response_format": {"type": "json_object"}},
    "forced tool": {"tools": [WRITE], "tool_choice": "required"},
    "no tool": {"tools": [WRITE], "tool_choice": "none"},
    "tool": {"tools": [WRITE], "messages": [{"role": "user", "content": "create a.txt with x"}]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stream_carries_what_the_whole_body_says(name):
    body = chat_body(**VARIANTS[name])

    stream = streamed({**body, "stream_options": {"include_usage": True}})
    answer = whole(body)

    choice = answer["choices"][0]
    assert stream["text"] == (choice["message"]["content"] or "")
    assert stream["finish_reason"] == choice["finish_reason"]
    assert stream["usage"] == answer["usage"]
    calls = [call["function"] for call in choice["message"].get("tool_calls", ())]
    assert [(name, arguments) for name, _, arguments in stream["tools"].values()] == [
        (call["name"], call["arguments"]) for call in calls
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_official_sdk_reads_both_forms_in_strict_mode(name):
    body = chat_body(**VARIANTS[name])

    async def scenario(server):
        async with sdk(server) as reader:
            answer = await reader.chat.completions.create(**body)
            chunks = await reader.chat.completions.create(
                **body, stream=True, stream_options={"include_usage": True}
            )
            return answer, [chunk async for chunk in chunks]

    answer, chunks = serve(scenario)
    assert chunks[-1].usage == answer.usage
    assert chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason


def test_the_sdk_s_stream_helper_assembles_a_tool_call():
    body = chat_body("create a file a.txt containing x", tools=[WRITE])

    async def scenario(server):
        async with sdk(server) as reader, reader.chat.completions.stream(**body) as stream:
            return await stream.get_final_completion()

    call = serve(scenario).choices[0].message.tool_calls[0]
    assert call.id.startswith("call_")
    assert json.loads(call.function.arguments) == {"filePath": "a.txt", "content": "x"}


def test_usage_is_streamed_only_when_asked_for():
    assert streamed(chat_body())["usage"] is None


def test_a_schema_is_answered_with_json_that_fits():
    text = whole(chat_body(response_format=FORM))["choices"][0]["message"]["content"]

    assert json.loads(text) == {"n": 1}


def test_a_long_shared_prefix_is_cached_in_steps_of_1024_tokens():
    system = {"role": "system", "content": "s" * 5000}
    first = [system, {"role": "user", "content": "one"}]
    later = [*first, {"role": "assistant", "content": "a"}, {"role": "user", "content": "two"}]

    async def scenario(server):
        bodies = [chat_body(messages=messages) for messages in (first, later)]
        return [
            (await post(server, "/v1/chat/completions", body)).json()["usage"] for body in bodies
        ]

    one, two = serve(scenario)
    assert one["prompt_tokens_details"]["cached_tokens"] == 0
    assert two["prompt_tokens_details"]["cached_tokens"] == 1024
    assert two["prompt_tokens"] > one["prompt_tokens"]
    assert two["total_tokens"] == two["prompt_tokens"] + two["completion_tokens"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "demo"},
        {"model": "demo", "messages": []},
        {"model": "demo", "messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}]},
    ],
)
def test_a_bad_body_is_a_400_in_the_vendor_s_envelope(body):
    answer = whole(body)

    assert answer["error"]["type"] == "invalid_request_error"
    assert answer["error"]["param"] in ("messages", "model")


def test_models_satisfy_the_strict_sdk_and_the_path_without_v1_works():
    async def scenario(server):
        async with sdk(server) as reader:
            return [model.id async for model in reader.models.list()]

    assert "fault:cut" in serve(scenario)
    assert whole(chat_body(), "/chat/completions")["object"] == "chat.completion"
