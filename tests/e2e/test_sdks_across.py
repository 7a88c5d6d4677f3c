"""What the official SDKs can ask for, on an upstream of the other protocol or of either."""

import asyncio
import base64
import json

import anthropic
import openai
import pytest
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
    said_by,
)

from server.upstream.demo.model import REFUSAL

TWO = [{"role": "user", "content": "Create a file a.txt containing x and a file b.txt with y"}]
BOTH = [{"path": "a.txt", "content": "x"}, {"path": "b.txt", "content": "y"}]
DONE = "Done: a.txt, b.txt created."
OTHER = {"name": "read_me", "input_schema": {"type": "object", "properties": {}}}
OTHER_FUNCTION = {
    "type": "function",
    "function": {"name": "read_me", "parameters": OTHER["input_schema"]},
}
OTHER_FLAT = {
    "type": "function",
    "name": "read_me",
    "parameters": OTHER["input_schema"],
    "strict": False,
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n, or something like it").decode()
PDF = base64.b64encode(b"%PDF-1.7, or something like it").decode()
LINK = "https://images.example/cat.png"
RULE = "Answer in one word."


class Title(openai.BaseModel):
    """A structured answer."""

    title: str


def sent(provider, number=-1):
    """Give a body as the provider was sent it."""
    return json.loads(provider.tee.requests[number].body)


@across
def test_tools_called_at_once_are_answered_at_once(tmp_path, spoken, stream):
    async def with_messages(client):
        first = await by_messages(client, stream, messages=TWO, tools=[TOOL])
        calls = [block for block in first.content if block.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "ok"} for call in calls
        ]
        turns = [*TWO, said_by(first), {"role": "user", "content": results}]
        second = await by_messages(client, stream, messages=turns, tools=[TOOL])
        return [(call.id, call.input) for call in calls], second.content[0].text

    async def with_chat(client):
        first = (await by_chat(client, stream, messages=TWO, tools=[FUNCTION])).choices[0].message
        results = [
            {"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in first.tool_calls
        ]
        turns = [*TWO, said_by(first), *results]
        second = await by_chat(client, stream, messages=turns, tools=[FUNCTION])
        calls = [(call.id, json.loads(call.function.arguments)) for call in first.tool_calls]
        return calls, second.choices[0].message.content

    async def with_responses(client):
        first = await by_responses(client, stream, input=TWO, tools=[FLAT])
        calls = [item for item in first.output if item.type == "function_call"]
        results = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
            for call in calls
        ]
        turns = [*TWO, *(item.model_dump(exclude_none=True) for item in first.output), *results]
        second = await by_responses(client, stream, input=turns, tools=[FLAT])
        return [(call.call_id, json.loads(call.arguments)) for call in calls], second.output_text

    async def scenario(messages, chat):
        return await with_messages(messages), await with_chat(chat), await with_responses(chat)

    answers, _, _ = on(tmp_path, spoken, scenario, "demo-parallel")

    for calls, last in answers:
        assert [arguments for _, arguments in calls] == BOTH
        assert len({ident for ident, _ in calls}) == 2
        assert last == DONE


@each_upstream
def test_one_tool_at_a_time_can_be_asked_for(tmp_path, spoken):
    async def scenario(messages, chat):
        choice = {"type": "auto", "disable_parallel_tool_use": True}
        message = await by_messages(messages, False, messages=TWO, tools=[TOOL], tool_choice=choice)
        one = {"parallel_tool_calls": False}
        completion = await by_chat(chat, False, messages=TWO, tools=[FUNCTION], **one)
        response = await by_responses(chat, False, input=TWO, tools=[FLAT], **one)
        return (
            [block.input for block in message.content if block.type == "tool_use"],
            [json.loads(c.function.arguments) for c in completion.choices[0].message.tool_calls],
            [json.loads(item.arguments) for item in response.output if hasattr(item, "arguments")],
        )

    answers, _, _ = on(tmp_path, spoken, scenario, "demo-parallel")

    assert answers == (BOTH[:1], BOTH[:1], BOTH[:1])


def named(form, name):
    """Name one tool, as each protocol does."""
    return {
        "anthropic": {"type": "tool", "name": name},
        "openai": {"type": "function", "function": {"name": name}},
        "responses": {"type": "function", "name": name},
    }[form]


def allowed(form, name):
    """Allow one tool, where the protocol can say that; else name it."""
    one = {"mode": "required", "tools": [named(form, name)]}
    return {
        "anthropic": named(form, name),
        "openai": {"type": "allowed_tools", "allowed_tools": one},
        "responses": {"type": "allowed_tools", **one},
    }[form]


