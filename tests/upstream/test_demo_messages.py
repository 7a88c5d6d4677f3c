"""The demo upstream speaks Anthropic Messages as strictly as the official SDK reads it."""

import json

import anthropic
import pytest
from demo_harness import check_messages_stream, client, log, messages_body, post, serve

WRITE = {
    "name": "Write",
    "input_schema": {
        "type": "object",
        "properties": {
            "file_path": {"type": "string", "description": "The absolute path"},
            "content": {"type": "string"},
        },
        "required": ["file_path", "content"],
    },
}
TITLE = {
    "type": "json_schema",
    "schema": {
        "type": "object",
        "properties": {"title": {"type": "string"}, "size": {"enum": ["s", "m"]}},
        "required": ["title", "size"],
        "additionalProperties": False,
    },
}
MARK = {"type": "ephemeral"}
MARK_1H = {"type": "ephemeral", "ttl": "1h"}


def sdk(server):
    return anthropic.AsyncAnthropic(
        base_url=server.url, api_key="fake", max_retries=0, _strict_response_validation=True
    )


def streamed(body, **options):
    async def scenario(server):
        return await post(server, "/v1/messages", {**body, "stream": True})

    response = serve(scenario, **options)
    assert response.headers["content-type"].startswith("text/event-stream")
    return check_messages_stream(response.content)


def whole(body):
    async def scenario(server):
        return await post(server, "/v1/messages", body)

    return serve(scenario).json()


VARIANTS = {
    "plain": {},
    "thinking": {"thinking": {"type": "adaptive"}},
    "hidden thinking": {
        "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    },
    "length": {"max_tokens": 7},
    "thinking cut": {"max_tokens": 3, "thinking": {"type": "adaptive"}},
    "warm-up": {"max_tokens": 0},
    "stop": {"stop_sequences": ["scripted", "zebra"]},
    "schema": {"output_config": {"format": TITLE}},
    "forced tool": {"tools": [WRITE], "tool_choice": {"type": "any"}},
    "named tool": {"tools": [WRITE], "tool_choice": {"type": "tool", "name": "Write"}},
    "no tool": {"tools": [WRITE], "tool_choice": {"type": "none"}},
    "tool": {"tools": [WRITE], "messages": [{"role": "user", "content": "create a.txt with x"}]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_stream_builds_the_same_message_as_the_whole_body(name):
    body = messages_body(**VARIANTS[name])

    assert streamed(body) == whole(body)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_official_sdk_reads_both_forms_in_strict_mode(name):
    body = messages_body(**VARIANTS[name])

    async def scenario(server):
        async with sdk(server) as reader:
            message = await reader.messages.create(**body)
            async with reader.messages.stream(**body) as stream:
                return message, await stream.get_final_message()

    message, final = serve(scenario)
    assert message.stop_reason == final.stop_reason
    assert [block.type for block in message.content] == [block.type for block in final.content]
    assert message.usage.output_tokens == final.usage.output_tokens


def test_the_reply_is_friendly_and_the_same_every_time():
    first, second = (
        whole(messages_body("What is a gateway?")),
        whole(messages_body("What is a gateway?")),
    )

    text = first["content"][0]["text"]
    assert 'You said: "What is a gateway?"' in text
    assert "demo upstream" in text
    assert second["content"] == first["content"]
    assert first["usage"]["output_tokens"] == -(-len(text) // 4)


def test_max_tokens_cuts_the_text_and_says_so():
    message = whole(messages_body(max_tokens=7))

    assert message["content"] == [{"type": "text", "text": "Hello from the demo upstream"}]
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("max_tokens", 7)


def test_a_stop_sequence_ends_the_text_before_it():
    message = whole(messages_body(stop_sequences=["zebra", ", a small"]))

    assert message["content"][0]["text"] == "Hello from the demo upstream"
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", ", a small")


def test_thinking_comes_first_and_is_signed():
    thinking, text = whole(messages_body(thinking={"type": "adaptive"}))["content"]

    assert (thinking["type"], text["type"]) == ("thinking", "text")
    assert thinking["thinking"]
    assert thinking["signature"]


def test_a_schema_is_answered_with_json_that_fits():
    body = messages_body("make the tests pass", output_config={"format": TITLE})

    text = whole(body)["content"][0]["text"]
    assert json.loads(text) == {"title": "make the tests pass", "size": "s"}


def test_a_repeated_prefix_is_read_from_the_cache_and_the_rest_is_written_by_ttl():
    """Usage never counts a token twice: the classes add up to the whole prompt."""
    system = [{"type": "text", "text": "s" * 4000, "cache_control": MARK_1H}]
    first = {
        "role": "user",
        "content": [{"type": "text", "text": "u" * 400, "cache_control": MARK}],
    }
    later = [
        {"role": "user", "content": "u" * 400},
        {"role": "assistant", "content": "a" * 40},
        {"role": "user", "content": [{"type": "text", "text": "v" * 40, "cache_control": MARK}]},
    ]

    async def scenario(server):
        bodies = [messages_body(system=system, messages=each) for each in ([first], later)]
        return [(await post(server, "/v1/messages", body)).json()["usage"] for body in bodies]

    one, two = serve(scenario)
    assert (one["input_tokens"], one["cache_read_input_tokens"]) == (0, 0)
    assert one["cache_creation"]["ephemeral_1h_input_tokens"] == 1007
    assert one["cache_creation"]["ephemeral_5m_input_tokens"] == 108
    assert one["cache_creation_input_tokens"] == 1115
    assert two["cache_read_input_tokens"] == 1115
    assert two["cache_creation"]["ephemeral_1h_input_tokens"] == 0
    assert two["cache_creation"]["ephemeral_5m_input_tokens"] > 0


def test_a_fifth_breakpoint_is_refused_in_the_vendor_s_words():
    blocks = [{"type": "text", "text": str(at), "cache_control": MARK} for at in range(5)]

    answer = whole(messages_body(system=blocks))

    assert answer["type"] == "error"
    assert answer["error"]["message"].startswith("A maximum of 4 blocks with cache_control")


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"model": "demo"},
        {"model": 1, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]},
        {"model": "demo", "messages": [{"role": "user", "content": "x"}]},
        messages_body(messages=[]),
        messages_body(messages=[7]),
        messages_body(messages=[{"role": "robot", "content": "x"}]),
        messages_body(
            output_config={"format": {"type": "json_schema", "schema": {"properties": 3}}}
        ),
    ],
)
def test_a_bad_body_is_a_400_in_the_vendor_s_envelope(body):
    async def scenario(server):
        return await post(server, "/v1/messages", body)

    response = serve(scenario)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.json()["request_id"] == response.headers["request-id"]


