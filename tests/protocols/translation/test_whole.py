"""A stream, gathered, is the answer that the upstream gives to who asks for no stream."""

import asyncio
import json
import time

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import messages_answers as answers
from support.messages_answers import ANSWERS, event, text, tool_use
from support.raw_upstream import run, sized, upstream

from server.protocols import Protocol
from server.protocols.endings import TRACKER
from server.protocols.translation import Context
from server.protocols.translation.answers.messages_as_chat import answer
from server.protocols.translation.answers.whole import ChatWhole, MessagesWhole
from server.protocols.usage import Usage
from server.upstream.demo import DemoOptions, start

SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path", "content"],
}
WRITE = {"name": "write_file", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "write_file", "parameters": SCHEMA}}
SAY = [{"role": "user", "content": 'Say “hi” & \\n\\"☃\\"'}]
TASK = [{"role": "user", "content": "Create a file hello.txt containing hi"}]
SHOWN = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
HIDDEN = {"thinking": {"type": "adaptive", "display": "omitted"}}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "written"}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "write_file", "arguments": "{}"}}

MESSAGES = {
    "text": {"messages": SAY},
    "thinking": {"messages": SAY, **SHOWN},
    "hidden thinking": {"messages": SAY, **HIDDEN},
    "tool": {"messages": TASK, "tools": [WRITE]},
    "tool behind thinking": {"messages": TASK, "tools": [WRITE], **SHOWN},
    "forced tool": {"messages": SAY, "tools": [WRITE], "tool_choice": {"type": "any"}},
    "after the tool": {
        "messages": [
            *TASK,
            {"role": "assistant", "content": [tool_use("write_file")]},
            {"role": "user", "content": [TOOL_RESULT]},
        ],
        "tools": [WRITE],
    },
    "schema": {
        "messages": SAY,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
    "token limit": {"messages": SAY, "max_tokens": 9},
    "token limit in thinking": {"messages": SAY, "max_tokens": 3, **SHOWN},
    "no tokens": {"messages": SAY, "max_tokens": 0},
    "stop sequence": {"messages": SAY, "stop_sequences": ["provider"]},
    "cache": {"messages": SAY, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    "much": {"messages": SAY, "model": "fault:big"},
    "byte by byte": {"messages": TASK, "tools": [WRITE], "model": "fault:tiny:0"},
}
CHAT = {
    "text": {"messages": SAY},
    "tool": {"messages": TASK, "tools": [FUNCTION]},
    "forced tool": {"messages": SAY, "tools": [FUNCTION], "tool_choice": "required"},
    "after the tool": {
        "messages": [
            *TASK,
            {"role": "assistant", "content": None, "tool_calls": [CALLED]},
            {"role": "tool", "tool_call_id": "call_1", "content": "written"},
        ],
        "tools": [FUNCTION],
    },
    "schema": {
        "messages": SAY,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "token limit": {"messages": SAY, "max_completion_tokens": 9},
    "no tokens": {"messages": SAY, "max_tokens": 0},
    "stop sequence": {"messages": SAY, "stop": "provider"},
    "much": {"messages": SAY, "model": "fault:big"},
    "byte by byte": {"messages": TASK, "tools": [FUNCTION], "model": "fault:tiny:0"},
    "no usage": {"messages": SAY, "model": "fault:no-usage"},
}


def demo_answer(path, body):
    """Give the body that a fresh demo upstream answers with; their ids and usage are the same."""

    async def scenario():
        demo = await start("127.0.0.1", 0, options=DemoOptions(seed="demo"))
        try:
            async with httpx.AsyncClient(base_url=demo.url, trust_env=False, timeout=10) as http:
                return (await http.post(path, json=body)).raise_for_status().content
        finally:
            await demo.close()

    return asyncio.run(scenario())


def gathered(machine, events):
    """Feed a machine whole events, in blocks of three."""
    events = list(events)
    for at in range(0, len(events), 3):
        assert machine.feed(b"".join(events[at : at + 3])) == b""
    return json.loads(machine.finish())


def split(stream):
    return [piece + b"\n\n" for piece in stream.split(b"\n\n")[:-1]]


@pytest.mark.parametrize("name", MESSAGES)
def test_the_demos_message_is_the_same_streamed_and_whole(name):
    body = {"model": "demo", "max_tokens": 2000, **MESSAGES[name]}

    whole = demo_answer("/v1/messages", body)
    stream = demo_answer("/v1/messages", {**body, "stream": True})

    assert gathered(MessagesWhole(), split(stream)) == json.loads(whole)


@pytest.mark.parametrize("name", CHAT)
def test_the_demos_completion_is_the_same_streamed_and_whole(name):
    body = {"model": "demo", **CHAT[name]}
    options = {"stream": True, "stream_options": {"include_usage": True}}

    whole = json.loads(demo_answer("/v1/chat/completions", body))
    stream = demo_answer("/v1/chat/completions", {**body, **options})

    again = gathered(ChatWhole(), split(stream))
    again["created"] = whole["created"]  # a second may have passed
    assert again == {"usage": None, **whole}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_message_is_the_same_streamed_and_whole(name):
    blocks, reason = ANSWERS[name]

    message = gathered(MessagesWhole(), answers.stream(blocks, reason))

    assert message == json.loads(answers.body(blocks, reason))


@pytest.mark.parametrize("name", ANSWERS)
def test_a_gathered_message_can_be_translated(name):
    context = Context("smart", "0a1b2c", 1763800000, 7, {})
    machine = MessagesWhole()
    machine.feed(b"".join(answers.stream(*ANSWERS[name])))

    assert answer(machine.finish(), context) == answer(answers.body(*ANSWERS[name]), context)


def message(*events):
    """Gather a message that starts with nothing but its usage."""
    begun = {"id": "msg_1", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    return gathered(MessagesWhole(), [event("message_start", message=begun), *events])


def block(opened, *deltas, index=0):
    """Give the events of one block."""
    yield event("content_block_start", index=index, content_block=opened)
    for delta in deltas:
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)


def fragments(*parts):
    return [{"type": "input_json_delta", "partial_json": part} for part in parts]


def test_members_that_nobody_knows_are_kept():
    begun = {"id": "msg_1", "vendor": {"a": 1}, "content": [], "usage": {"seen": [1]}}
    management = {"applied_edits": [{"type": "clear"}]}
    details = {"type": "refusal", "category": None}

    gathered_message = gathered(
        MessagesWhole(),
        [
            event("message_start", message=begun),
            *block({"type": "text", "text": "", "vendor": 1}),
            *block({"type": "vendor_block", "said": [1, {"a": 2}]}, index=1),
            event(
                "message_delta",
                delta={"stop_reason": "refusal", "stop_details": details},
                usage={"output_tokens": 5},
                context_management=management,
            ),
        ],
    )

    assert gathered_message == {
        "id": "msg_1",
        "vendor": {"a": 1},
        "content": [
            {"type": "text", "text": "", "vendor": 1},
            {"type": "vendor_block", "said": [1, {"a": 2}]},
        ],
        "usage": {"seen": [1], "output_tokens": 5},
        "stop_reason": "refusal",
        "stop_details": details,
        "context_management": management,
    }


def test_of_usage_the_last_count_of_each_field_counts_and_null_is_none():
    first = {"input_tokens": 3, "cache_creation": {"ephemeral_5m_input_tokens": 7}}
    last = {
        "input_tokens": None,
        "output_tokens": 9,
        "cache_creation": {"ephemeral_1h_input_tokens": 2},
    }

    said = message(event("message_delta", usage=first), event("message_delta", usage=last))

    writes = {"ephemeral_5m_input_tokens": 7, "ephemeral_1h_input_tokens": 2}
    assert said["usage"] == {"input_tokens": 3, "output_tokens": 9, "cache_creation": writes}


def test_what_a_block_says_at_its_start_comes_before_its_deltas():
    delta = {"type": "text_delta", "text": "lo"}

    assert message(*block(text("Hel"), delta))["content"] == [text("Hello")]


def test_deltas_of_unknown_kinds_set_the_blocks_members():
    delta = {"type": "compaction_delta", "content": "All of it.", "encrypted_content": "eA=="}

    said = message(*block({"type": "compaction", "content": None}, delta))

    compaction = {"type": "compaction", "content": "All of it.", "encrypted_content": "eA=="}
    assert said["content"] == [compaction]


def test_blocks_that_are_open_at_once_keep_their_deltas_apart():
    first, second = list(block(text(""))), list(block(text(""), index=1))
    deltas = [
        event("content_block_delta", index=index, delta={"type": "text_delta", "text": said})
        for index, said in [(0, "a"), (1, "b"), (0, "A"), (1, "B")]
    ]

    assert message(first[0], second[0], *deltas)["content"] == [text("aA"), text("bB")]


def test_a_tools_input_keeps_its_text():
    machine = MessagesWhole()
    written = '{"a": 1.10, "b":"\\u00e9\\/", "a2": 12345678901234567890}'

    machine.feed(b"".join(block(tool_use(), *fragments(written[:9], written[9:]))))

    assert b'"input":' + written.encode() in machine.finish()


@pytest.mark.parametrize("parts", [(), ("",), ("", ""), (" ",)])
def test_a_tool_without_arguments_has_an_empty_input(parts):
    assert message(*block(tool_use(), *fragments(*parts)))["content"] == [tool_use()]


def test_a_byte_that_is_not_utf8_spoils_no_more_than_its_character():
    stream = b"".join(answers.stream([text("Hallo")])).replace(b"Hallo", b"H\xe4llo")
    chunks = [chunk(choice(content="Hallo")).replace(b"Hallo", b"H\xe4llo")]

    assert gathered(MessagesWhole(), [stream])["content"] == [text("H\ufffdllo")]
    assert completion(*chunks)["choices"][0]["message"]["content"] == "H\ufffdllo"


def test_an_input_given_at_the_start_counts_where_no_fragment_comes():
    assert message(*block(tool_use(a=1), *fragments("")))["content"] == [tool_use(a=1)]


def test_a_torn_input_is_an_object_that_no_tool_takes_for_whole():
    said = message(*block(tool_use(), *fragments('{"path": "a.txt", "content": "hel')))

    assert said["content"][0]["input"].keys() - {"path", "content"} == {"invalid_arguments"}


@pytest.mark.parametrize(
    "odd",
    [
        b"data: [1]\n\n",
        b"data: {\n\n",
        b": a comment\n\n",
        b"data: {}\n\n",
        event("ping"),
        event("message_start", message=5),
        event("content_block_start", index=9, content_block=None),
        event("content_block_delta", index=9, delta={"type": "text_delta", "text": "x"}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": None}),
        event("content_block_delta", index=0, delta=[]),
        event("content_block_stop", index=9),
        event("message_delta", delta=None),
        event("message_stop"),
    ],
)
def test_what_cannot_be_read_of_a_message_is_passed_over(odd):
    events = answers.stream([text("Hi"), tool_use(a=1)], "tool_use")

    again = gathered(MessagesWhole(), [*events[:3], odd, *events[3:]])

    assert again == gathered(MessagesWhole(), events)


@given(st.dictionaries(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
), max_size=3))  # fmt: skip
def test_any_tool_input_comes_out_as_it_went_in(tool_input):
    said = {**tool_use(), "input": tool_input}

    assert gathered(MessagesWhole(), answers.stream([said]))["content"] == [said]


def chunk(*choices, **members):
    shared = {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m"}
    return b"data: " + json.dumps({**shared, "choices": choices, **members}).encode() + b"\n\n"


def choice(index=0, finish_reason=None, logprobs=None, **delta):
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


def completion(*chunks):
    return gathered(ChatWhole(), [*chunks, b"data: [DONE]\n\n"])


def said(*deltas):
    """Give the message that the deltas of one choice make."""
    return completion(*(chunk(choice(**delta)) for delta in deltas))["choices"][0]["message"]


def call(index, arguments, ident=None, name=None):
    function = {"arguments": arguments, **({"name": name} if name else {})}
    named = {"id": ident, "type": "function"} if ident else {}
    return {"tool_calls": [{"index": index, **named, "function": function}]}


def made(ident, name, arguments):
    function = {"arguments": arguments, "name": name}
    return {"id": ident, "type": "function", "function": function}


def test_each_choice_is_gathered_by_its_index():
    again = completion(
        chunk(choice(1, role="assistant", content="")),
        chunk(choice(0, role="assistant", content="")),
        chunk(choice(0, content="a"), choice(1, content="b")),
        chunk(choice(1, content="B", finish_reason="length")),
        chunk(choice(0, content="A", finish_reason="stop")),
    )

    assert [each["index"] for each in again["choices"]] == [0, 1]
    assert [each["message"]["content"] for each in again["choices"]] == ["aA", "bB"]
    assert [each["finish_reason"] for each in again["choices"]] == ["stop", "length"]


def test_what_the_chunks_share_is_told_once_and_what_nobody_knows_is_kept():
    again = completion(
        chunk(id="", model="", prompt_filter_results=[1]),
        chunk(choice(role="assistant"), system_fingerprint="fp", obfuscation="xxx"),
        chunk({**choice(finish_reason="stop"), "stop_reason": "END", "content_filter": {"a": 1}}),
        chunk(id="", usage={"prompt_tokens": 1, "details": {"a": 1}}, service_tier="default"),
        chunk(usage={"completion_tokens": 2, "details": {"b": 2}}, service_tier=None),
    )

    assert again == {
        "id": "c1",
        "object": "chat.completion",
        "created": 5,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": "END",
                "content_filter": {"a": 1},
            }
        ],
        "prompt_filter_results": [1],
        "system_fingerprint": "fp",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "details": {"a": 1, "b": 2}},
        "service_tier": "default",
    }


@pytest.mark.parametrize("member", ["content", "refusal", "reasoning_content", "reasoning"])
def test_texts_are_joined(member):
    again = said({"role": "assistant", member: None}, {member: "Hé"}, {member: ""}, {member: '"l'})

    assert again[member] == 'Hé"l'


def test_reasoning_details_are_put_one_behind_the_other():
    again = said(
        {"reasoning_details": [{"text": "a"}]},
        {"reasoning_details": []},
        {"reasoning_details": [{"text": "b"}, {"signature": "c"}]},
    )

    assert again["reasoning_details"] == [{"text": "a"}, {"text": "b"}, {"signature": "c"}]


def test_log_probabilities_are_put_one_behind_the_other():
    again = completion(
        chunk(choice(role="assistant")),
        chunk(choice(content="a", logprobs={"content": [{"token": "a"}], "refusal": None})),
        chunk(choice(content="b", logprobs={"content": [{"token": "b"}], "refusal": None})),
    )

    logprobs = {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}
    assert again["choices"][0]["logprobs"] == logprobs


def test_audio_grows_too():
    again = said({"audio": {"id": "a", "transcript": "Hel"}}, {"audio": {"transcript": "lo"}})

    assert again["audio"] == {"id": "a", "transcript": "Hello"}


def test_calls_are_gathered_by_their_indices_and_content_is_null_beside_them():
    again = said(
        {"role": "assistant", "content": ""},
        call(0, "", "call_1", "write"),
        call(1, "", "call_2", "read"),
        call(1, '{"b"'),
        call(0, '{"a":'),
        call(0, "1}"),
        call(1, ":2}"),
    )

    assert again["content"] is None
    assert again["tool_calls"] == [
        made("call_1", "write", '{"a":1}'),
        made("call_2", "read", '{"b":2}'),
    ]


def test_text_beside_calls_is_kept():
    assert said({"content": "Now"}, call(0, "{}", "call_1", "write"))["content"] == "Now"


def test_calls_that_share_an_index_are_told_apart_by_their_ids():
    again = said(call(0, '{"a":1}', "call_1", "write"), call(0, '{"b":2}', "call_2", "read"))

    assert [each["id"] for each in again["tool_calls"]] == ["call_1", "call_2"]


def test_a_new_id_with_a_fragment_alone_begins_no_call():
    again = said(call(0, '{"name"', "call_1", "write"), call(0, ':"x"}', "call_2"))

    (only,) = again["tool_calls"]
    assert only["function"] == {"arguments": '{"name":"x"}', "name": "write"}


def test_calls_without_an_index_are_told_apart_by_their_ids():
    deltas = [call(0, "{}", "call_1", "write"), call(0, "{}", "call_2", "read")]
    for delta in deltas:
        del delta["tool_calls"][0]["index"]

    assert len(said(*deltas)["tool_calls"]) == 2


def test_an_old_function_call_is_gathered():
    again = said(
        {"role": "assistant", "content": ""},
        {"function_call": {"name": "write", "arguments": ""}},
        {"function_call": {"arguments": "{}"}},
    )

    assert again["function_call"] == {"name": "write", "arguments": "{}"}
    assert again["content"] is None


def test_a_refusal_stands_in_place_of_content():
    again = said({"role": "assistant", "content": "", "refusal": None}, {"refusal": "No."})

    assert (again["content"], again["refusal"]) == (None, "No.")


@pytest.mark.parametrize("nothing", [{"tool_calls": None}, {"tool_calls": []}, {"refusal": ""}])
def test_an_answer_that_says_nothing_has_empty_content(nothing):
    assert said({"role": "assistant", "content": ""}, nothing)["content"] == ""


def test_content_in_parts_is_put_one_behind_the_other():
    again = said({"content": [{"type": "text", "text": "a"}]}, {"content": [{"type": "x"}]})

    assert again["content"] == [{"type": "text", "text": "a"}, {"type": "x"}]


@pytest.mark.parametrize(
    "odd",
    [
        b"[1]",
        b"{",
        b"5",
        b'{"choices":5}',
        b'{"choices":[5]}',
        b'{"choices":[{"delta":[]}]}',
        b'{"choices":[{"delta":{"content":5}}]}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_cannot_be_read_of_a_completion_is_passed_over(odd):
    chunks = [chunk(choice(role="assistant")), chunk(choice(content="Hi"))]

    again = completion(chunks[0], b"data: " + odd + b"\n\n", chunks[1])

    assert again == completion(*chunks)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [(Protocol.ANTHROPIC, name) for name in ANSWERS] + [(Protocol.OPENAI, "text")],
)
def test_a_stream_that_the_gateway_stops_is_an_answer_at_its_limit(protocol, name):
    if protocol is Protocol.ANTHROPIC:
        events, machine = answers.stream(*ANSWERS[name])[:-2], MessagesWhole()
    else:
        events, machine = [chunk(choice(role="assistant")), chunk(choice(content="H"))], ChatWhole()
    tracker = TRACKER[protocol]()
    tracker.feed(b"".join(events))
    ending = tracker.ending(output_tokens=777, usage=Usage(25), include_usage=True)

    again = gathered(machine, [*events, ending])

    if protocol is Protocol.ANTHROPIC:
        assert (again["stop_reason"], again["usage"]["output_tokens"]) == ("max_tokens", 777)
    else:
        assert again["choices"][0]["finish_reason"] == "length"
        assert again["usage"]["completion_tokens"] == 777


def test_the_official_sdk_takes_a_gathered_completion_strictly():
    machine = ChatWhole()
    machine.feed(chunk(choice(role="assistant", content="")))
    machine.feed(chunk(choice(**call(0, "{}", "call_1", "write"))))
    machine.feed(chunk(choice(finish_reason="tool_calls")))
    whole = machine.finish()

    async def scenario():
        strict = {"api_key": "fake", "max_retries": 0, "_strict_response_validation": True}
        async with (
            upstream(sized(whole, "content-type: application/json")) as server,
            openai.AsyncOpenAI(base_url=server.url, **strict) as client,
        ):
            return await client.chat.completions.create(model="m", messages=SAY)

    assert run(scenario()).to_dict() == json.loads(whole)


@pytest.mark.parametrize("protocol", Protocol)
def test_gathering_takes_time_in_proportion(protocol):
    """Ten times as many deltas take about ten times as long, not a hundred times."""

    def seconds(count):
        if protocol is Protocol.ANTHROPIC:
            machine, (first, delta, _) = MessagesWhole(), block(text(""), delta_text)
        else:
            machine, first, delta = ChatWhole(), b"", chunk(choice(content="x" * 50))
        begun = time.process_time()
        machine.feed(first)
        for _ in range(count // 100):
            machine.feed(delta * 100)
        assert len(machine.finish()) > 50 * count
        return time.process_time() - begun

    delta_text = {"type": "text_delta", "text": "x" * 50}
    assert seconds(40_000) < 30 * min(seconds(4_000) for _ in range(3))
