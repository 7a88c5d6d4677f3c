"""The rules for Responses streams catch what breaks them."""

import json

import pytest
from support.responses_rules import BrokenStreamError, check_responses_stream

from server.protocols import body
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_as_responses import ChatAsResponses
from server.protocols.translation.requests.responses_to_chat import request


def a_stream():
    """Give the events of a sound stream: reasoning, text and a call."""
    asked = request(body.split(b'{"model":"m","input":"hi"}'))
    machine = ChatAsResponses(Context("m", "1", 1, 1, {}), asked)
    call = {"index": 0, "id": "c", "function": {"name": "run", "arguments": "{}"}}
    deltas = [{"reasoning": "r"}, {"content": "a"}, {"content": "b"}, {"tool_calls": [call]}]
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    told = [machine.feed(b"data: %b\n\n" % json.dumps(chunk).encode()) for chunk in chunks]
    lines = b"".join((*told, machine.finish())).splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]


def written(events):
    numbered = [{**event, "sequence_number": number} for number, event in enumerate(events)]
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event).encode())
        for event in numbered
    )


def test_a_sound_stream_passes():
    assert len(check_responses_stream(written(a_stream()))["output"]) == 3


def test_every_event_is_needed():
    """None can be left out unseen, and none can come twice."""
    events = a_stream()

    for at in range(len(events)):
        with pytest.raises(BrokenStreamError, match=r"\w"):
            check_responses_stream(written(events[:at] + events[at + 1 :]))
        with pytest.raises(BrokenStreamError, match=r"\w"):
            check_responses_stream(written([*events[: at + 1], *events[at:]]))


def test_no_two_events_can_change_places():
    events = a_stream()

    for at in range(1, len(events)):
        before, one, two, after = events[: at - 1], events[at - 1], events[at], events[at + 1 :]
        with pytest.raises(BrokenStreamError, match=r"\w"):
            check_responses_stream(written([*before, two, one, *after]))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("response.created", {"type": "response.output_text.delta"}),
        ("response.output_text.delta", {"output_index": 0}),
        ("response.output_text.delta", {"content_index": 1}),
        ("response.output_text.delta", {"item_id": "msg_2"}),
        ("response.output_text.delta", {"delta": "x"}),
        ("response.output_text.done", {"text": "x"}),
        ("response.output_item.done", {"output_index": 5}),
        ("response.function_call_arguments.done", {"arguments": "{ }"}),
        ("response.completed", {"type": "response.incomplete"}),
    ],
)
def test_an_event_that_says_something_else_is_caught(kind, change):
    events = a_stream()
    at = next(at for at, event in enumerate(events) if event["type"] == kind)
    events[at] |= change

    with pytest.raises(BrokenStreamError, match=r"\w"):
        check_responses_stream(written(events))


def test_numbers_may_not_skip():
    stream = written(a_stream()).replace(b'"sequence_number": 4', b'"sequence_number": 5', 1)

    with pytest.raises(BrokenStreamError, match="number of"):
        check_responses_stream(stream)


def test_a_stream_must_end():
    with pytest.raises(BrokenStreamError, match="no end"):
        check_responses_stream(written(a_stream()[:-1]))
    with pytest.raises(BrokenStreamError, match="cut"):
        check_responses_stream(written(a_stream())[:-1])