CHOICES = {
    "auto": (lambda form: {"type": "auto"} if form == "anthropic" else "auto", []),
    "none": (lambda form: {"type": "none"} if form == "anthropic" else "none", []),
    "any": (lambda form: {"type": "any"} if form == "anthropic" else "required", ["write_file"]),
    "named": (lambda form: named(form, "read_me"), ["read_me"]),
    "allowed": (lambda form: allowed(form, "read_me"), ["read_me"]),
}


@across
def test_each_choice_of_tool_is_kept(tmp_path, spoken, stream):
    async def called(messages, chat, choose):
        message = await by_messages(
            messages, stream, messages=HELLO, tools=[TOOL, OTHER], tool_choice=choose("anthropic")
        )
        completion = await by_chat(
            chat,
            stream,
            messages=HELLO,
            tools=[FUNCTION, OTHER_FUNCTION],
            tool_choice=choose("openai"),
        )
        response = await by_responses(
            chat, stream, input=HELLO, tools=[FLAT, OTHER_FLAT], tool_choice=choose("responses")
        )
        return (
            [block.name for block in message.content if block.type == "tool_use"],
            [call.function.name for call in completion.choices[0].message.tool_calls or ()],
            [item.name for item in response.output if item.type == "function_call"],
        )

    async def scenario(messages, chat):
        return {name: await called(messages, chat, choose) for name, (choose, _) in CHOICES.items()}

    found, _, _ = on(tmp_path, spoken, scenario)

    assert found == {name: (wanted,) * 3 for name, (_, wanted) in CHOICES.items()}


# What a request shows and says


def shown(body):
    """List the images and files of a request in either protocol, as (kind, media or URL, data)."""
    found = []
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "tool_result":
                found += shown({"messages": [part]})
            elif part["type"] in ("image", "document"):
                source = part["source"]
                found.append((source.get("media_type", source.get("url")), source.get("data")))
            elif part["type"] in ("image_url", "file"):
                inner = part[part["type"]]
                head, _, data = inner.get("url", inner.get("file_data")).partition(";base64,")
                found.append((head.removeprefix("data:"), data or None))
    return found


SHOWN = [("image/png", PNG), (LINK, None), ("application/pdf", PDF)]


@each_upstream
def test_images_and_pdfs_reach_the_provider(tmp_path, spoken):
    base64_image = {"type": "base64", "media_type": "image/png", "data": PNG}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": PDF}
    url, file = f"data:image/png;base64,{PNG}", f"data:application/pdf;base64,{PDF}"
    contents = {
        "messages": [
            {"type": "image", "source": base64_image},
            {"type": "image", "source": {"type": "url", "url": LINK}},
            {"type": "document", "source": pdf, "title": "a.pdf"},
            {"type": "text", "text": "hello"},
        ],
        "chat": [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "image_url", "image_url": {"url": LINK, "detail": "low"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": file}},
            {"type": "text", "text": "hello"},
        ],
        "responses": [
            {"type": "input_image", "image_url": url, "detail": "auto"},
            {"type": "input_image", "image_url": LINK, "detail": "low"},
            {"type": "input_file", "filename": "a.pdf", "file_data": file},
            {"type": "input_text", "text": "hello"},
        ],
    }
    turns = {name: [{"role": "user", "content": parts}] for name, parts in contents.items()}

    async def scenario(messages, chat):
        message = await by_messages(messages, False, messages=turns["messages"])
        completion = await by_chat(chat, False, messages=turns["chat"])
        response = await by_responses(chat, False, input=turns["responses"])
        return (
            message.content[0].text,
            completion.choices[0].message.content,
            response.output_text,
        )

    texts, _, provider = on(tmp_path, spoken, scenario)

    assert all('You said: "hello"' in text for text in texts)
    assert [shown(sent(provider, number)) for number in range(3)] == [SHOWN] * 3


@each_upstream
def test_an_image_that_a_tool_gave_reaches_the_provider(tmp_path, spoken):
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG},
    }
    called = {"type": "tool_use", "id": "toolu_1", "name": "write_file", "input": BOTH[0]}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [image]}
    turns = [
        *TASK,
        {"role": "assistant", "content": [called]},
        {"role": "user", "content": [result]},
    ]

    async def scenario(messages, chat):
        del chat
        return await by_messages(messages, False, messages=turns, tools=[TOOL])

    message, _, provider = on(tmp_path, spoken, scenario)

    assert message.stop_reason == "end_turn"
    assert shown(sent(provider)) == SHOWN[:1]