def test_count_tokens_agrees_with_a_request_and_fills_no_cache():
    body = messages_body(system=[{"type": "text", "text": "s" * 400, "cache_control": MARK}])

    async def scenario(server):
        async with sdk(server) as reader:
            counting = {key: value for key, value in body.items() if key != "max_tokens"}
            counted = await reader.messages.count_tokens(**counting)
            message = await reader.messages.create(**body)
            models = [model.id async for model in reader.models.list()]
            one = await reader.models.retrieve("demo")
        return counted, message.usage, models, one

    counted, usage, models, one = serve(scenario)
    total = usage.input_tokens + usage.cache_creation_input_tokens
    assert (counted.input_tokens, usage.cache_read_input_tokens) == (total, 0)
    assert models[:2] == ["demo", "fault:overloaded"]
    assert one.id == "demo"


def test_paths_without_v1_are_tolerated():
    async def scenario(server):
        return await post(server, "/messages?beta=true", messages_body())

    assert serve(scenario).json()["type"] == "message"


def test_words_come_at_the_pace_that_was_set():
    """At 200 words a second a reply of some 60 words takes at least a quarter of a second."""

    async def scenario(server):
        async with client(server) as http:
            response = await http.post("/v1/messages", json=messages_body(stream=True))
            return response.elapsed.total_seconds(), (await log(server))[0]

    seconds, entry = serve(scenario, pace_words_per_s=200)
    assert seconds > 0.25
    assert entry["events"] > 50
