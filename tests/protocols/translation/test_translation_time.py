"""Whatever a translation is given, it takes time in proportion: it shares its thread with all."""

import json
import time

import pytest
from support.chat_answers import call, chunk
from support.messages_answers import event

from server.protocols import body
from server.protocols.compat import OPENAI
from server.protocols.translation import Context, arguments
from server.protocols.translation.answers.chat_as_messages import ChatAsMessages
from server.protocols.translation.answers.chat_as_responses import ChatAsResponses
from server.protocols.translation.answers.messages_as_chat import MessagesAsChat
from server.protocols.translation.answers.whole import ChatWhole, MessagesWhole
from server.protocols.translation.requests import (
    chat_to_messages,
    cursor,
    messages_to_chat,
    responses_to_chat,
)
from server.protocols.translation.requests.mended_messages import mended
from server.protocols.translation.ways import Chain


def members(request):
    return body.split(json.dumps(request).encode())


CONTEXT = Context(model="m", ident="1", created=0, input_tokens=1, names={})
ASKED = responses_to_chat.request(members({"model": "m", "input": "Hi"}))


def seconds(work, of):
    begun = time.process_time()
    work(of)
    return time.process_time() - begun


def in_proportion(work, made, few=400):
    """Tell whether ten times as much takes about ten times as long, not a hundred times.

    What else the machine does can only make it seem longer, so one good measurement will do.
    """
    little, much = made(few), made(10 * few)
    briefly = max(0.001, min(seconds(work, little) for _ in range(3)))
    return any(seconds(work, much) < 40 * briefly for _ in range(3))


def begun(index, text=""):
    return chunk(call(index, text, name="T", ident=f"call_{index}"))


FROM_CHAT = {
    "blank texts": lambda n: [chunk({"content": " "})] * n,
    "blank thoughts": lambda n: [chunk({"reasoning": "\n"})] * n,
    "texts and thoughts": lambda n: [chunk({"content": "a"}), chunk({"reasoning": "b"})] * n,
    "fragments": lambda n: [begun(0, '{"a":"'), *[chunk(call(0, "x"))] * n],
    "torn fragments with braces": lambda n: [
        begun(0, '{"a":"'),
        begun(1, "{"),
        *[chunk(call(0, "{x}"))] * n,
    ],
    "texts behind a torn call": lambda n: [
        begun(0, '{"a":"' + "x" * 100 * n + "}"),
        *[chunk({"content": "a"})] * n,
    ],
    "calls, one by one": lambda n: [begun(at, "{}") for at in range(n)],
    "calls that share an index": lambda n: [
        chunk(call(0, "{}", name="T", ident=f"call_{at}")) for at in range(n)
    ],
    "calls, all at once": lambda n: [
        *[begun(at) for at in range(n)],
        *[chunk(call(at, '{"a":')) for at in range(n)],
        *[chunk(call(at, "1}")) for at in range(n)],
    ],
    "calls that never end": lambda n: [begun(at, '{"a":') for at in range(n)],
}
FROM_MESSAGES = {
    "texts": lambda n: [
        start(0, {"type": "text", "text": ""}),
        *[delta(0, {"type": "text_delta", "text": "a"})] * n,
    ],
    "thoughts": lambda n: [
        start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        *[delta(0, {"type": "thinking_delta", "thinking": "a"})] * n,
        delta(0, {"type": "signature_delta", "signature": "c2ln"}),
    ],
    "fragments": lambda n: [
        start(0, {"type": "tool_use", "id": "a", "name": "T", "input": {}}),
        *[delta(0, {"type": "input_json_delta", "partial_json": "{"})] * n,
    ],
    "calls": lambda n: [
        start(at, {"type": "tool_use", "id": f"a{at}", "name": "T", "input": {}}) for at in range(n)
    ],
}
CHAT_MACHINES = {
    "as Messages": lambda: ChatAsMessages(CONTEXT),
    "as Responses": lambda: ChatAsResponses(CONTEXT, ASKED),
    "gathered": ChatWhole,
}
MESSAGES_MACHINES = {
    "as Chat": lambda: MessagesAsChat(CONTEXT),
    "as Responses": lambda: Chain(MessagesAsChat(CONTEXT), ChatAsResponses(CONTEXT, ASKED)),
    "gathered": MessagesWhole,
}


def start(index, block):
    return event("content_block_start", index=index, content_block=block)


def delta(index, said):
    return event("content_block_delta", index=index, delta=said)


def through(machine):
    def work(events):
        made = machine()
        for each in events:
            made.feed(each)
        made.finish()

    return work


@pytest.mark.parametrize("stream", FROM_CHAT.values(), ids=FROM_CHAT)
@pytest.mark.parametrize("machine", CHAT_MACHINES.values(), ids=CHAT_MACHINES)
def test_a_chat_stream_takes_time_in_proportion(machine, stream):
    assert in_proportion(through(machine), stream)