def told(body):
    """Give the system prompt of a request in either protocol, as one text."""
    system = body.get("system", [])
    said = [each["content"] for each in body["messages"] if each["role"] in ROLES]
    texts = [system, *said]
    return "\n\n".join(
        part if isinstance(part, str) else part["text"]
        for text in texts
        for part in ([text] if isinstance(text, str) else text)
    )


ROLES = ("system", "developer")


@each_upstream
def test_a_system_prompt_stays_one(tmp_path, spoken):
    async def scenario(messages, chat):
        blocks = [{"type": "text", "text": RULE}]
        await by_messages(messages, False, messages=HELLO, system=RULE)
        await by_messages(messages, False, messages=HELLO, system=blocks)
        for role in ROLES:
            await by_chat(chat, False, messages=[{"role": role, "content": RULE}, *HELLO])
            await by_responses(chat, False, input=[{"role": role, "content": RULE}, *HELLO])
        await by_responses(chat, False, input="hello", instructions=RULE)

    _, rows, provider = on(tmp_path, spoken, scenario)

    assert [told(sent(provider, number)) for number in range(len(rows))] == [RULE] * 7


@across
def test_a_stop_sequence_ends_the_answer_before_it(tmp_path, spoken, stream):
    """The Chat protocol does not tell which one it was."""

    async def scenario(messages, chat):
        return (
            await by_messages(messages, stream, messages=HELLO, stop_sequences=["a small", "no"]),
            await by_chat(chat, stream, messages=HELLO, stop=["a small", "no"]),
            await by_chat(chat, stream, messages=HELLO, stop="a small"),
        )

    (message, *completions), _, _ = on(tmp_path, spoken, scenario)

    assert message.content[0].text.rstrip() == "Hello from the demo upstream,"
    wanted = ("stop_sequence", "a small") if spoken == "anthropic" else ("end_turn", None)
    assert (message.stop_reason, message.stop_sequence) == wanted
    for completion in completions:
        (choice,) = completion.choices
        assert choice.message.content.rstrip() == "Hello from the demo upstream,"
        assert choice.finish_reason == "stop"


@across
def test_an_answer_keeps_to_a_given_form(tmp_path, spoken, stream):
    async def whole(messages, chat):
        message = await messages.messages.parse(
            model="auto", max_tokens=200, messages=HELLO, output_format=Title
        )
        completion = await chat.chat.completions.parse(
            model="auto", messages=HELLO, response_format=Title
        )
        response = await chat.responses.parse(model="auto", input="hello", text_format=Title)
        return message, completion, response

    async def scenario(messages, chat):
        if not stream:
            return await whole(messages, chat)
        return (
            await by_messages(messages, True, messages=HELLO, output_format=Title),
            await by_chat(chat, True, messages=HELLO, response_format=Title),
            await by_responses(chat, True, input="hello", text_format=Title),
        )

    (message, completion, response), _, _ = on(tmp_path, spoken, scenario)

    assert message.parsed_output == Title(title="hello")
    assert completion.choices[0].message.parsed == Title(title="hello")
    assert response.output_parsed == Title(title="hello")


# Thinking


@across
def test_thinking_is_told_and_taken_back_with_the_calls_that_it_led_to(tmp_path, spoken, stream):
    """What Claude signed goes back to it as it was, whatever the client's protocol.

    The demo refuses a signature that it did not make. A Chat server's thoughts stay here.
    """

    async def with_messages(client):
        first = await by_messages(client, stream, messages=TASK, tools=[TOOL])
        thought, *_, call = first.content
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "ok"}
        turns = [*TASK, said_by(first), {"role": "user", "content": [result]}]
        await by_messages(client, stream, messages=turns, tools=[TOOL])
        return thought.thinking

    async def with_chat(client):
        first = (await by_chat(client, stream, messages=TASK, tools=[FUNCTION])).choices[0].message
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "ok"}
        turns = [*TASK, said_by(first), result]
        await by_chat(client, stream, messages=turns, tools=[FUNCTION])
        return first.reasoning_content

    async def with_responses(client):
        first = await by_responses(client, stream, input=TASK, tools=[FLAT])
        thought, *_, call = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
        turns = [*TASK, *(item.model_dump(exclude_none=True) for item in first.output), result]
        await by_responses(client, stream, input=turns, tools=[FLAT])
        return thought.summary[0].text

    async def scenario(messages, chat):
        return await with_messages(messages), await with_chat(chat), await with_responses(chat)

    thoughts, _, provider = on(tmp_path, spoken, scenario, "demo-thinking")

    (thought,) = set(thoughts)
    assert thought.startswith("The request is")
    again = [sent(provider, number)["messages"] for number in (1, 3, 5)]
    if spoken == "anthropic":
        blocks = [turns[1]["content"] for turns in again]
        assert [[block["type"] for block in each] for each in blocks] == [
            ["thinking", "text", "tool_use"]
        ] * 3
        assert [each[0]["thinking"] for each in blocks] == [thought] * 3
    else:
        assert thought not in json.dumps([again[0], again[2]])


