"""Both official SDKs, in strict mode, on an upstream of the other protocol or of either."""

import json
from dataclasses import asdict

from support.sdks import (
    FLAT,
    FUNCTION,
    HELLO,
    TASK,
    TOOL,
    across,
    by_chat,
    by_messages,
    by_responses,
    each_upstream,
    on,
)

WRITTEN = {"path": "hello.txt", "content": "hi"}
INPUT = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)


@across
def test_all_three_protocols_say_the_same(tmp_path, spoken, stream):
    async def scenario(messages, chat):
        return (
            await by_messages(messages, stream, messages=HELLO),
            await by_chat(chat, stream, messages=HELLO),
            await by_responses(chat, stream, input="hello"),
        )

    (message, completion, response), rows, provider = on(tmp_path, spoken, scenario)

    assert message.content[0].text == completion.choices[0].message.content == response.output_text
    assert message.content[0].text.startswith("Hello from the demo upstream")
    assert (message.stop_reason, completion.choices[0].finish_reason) == ("end_turn", "stop")
    assert response.status == "completed"
    told = [
        (message.usage.input_tokens, message.usage.output_tokens),
        (completion.usage.prompt_tokens, completion.usage.completion_tokens),
        (response.usage.input_tokens, response.usage.output_tokens),
    ]
    assert told == [(_input(row), row["output_tokens"]) for row in rows]
    assert told == [
        (_input(asdict(each.usage)), each.usage.output_tokens) for each in provider.entries
    ]
    assert [row["protocol"] for row in rows] == ["anthropic", "openai", "responses"]


def _input(counts):
    return sum(counts[name] for name in INPUT)


@across
def test_a_tool_is_called_and_its_result_read(tmp_path, spoken, stream):
    async def with_messages(client):
        first = await by_messages(client, stream, messages=TASK, tools=[TOOL])
        (call,) = [block for block in first.content if block.type == "tool_use"]
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "ok"}
        turns = [
            *TASK,
            {"role": "assistant", "content": [each.model_dump() for each in first.content]},
            {"role": "user", "content": [result]},
        ]
        second = await by_messages(client, stream, messages=turns, tools=[TOOL])
        return call.name, call.input, first.stop_reason, second.stop_reason

    async def with_chat(client):
        first = await by_chat(client, stream, messages=TASK, tools=[FUNCTION])
        said = first.choices[0].message
        (call,) = said.tool_calls
        turns = [
            *TASK,
            said.model_dump(exclude_none=True, exclude={"parsed"}),
            {"role": "tool", "tool_call_id": call.id, "content": "ok"},
        ]
        second = await by_chat(client, stream, messages=turns, tools=[FUNCTION])
        finishes = first.choices[0].finish_reason, second.choices[0].finish_reason
        return call.function.name, json.loads(call.function.arguments), *finishes

    async def with_responses(client):
        first = await by_responses(client, stream, input=TASK, tools=[FLAT])
        (call,) = [item for item in first.output if item.type == "function_call"]
        turns = [
            *TASK,
            *(item.model_dump(exclude_none=True) for item in first.output),
            {"type": "function_call_output", "call_id": call.call_id, "output": "ok"},
        ]
        second = await by_responses(client, stream, input=turns, tools=[FLAT])
        return call.name, json.loads(call.arguments), first.status, second.status

    async def scenario(messages, chat):
        return await with_messages(messages), await with_chat(chat), await with_responses(chat)

    (message, completion, response), _, _ = on(tmp_path, spoken, scenario)

    assert message == ("write_file", WRITTEN, "tool_use", "end_turn")
    assert completion == ("write_file", WRITTEN, "tool_calls", "stop")
    assert response == ("write_file", WRITTEN, "completed", "completed")


@across
def test_a_limit_of_tokens_is_told_in_each_protocols_words(tmp_path, spoken, stream):
    async def scenario(messages, chat):
        return (
            await by_messages(messages, stream, messages=HELLO, max_tokens=3),
            # The helpers of this SDK raise on a truncated stream, by design.
            await by_chat(chat, False, messages=HELLO, max_tokens=3),
            await by_responses(chat, False, input="hello", max_output_tokens=3),
        )

    (message, completion, response), _, _ = on(tmp_path, spoken, scenario)

    assert message.stop_reason == "max_tokens"
    assert completion.choices[0].finish_reason == "length"
    assert response.incomplete_details.reason == "max_output_tokens"


@each_upstream
def test_a_long_answer_for_a_client_without_patience_is_streamed_behind_its_back(tmp_path, spoken):
    """What is asked for whole and may take long leaves as a stream, and comes back as one body."""

    async def scenario(messages, chat):
        return (
            await by_messages(messages, False, messages=HELLO, max_tokens=20_000),
            await by_messages(messages, False, messages=HELLO, max_tokens=2_000),
            await by_chat(chat, False, messages=HELLO, max_tokens=20_000),
            await by_chat(chat, False, messages=HELLO, max_tokens=2_000),
        )

    (long, short, chat_long, chat_short), rows, provider = on(tmp_path, spoken, scenario)

    assert [each.stream for each in provider.entries] == [True, False, True, False]
    alike = {"id", "model", "created", "usage", "content"}
    assert long.model_dump(exclude={"id"}) == short.model_dump(exclude={"id"})
    assert chat_long.model_dump(exclude=alike) == chat_short.model_dump(exclude=alike)
    assert chat_long.choices[0].message.content == chat_short.choices[0].message.content
    assert [row["stream"] for row in rows] == [False] * 4
