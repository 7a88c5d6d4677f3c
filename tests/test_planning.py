"""What leaves for a request: in which protocol, as a stream or not, and what stays behind."""

import json

import msgspec
import pytest

from server.calls import Rules
from server.config.schema import Config
from server.planning import ask, plan
from server.protocols import Protocol

HELLO = [{"role": "user", "content": "hello"}]


def rules(protocol="openai", **compat):
    there = {"protocol": protocol, "base_url": "https://there.example/v1", "compat": compat}
    model = {"targets": [{"upstream": "there", "model": "m-there"}], "free": True}
    config = {"upstreams": {"there": there}, "models": {"m": model}}
    return Rules.of(msgspec.convert(config, Config), {}, {})


def sent(told, protocol=Protocol.OPENAI, **fields):
    asked = {"model": "m", "messages": HELLO, **fields}
    understood = ask(json.dumps(asked).encode(), protocol, None, told)
    made = plan(understood, "m", told.config.models["m"].targets[0], told)
    return made, json.loads(made.payload)


def test_a_request_of_the_same_protocol_keeps_its_members_and_their_order():
    _, left = sent(rules(), max_tokens=9, seed=1, logit_bias={"1": 2})

    assert list(left) == ["model", "messages", "max_tokens", "seed", "logit_bias"]
    assert left["model"] == "m-there"


def test_members_that_the_server_refuses_stay_behind():
    _, left = sent(rules(drop_params=["logit_bias"]), max_tokens=9, logit_bias={"1": 2})

    assert list(left) == ["model", "messages", "max_tokens"]


@pytest.mark.parametrize(
    ("fields", "streamed"),
    [
        ({"max_tokens": 8192}, False),
        ({"max_tokens": 8193}, True),
        ({}, True),  # the model's own limit is what may come
        ({"max_tokens": 4097, "n": 2}, True),
        ({"max_tokens": 9, "stream": True}, True),
        ({"max_tokens": 90_000, "modalities": ["text", "audio"]}, False),
    ],
)
def test_what_may_take_long_leaves_as_a_stream(fields, streamed):
    made, left = sent(rules(), **fields)

    assert made.streamed is streamed
    assert left.get("stream", False) is streamed
    assert left.get("stream_options") == ({"include_usage": True} if streamed else None)


def test_a_server_whose_streams_tell_no_usage_is_asked_for_whole_answers():
    made, left = sent(rules(stream_usage=False), max_tokens=90_000)

    assert (made.streamed, "stream_options" in left) == (False, False)


def test_a_history_that_another_upstream_had_a_part_in_is_mended():
    """Though none speaks Chat by now: sessions outlive configs."""
    thought = {"type": "thinking", "thinking": "…", "signature": ""}
    said = {"type": "text", "text": "hi"}
    turns = [*HELLO, {"role": "assistant", "content": [thought, said]}, *HELLO]

    _, left = sent(rules("anthropic"), Protocol.ANTHROPIC, max_tokens=9, messages=turns)

    assert left["messages"][1]["content"] == [said]


@pytest.mark.parametrize(
    ("client", "upstream"), [(Protocol.OPENAI, "anthropic"), (Protocol.ANTHROPIC, "openai")]
)
def test_a_request_is_translated_for_an_upstream_of_the_other_protocol(client, upstream):
    made, left = sent(rules(upstream), client, max_tokens=9)

    assert made.protocol is Protocol(upstream)
    assert left["max_tokens" if upstream == "anthropic" else "max_completion_tokens"] == 9