@each_upstream
def test_thoughts_without_a_signature_are_no_problem_for_any_upstream(tmp_path, spoken):
    """As of a session that began on another model."""
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    said = {"type": "text", "text": "Hello."}
    turns = [*HELLO, {"role": "assistant", "content": [thought, said]}, *HELLO]
    reasoned = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}

    async def scenario(messages, chat):
        message = await by_messages(messages, False, messages=turns)
        completion = await by_chat(chat, False, messages=[*HELLO, reasoned, *HELLO])
        return message.stop_reason, completion.choices[0].finish_reason

    found, _, _ = on(tmp_path, spoken, scenario, "demo-thinking")

    assert found == ("end_turn", "stop")


# Limits and refusals


@each_upstream
def test_a_refusal_is_told_in_each_protocols_words(tmp_path, spoken):
    async def scenario(messages, chat):
        return [
            (
                await by_messages(messages, stream, messages=HELLO),
                # The helpers of this SDK raise on a stream that was filtered, by design.
                await by_chat(chat, False, messages=HELLO),
                await by_responses(chat, False, input="hello"),
            )
            for stream in (False, True)
        ]

    found, _, _ = on(tmp_path, spoken, scenario, "demo-refusal")

    for message, completion, response in found:
        assert (message.stop_reason, message.content[0].text) == ("refusal", REFUSAL)
        (choice,) = completion.choices
        (part,) = response.output[-1].content
        if spoken == "anthropic":
            assert (choice.finish_reason, choice.message.content) == ("content_filter", REFUSAL)
            assert (part.text, response.status) == (REFUSAL, "incomplete")
            assert response.incomplete_details.reason == "content_filter"
        else:
            assert (choice.finish_reason, choice.message.refusal) == ("stop", REFUSAL)
            assert (part.refusal, response.status) == (REFUSAL, "completed")


@each_upstream
def test_a_prompt_is_only_read_where_no_output_is_wanted(tmp_path, spoken):
    """Chat servers know no such thing: one token is the least that they take."""

    async def scenario(messages, chat):
        del chat
        return await by_messages(messages, False, messages=HELLO, max_tokens=0)

    message, (row,), provider = on(tmp_path, spoken, scenario)

    assert message.stop_reason == "max_tokens"
    assert row["output_tokens"] == message.usage.output_tokens == (spoken == "openai")
    assert sent(provider).get("max_tokens", sent(provider).get("max_completion_tokens")) in (0, 1)


ONLY_CHAT_SERVERS = {
    "n": {"n": 2},
    "logprobs": {"logprobs": True},
    "modalities": {"modalities": ["text", "audio"]},
    "audio": {"audio": {"format": "wav", "voice": "ash"}},
    "messages": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
                ],
            }
        ]
    },
    "web_search_options": {"web_search_options": {}},
}


def test_what_a_messages_upstream_cannot_do_is_refused_by_name(tmp_path):
    async def scenario(messages, chat):
        del messages
        params = []
        for fields in ONLY_CHAT_SERVERS.values():
            with pytest.raises(openai.BadRequestError, match=r"^Error code: 400") as caught:
                await by_chat(chat, False, **{"messages": HELLO, **fields})
            params.append(caught.value.param)
        return params

    params, rows, _ = on(tmp_path, "anthropic", scenario)

    assert params == [*ONLY_CHAT_SERVERS]
    assert rows == []


STORED = {
    "previous_response_id": "resp_1",
    "conversation": "conv_1",
    "background": True,
    "prompt": {"id": "pmpt_1"},
}


def test_what_would_need_a_stored_response_is_refused_by_name(tmp_path):
    async def scenario(messages, chat):
        del messages
        params = []
        for name, value in STORED.items():
            with pytest.raises(openai.BadRequestError, match=f"{name} is not supported") as caught:
                await by_responses(chat, False, input="hello", **{name: value})
            params.append(caught.value.param)
        return params

    params, rows, provider = on(tmp_path, "openai", scenario)

    assert params == [*STORED]
    assert (rows, provider.tee.requests) == ([], [])