@pytest.mark.parametrize("stream", FROM_MESSAGES.values(), ids=FROM_MESSAGES)
@pytest.mark.parametrize("machine", MESSAGES_MACHINES.values(), ids=MESSAGES_MACHINES)
def test_a_messages_stream_takes_time_in_proportion(machine, stream):
    assert in_proportion(through(machine), stream)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":[' + "1," * 1_000_000,
        '{"a":[' + '"b", ' * 400_000,
        '{"a":{' + '"b":1,' * 400_000,
        '{"a":' + "[" * 2_000_000,
        '{"a":"' + r"\n" * 1_000_000,
        '{"a":[' + "1," * 1_000_000 + "1]}",
        " " * 2_000_000,
    ],
    ids=lambda text: text[:12].strip() or "space",
)
def test_two_megabytes_of_torn_arguments_take_a_moment(text):
    assert seconds(arguments.whole, text) < 0.5
    assert seconds(lambda of: arguments.Arguments().take(of), text) < 0.5


def chat_turns(n):
    """Give a session on a server that calls every call `call_0`."""
    said = {"role": "assistant", "tool_calls": [chat_call("call_0")]}
    return [said, {"role": "tool", "tool_call_id": "call_0", "content": "x"}] * n


def chat_call(ident):
    return {"id": ident, "type": "function", "function": {"name": "T", "arguments": "{}"}}


def chat_calls(idents, answers):
    said = {"role": "assistant", "tool_calls": [chat_call(ident) for ident in idents]}
    return [said, *[{"role": "tool", "tool_call_id": ident, "content": "x"} for ident in answers]]


CHAT_REQUESTS = {
    "messages": lambda n: {"messages": [{"role": "user", "content": "x"}] * n},
    "system messages": lambda n: {"messages": [{"role": "system", "content": "x"}] * n},
    "an id again and again": lambda n: {"messages": chat_turns(n)},
    "one id for all calls": lambda n: {"messages": chat_calls(["i"] * n, ["i"] * n)},
    "results in another order": lambda n: {
        "messages": chat_calls([f"i{at}" for at in range(n)], [f"i{n - at}" for at in range(n)])
    },
    "ids that collide once they are told apart": lambda n: {
        "messages": chat_calls(["i", *[f"i_{at}" for at in range(n)], *["i"] * n], [])
    },
}


@pytest.mark.parametrize("request_of", CHAT_REQUESTS.values(), ids=CHAT_REQUESTS)
def test_a_chat_request_takes_time_in_proportion(request_of):
    def work(fields):
        cursor.as_chat(fields)
        chat_to_messages.request(fields, max_tokens=1)

    assert in_proportion(work, lambda n: members({"model": "m", **request_of(n)}))


def messages_turns(n):
    called = {"type": "tool_use", "id": "a:0", "name": "T" * 70, "input": {}}
    given = {"type": "tool_result", "tool_use_id": "a:0", "content": "x"}
    turns = [{"role": "assistant", "content": [called]}, {"role": "user", "content": [given]}]
    return {"messages": turns * n}


def messages_calls(n):
    called = [
        {"type": "tool_use", "id": f"i{at}", "name": f"{'T' * 70}{at}", "input": {}}
        for at in range(n)
    ]
    given = [
        {"type": "tool_result", "tool_use_id": f"i{n - 1 - at}", "content": "x"} for at in range(n)
    ]
    turns = [{"role": "assistant", "content": called}, {"role": "user", "content": given}]
    return {"messages": turns}


MESSAGES_REQUESTS = {
    "messages": lambda n: {"messages": [{"role": "user", "content": "x"}] * n},
    "assistants in a row": lambda n: {"messages": [{"role": "assistant", "content": "x"}] * n},
    "turns of calls": messages_turns,
    "calls of one turn": messages_calls,
    "tools": lambda n: {
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"name": f"{'T' * 70}{at}", "input_schema": {}} for at in range(n)],
    },
}


@pytest.mark.parametrize("request_of", MESSAGES_REQUESTS.values(), ids=MESSAGES_REQUESTS)
def test_a_messages_request_takes_time_in_proportion(request_of):
    def work(fields):
        mended(fields)
        messages_to_chat.request(fields, OPENAI)

    assert in_proportion(work, lambda n: members({"model": "m", **request_of(n)}))


def responses_calls(n):
    calls = [
        {"type": "function_call", "call_id": f"i{at}", "name": f"t{at}", "arguments": "{}"}
        for at in range(n)
    ]
    outputs = [
        {"type": "function_call_output", "call_id": f"i{at}", "output": "x"} for at in range(n)
    ]
    return {"input": [*calls, *outputs]}


RESPONSES_REQUESTS = {
    "messages": lambda n: {"input": [{"role": "user", "content": "x"}] * n},
    "system messages": lambda n: {"input": [{"role": "system", "content": "x" * 500}] * n},
    "calls": responses_calls,
    "tools": lambda n: {
        "input": "x",
        "tools": [{"type": "function", "name": f"t{at}"} for at in range(n)],
    },
    "choices of a namespace": lambda n: {
        "input": "x",
        "tools": [
            {
                "type": "namespace",
                "name": "s",
                "tools": [{"type": "function", "name": f"t{at}"} for at in range(n)],
            }
        ],
        "tool_choice": {"type": "allowed_tools", "tools": [{"type": "namespace", "name": "s"}] * n},
    },
}


@pytest.mark.parametrize("request_of", RESPONSES_REQUESTS.values(), ids=RESPONSES_REQUESTS)
def test_a_responses_request_takes_time_in_proportion(request_of):
    work = responses_to_chat.request

    assert in_proportion(work, lambda n: members({"model": "m", **request_of(n)}))