@each_upstream
def test_a_form_without_a_schema_is_refused_in_the_clients_own_words(tmp_path, spoken):
    async def scenario(messages, chat):
        del messages
        text = {"format": {"type": "json_schema", "name": "title"}}
        with pytest.raises(openai.BadRequestError, match=r"text\.format has no schema") as caught:
            await by_responses(chat, False, input="hello", text=text)
        return caught.value.param

    param, rows, _ = on(tmp_path, spoken, scenario)

    assert (param, rows) == ("text.format", [])


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_runner_and_a_thread_go_on_where_nobody_keeps_threads(tmp_path, stream):
    """Else a Chat upstream would be sent no more than the last turn."""
    written = []

    @anthropic.beta_async_tool
    async def write_file(path: str, content: str) -> str:
        """Write a file."""
        written.append((path, content))
        return "ok"

    async def scenario(messages, chat):
        del chat
        asked = {"model": "auto", "max_tokens": 2000, "messages": TASK, "tools": [write_file]}
        last = None
        async for each in messages.beta.messages.tool_runner(**asked, stream=stream):
            last = await each.get_final_message() if stream else each
        thread = messages.beta.messages.thread(model="auto", max_tokens=2000)
        for _ in range(3):
            await thread.send(*HELLO)
        return last

    last, rows, provider = on(tmp_path, "openai", scenario)

    assert written == [("hello.txt", "hi")]
    assert last.content[0].text == "Done: hello.txt created."
    assert [len(sent(provider, at)["messages"]) for at in range(len(rows))] == [1, 3, 1, 3, 5]


# The clients themselves


@each_upstream
def test_a_raw_response_has_the_id_of_its_row(tmp_path, spoken):
    async def scenario(messages, chat):
        asked = {"model": "auto", "messages": HELLO}
        raw = [
            await messages.messages.with_raw_response.create(max_tokens=200, **asked),
            await chat.chat.completions.with_raw_response.create(**asked),
            await chat.responses.with_raw_response.create(model="auto", input="hello"),
        ]
        async with chat.chat.completions.with_streaming_response.create(**asked) as streaming:
            await streaming.parse()
        message, *others = raw
        return [*raw, streaming], [await message.parse(), *(each.parse() for each in others)]

    (raw, parsed), rows, provider = on(tmp_path, spoken, scenario)

    idents = [row["request_id"] for row in rows]
    assert [each.headers["request-id"] for each in raw] == idents
    assert [each.headers["x-request-id"] for each in raw] == idents
    assert [each._request_id for each in parsed] == idents[:3]
    theirs = [entry.upstream_request_id for entry in provider.entries]
    assert [each.headers["x-upstream-request-id"] for each in raw] == theirs


@each_upstream
def test_the_clients_without_asyncio_find_the_same(tmp_path, spoken):
    def ask(messages, chat):
        asked = {"model": "auto", "messages": TASK}
        message = messages.messages.create(max_tokens=2000, tools=[TOOL], **asked)
        with messages.messages.stream(max_tokens=2000, tools=[TOOL], **asked) as running:
            streamed = running.get_final_message()
        completion = chat.chat.completions.create(tools=[FUNCTION], **asked)
        with chat.chat.completions.stream(tools=[FUNCTION], **asked) as running:
            chat_streamed = running.get_final_completion()
        response = chat.responses.create(model="auto", input=TASK, tools=[FLAT])
        with chat.responses.stream(model="auto", input=TASK, tools=[FLAT]) as running:
            response_streamed = running.get_final_response()
        calls = [each.choices[0].message.tool_calls[0] for each in (completion, chat_streamed)]
        return [
            *(each.content[-1].input for each in (message, streamed)),
            *(json.loads(call.function.arguments) for call in calls),
            *(json.loads(each.output[-1].arguments) for each in (response, response_streamed)),
        ]

    async def scenario(messages, chat):
        return await asyncio.to_thread(ask, messages, chat)

    found, rows, _ = on(tmp_path, spoken, scenario, is_sync=True)

    assert found == [{"path": "hello.txt", "content": "hi"}] * 6
    assert [row["stream"] for row in rows] == [False, True] * 3


@each_upstream
def test_a_prompt_that_is_too_long_is_the_sdks_bad_request(tmp_path, spoken):
    """Tools compact their session when they read these words."""

    async def scenario(messages, chat):
        asked = {"model": "fault:toolong"}
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long") as one:
            await by_messages(messages, False, messages=HELLO, **asked)
        with pytest.raises(openai.BadRequestError, match="prompt is too long") as two:
            await by_chat(chat, True, messages=HELLO, **asked)
        with pytest.raises(openai.BadRequestError, match="prompt is too long") as three:
            await by_responses(chat, False, input="hello", **asked)
        return one.value, two.value, three.value

    (_, *errors), _, _ = on(tmp_path, spoken, scenario, "fault:toolong")

    assert [error.code for error in errors] == ["context_length_exceeded"] * 2
