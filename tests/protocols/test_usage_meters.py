"""Meters: the same usage however the bytes were cut, and no count that cannot be."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import UpstreamError
from server.protocols import sse
from server.protocols.sse import EventSplitter
from server.protocols.usage import (
    ChatMeter,
    MessagesMeter,
    ReportedError,
    Usage,
)

DATA = Path(__file__).parent.parent / "data"
GOLDEN = [
    (MessagesMeter, "messages_text", Usage(25, 2000, 60, 40, 42), "end_turn"),
    (MessagesMeter, "messages_tools", Usage(310, 12, 0, None, 77), "tool_use"),
    (MessagesMeter, "messages_error", Usage(9, None, None, None, 1), None),
    (ChatMeter, "chat_text", Usage(40, 64, 16, None, 33), "stop"),
    (ChatMeter, "chat_tools", Usage(50, None, None, None, 20), "tool_calls"),
    (ChatMeter, "chat_error", Usage(), None),
]


def metered(meter_class, stream, cuts=()):
    splitter, meter = EventSplitter(), meter_class()
    edges = [0, *sorted(cuts), len(stream)]
    for at, start in enumerate(edges[:-1]):
        whole = splitter.feed(stream[start : edges[at + 1]])
        if whole:
            meter.feed(whole)
    return meter


def metered_whole(meter_class, body):
    meter = meter_class()
    meter.read_body(body)
    return meter


def everything(meter):
    return {**vars(meter), "estimate": meter.estimated_output_tokens()}


def message_event(kind, **members):
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()


def chunk(**members):
    return b"data: " + json.dumps({"id": "c", "model": "m", **members}).encode() + b"\n\n"


@pytest.mark.parametrize(("meter_class", "name", "usage", "stop_reason"), GOLDEN)
def test_a_golden_stream_is_metered(meter_class, name, usage, stop_reason):
    meter = metered(meter_class, (DATA / f"{name}.sse").read_bytes())

    assert (meter.usage, meter.stop_reason, meter.anomaly) == (usage, stop_reason, None)
    assert meter.started
    assert meter.finished == (not name.endswith("error"))
    assert (meter.error is None) == meter.finished


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(("meter_class", "name", "usage", "stop_reason"), GOLDEN)
def test_any_cut_gives_the_same_usage(meter_class, name, usage, stop_reason, line_end):
    stream = (DATA / f"{name}.sse").read_bytes().replace(b"\n", line_end)
    wanted = everything(metered(meter_class, stream))

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.integers(0, len(stream))))
    def check(cuts):
        assert everything(metered(meter_class, stream, cuts)) == wanted

    check()
    assert everything(metered(meter_class, stream, range(len(stream)))) == wanted
    assert (wanted["usage"], wanted["stop_reason"]) == (usage, stop_reason)


def test_identity_and_error_are_told():
    messages = metered(MessagesMeter, (DATA / "messages_error.sse").read_bytes())
    chat = metered(ChatMeter, (DATA / "chat_error.sse").read_bytes())

    assert (messages.message_id, messages.model) == ("msg_demo1", "claude-demo")
    assert messages.error == ReportedError("overloaded_error", "Overloaded")
    assert (chat.message_id, chat.model) == ("chatcmpl-demo1", "gpt-demo")
    assert chat.error == ReportedError("server_error", "The server had an error")


def test_text_that_imitates_events_fools_neither_meter():
    lies = [
        'event: error\ndata: {"type":"error","error":{"type":"x","message":"y"}}\n\n',
        '{"type":"message_stop"}',
        "message_stop",
        "usage",
        "error",
        "[DONE]",
        '{"usage":{"output_tokens":5,"completion_tokens":5}}',
        '"finish_reason":"stop"',
    ]
    messages, chat = MessagesMeter(), ChatMeter()

    for lie in lies:
        delta = {"type": "text_delta", "text": lie}
        messages.feed(message_event("content_block_delta", index=0, delta=delta))
        chat.feed(chunk(choices=[{"delta": {"content": lie}, "finish_reason": None}], error=None))

    for meter in (messages, chat):
        assert meter.started
        assert (meter.finished, meter.error, meter.stop_reason) == (False, None, None)
        assert (meter.usage, meter.anomaly) == (Usage(), None)


def test_comments_alone_do_not_start_an_answer_and_are_no_output():
    """OpenRouter sends them for as long as a request waits for its turn."""
    meter = ChatMeter()
    for _ in range(50):
        meter.feed(b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n")

    assert not meter.started
    assert meter.estimated_output_tokens() == 0


@pytest.mark.parametrize("kind", ["message_start", "message_delta", "error", "ping", "novel"])
def test_usage_counts_from_any_messages_event(kind):
    meter = MessagesMeter()
    meter.feed(message_event("message_start", message={"usage": {"input_tokens": 1}}))
    meter.feed(message_event(kind, usage={"input_tokens": 7, "output_tokens": 0}))

    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (7, 0)


@pytest.mark.parametrize("choices", [[], None, [{"delta": {}, "finish_reason": None}], "odd", [5]])
def test_usage_counts_from_any_chunk(choices):
    meter = ChatMeter()
    meter.feed(chunk(choices=[{"delta": {"role": "assistant"}}], usage=None))
    meter.feed(chunk(choices=choices, usage={"prompt_tokens": 3, "completion_tokens": 0}))

    assert meter.usage == Usage(3, None, None, None, 0)


def test_usage_counts_from_inside_a_choice():
    """Where Moonshot puts it; seen at the top level too, that one counts."""
    meter = ChatMeter()
    meter.feed(chunk(choices=[{"delta": {"role": "assistant"}}]))
    last = {"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 3}}
    meter.feed(chunk(choices=[{**last, "usage": {**last["usage"], "completion_tokens": 4}}]))

    assert meter.usage == Usage(3, None, None, None, 4)

    meter.feed(chunk(choices=[last], usage={"prompt_tokens": 5, "completion_tokens": 6}))

    assert meter.usage == Usage(5, None, None, None, 6)


def test_the_last_count_wins_and_nothing_is_summed():
    meter = ChatMeter()
    for count in (5, 9, 7):
        meter.feed(chunk(choices=[], usage={"prompt_tokens": 2, "completion_tokens": count}))

    assert (meter.usage.output_tokens, meter.usage.total_tokens) == (7, 9)


def test_zero_is_zero_and_missing_is_missing():
    body = b'{"usage":{"input_tokens":0,"output_tokens":null,"cache_read_input_tokens":0}}'

    usage = metered_whole(MessagesMeter, body).usage

    assert usage == Usage(0, 0, None, None, None)
    assert (usage.cache_write_tokens, usage.total_input_tokens, usage.total_tokens) == (0, 0, 0)


@pytest.mark.parametrize(
    ("usage", "writes", "is_odd"),
    [
        ({"cache_creation_input_tokens": 100}, (100, None), False),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 5}}, (None, 5), False),
        (
            {
                "cache_creation_input_tokens": 100,
                "cache_creation": {"ephemeral_1h_input_tokens": 30},
            },
            (70, 30),
            False,
        ),
        (
            {
                "cache_creation_input_tokens": 100,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 30,
                },
            },
            (70, 30),
            True,
        ),
        (
            {
                "cache_creation_input_tokens": 10,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 10,
                    "ephemeral_1h_input_tokens": 30,
                },
            },
            (10, 30),
            True,
        ),
        ({"cache_creation_input_tokens": 4, "cache_creation": None}, (4, None), False),
        ({"cache_creation_input_tokens": 4, "cache_creation": [1]}, (4, None), True),
    ],
)
def test_cache_writes_are_split_by_lifetime_and_doubt_bills_the_larger(usage, writes, is_odd):
    meter = metered_whole(MessagesMeter, json.dumps({"usage": usage}).encode())

    assert (meter.usage.cache_write_5m_tokens, meter.usage.cache_write_1h_tokens) == writes
    assert (meter.anomaly is not None) == is_odd


def test_more_cached_than_prompted_is_zero_input_and_an_anomaly():
    meter = metered_whole(
        ChatMeter, b'{"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":9}}}'
    )

    assert meter.usage == Usage(0, 9, None, None, None)
    assert meter.anomaly == "prompt_tokens is 4 below its cached part"


@pytest.mark.parametrize(
    "odd",
    [
        "-1",
        "1e18",
        "1.5",
        "12.0",
        '"7"',
        "true",
        "[]",
        "{}",
        str(10**9 + 1),
        pytest.param("9" * 6000, id="6,000 digits"),
    ],
)
def test_a_count_that_cannot_be_is_passed_over(odd):
    messages, chat = MessagesMeter(), ChatMeter()
    messages.feed(message_event("message_start", message={"usage": {"output_tokens": 3}}))
    chat.feed(chunk(choices=[], usage={"completion_tokens": 3}))
    messages.feed(b'data: {"type":"message_delta","usage":{"output_tokens":%b}}\n\n' % odd.encode())
    chat.feed(b'data: {"choices":[],"usage":{"completion_tokens":%b}}\n\n' % odd.encode())

    for meter in (messages, chat):
        assert meter.usage.output_tokens == 3
        assert "is not a count" in meter.anomaly


@pytest.mark.parametrize(
    "odd", [b"5", b'"x"', b"[1]", b"true", pytest.param(b"[" * 5000, id="deep"), b'{"a":\xff}']
)
def test_usage_of_an_odd_shape_is_an_anomaly_and_nothing_more(odd):
    messages, chat = MessagesMeter(), ChatMeter()
    messages.feed(b'data: {"type":"message_start","usage":%b}\n\n' % odd)
    chat.feed(b'data: {"choices":[],"usage":%b}\n\n' % odd)

    for meter in (messages, chat):
        assert meter.usage == Usage()
        assert meter.started
        assert meter.anomaly is not None or odd == b'{"a":\xff}'


def test_the_largest_count_that_is_believed_still_fits_a_bill():
    body = b'{"usage":{"input_tokens":1000000000,"output_tokens":1000000001}}'

    meter = metered_whole(MessagesMeter, body)

    assert (meter.usage.input_tokens, meter.usage.output_tokens) == (10**9, None)
    assert meter.anomaly == "output_tokens is not a count: 1000000001"


def test_what_else_a_messages_answer_bills_is_told_and_the_last_word_counts():
    meter = MessagesMeter()
    first = {"service_tier": "priority", "speed": "fast", "inference_geo": None}
    uses = {"web_search_requests": 1, "web_fetch_requests": 0}
    meter.feed(message_event("message_start", message={"usage": first}))
    meter.feed(message_event("message_delta", usage={"server_tool_use": uses}))
    last = {"service_tier": "standard", "inference_geo": "us"}
    uses = {"web_search_requests": 3}
    meter.feed(message_event("message_delta", usage={**last, "server_tool_use": uses}))

    assert meter.settings == {"service_tier": "standard", "speed": "fast", "inference_geo": "us"}
    assert meter.server_tool_uses == {"web_search": 3, "web_fetch": 0}
    assert meter.anomaly is None


def test_a_chat_answer_tells_its_service_tier():
    meter = ChatMeter()
    meter.feed(chunk(choices=[{"delta": {"role": "assistant"}}], service_tier=None))
    meter.feed(chunk(choices=[{"delta": {}, "finish_reason": "stop"}], service_tier="flex"))

    assert (meter.settings, meter.server_tool_uses) == ({"service_tier": "flex"}, {})
    assert metered_whole(ChatMeter, b'{"service_tier":"default"}').settings == {
        "service_tier": "default"
    }


@pytest.mark.parametrize(
    ("usage", "anomaly"),
    [
        (
            {"server_tool_use": {"web_search_requests": -1}},
            "web_search_requests is not a count: -1",
        ),
        (
            {"server_tool_use": {"web_search_requests": 10**10}},
            "web_search_requests is not a count",
        ),
        ({"server_tool_use": [1]}, "server_tool_use is not an object: [1]"),
        ({"server_tool_use": {"output_tokens": 5}}, None),
        (
            {"server_tool_use": None, "service_tier": None, "speed": 5, "inference_geo": ["us"]},
            None,
        ),
    ],
)
def test_odd_news_of_the_bill_changes_nothing(usage, anomaly):
    meter = metered_whole(MessagesMeter, json.dumps({"usage": usage}).encode())

    assert (meter.server_tool_uses, meter.settings, meter.usage) == ({}, {}, Usage())
    assert (meter.anomaly or "").startswith(anomaly or "")
    assert (meter.anomaly is None) == (anomaly is None)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(
    [b"data: ", b'{"', b"usage", b'":', b"{", b"}", b"null", b'"message_stop"', b'"type":', b"\n\n",
     b'"error":', b"[DONE]", b"\xff", b"event: error\n", b'"choices":[', b"]", b",", b'"', b"1e9",
     b'"message_start"', b'"message":', b'"delta":', b'"finish_reason":"', b"-5", b"\r"]
), max_size=40))  # fmt: skip
def test_no_garbage_makes_a_meter_raise_or_count_below_zero(parts):
    for meter in (MessagesMeter(), ChatMeter()):
        meter.feed(b"".join(parts) + b"\n\n")
        assert meter.estimated_output_tokens() >= 0
        assert meter.output_bytes_seen >= 0
        assert meter.usage.total_tokens >= 0


def test_an_error_event_that_cannot_be_read_is_an_error_all_the_same():
    meter = MessagesMeter()
    meter.feed(b"event: error\ndata: <html>\n\n")

    assert meter.error == ReportedError("error", "<html>")


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b'"boom"', ReportedError("error", "boom")),
        (b'{"message":"boom","code":500}', ReportedError("error", "boom", "500")),
        (b'{"type":"t","message":"boom"}', ReportedError("t", "boom")),
        (b"{}", ReportedError("error", "{}")),
        (b'"\xff"', ReportedError("error", '"\ufffd"')),
        (b"null", None),
    ],
)
def test_an_error_in_a_chunk_is_told_whatever_its_shape(raw, error):
    meter = ChatMeter()
    meter.feed(chunk(choices=[]))
    meter.feed(b'data: {"error":%b}\n\n' % raw)

    assert meter.error == error


def test_the_estimate_counts_text_and_not_its_wrapping():
    messages, chat = MessagesMeter(), ChatMeter()
    words = ["x" * 40] * 50
    messages.feed(message_event("message_start", message={"id": "m", "model": "c" * 100}))
    chat.feed(chunk(system_fingerprint="f" * 100, choices=[{"delta": {"role": "assistant"}}]))
    for word in words:
        delta = {"type": "text_delta", "text": word}
        messages.feed(message_event("content_block_delta", index=0, delta=delta))
        chat.feed(chunk(system_fingerprint="f" * 100, choices=[{"delta": {"content": word}}]))

    assert 500 <= messages.estimated_output_tokens() <= 700
    assert 500 <= chat.estimated_output_tokens() <= 550


def test_what_a_server_tool_found_is_no_output():
    """A search gives pages of encrypted text, which the model reads and nobody wrote."""
    meter = MessagesMeter()
    found = {"type": "web_search_result", "encrypted_content": "x" * 40_000}
    block = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [found]}
    meter.feed(message_event("message_start", message={"id": "m"}))
    meter.feed(message_event("content_block_start", index=1, content_block=block))
    meter.feed(message_event("content_block_stop", index=1))

    assert meter.estimated_output_tokens() <= 20


def test_the_estimate_counts_at_least_one_token_for_each_delta():
    meter = MessagesMeter()
    delta = b'data: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'
    meter.feed(delta * 30)

    assert meter.estimated_output_tokens() == 30


def test_a_whole_messages_answer_is_read():
    body = {
        "id": "msg_1",
        "type": "message",
        "model": "claude",
        "content": [{"type": "text", "text": '"usage"'}],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }

    meter = metered_whole(MessagesMeter, json.dumps(body).encode())

    assert (meter.message_id, meter.model, meter.stop_reason) == ("msg_1", "claude", "max_tokens")
    assert (meter.usage, meter.finished) == (Usage(3, None, None, None, 4), True)


def test_a_whole_chat_answer_is_read():
    body = {
        "id": "c_1",
        "model": "gpt",
        "choices": [{"index": 0, "finish_reason": "length", "message": {"content": "x" * 400}}],
    }

    meter = metered_whole(ChatMeter, json.dumps(body).encode())

    assert (meter.message_id, meter.model, meter.stop_reason) == ("c_1", "gpt", "length")
    assert (meter.usage, meter.finished) == (Usage(), True)
    assert meter.estimated_output_tokens() >= 100


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"null", b'"x"', b"{", pytest.param(b"[" * 5000, id="deep")]
)
@pytest.mark.parametrize("meter_class", [MessagesMeter, ChatMeter])
def test_a_whole_answer_that_is_no_object_is_an_upstream_error(meter_class, body):
    with pytest.raises(UpstreamError, match="is not"):
        metered_whole(meter_class, body)


DELTA = message_event(
    "content_block_delta", index=0, delta={"type": "text_delta", "text": "four words go here"}
).replace(b'": ', b'":')


def test_a_block_of_deltas_counts_as_if_each_event_were_read():
    quick, thorough = MessagesMeter(), MessagesMeter()

    assert quick.feed_deltas(DELTA * 7)
    thorough.feed(DELTA * 7)

    assert everything(quick) == everything(thorough)


@pytest.mark.parametrize(
    "block",
    [
        DELTA + message_event("message_stop"),
        message_event("ping") + DELTA,
        DELTA + b": comment\n\n" + DELTA,
        DELTA.replace(b"\n", b"\r\n"),
        DELTA + b"<html>\n\n",
        DELTA.replace(b"data:", b"id: 1\ndata:"),
        DELTA[:-4] + b"\n\n",
        message_event("error", error={"type": "x", "message": "y"}),
    ],
)
def test_anything_but_sound_deltas_is_left_to_be_read(block):
    meter = MessagesMeter()
    before = everything(meter)

    assert not meter.feed_deltas(block)
    assert everything(meter) == before


START = message_event("message_start", message={"usage": {"input_tokens": 3}})
STOP = message_event("message_stop")


@pytest.mark.parametrize(
    ("before", "deltas", "after"),
    [
        (b"", DELTA * 3, b""),
        (START, DELTA * 3, b""),
        (b"", DELTA * 3, STOP),
        (START, DELTA, message_event("message_delta", usage={"output_tokens": 4}) + STOP),
        (b"\n" + START, DELTA, b": comment\n\n"),
        (START.replace(b"\n", b"\r\n"), b"", b""),
        (START, b"", STOP),
    ],
)
def test_events_are_cut_so_that_the_deltas_among_them_are_only_counted(before, deltas, after):
    block = before + deltas + after
    runs = MessagesMeter().runs(block)
    expected = [part for part in (before, deltas, after) if part] if deltas else [block]

    assert list(runs) == expected
    assert not deltas or MessagesMeter().feed_deltas(deltas)


@given(
    st.lists(
        st.sampled_from(
            (
                *(START, DELTA, STOP, DELTA.replace(b"\n", b"\r\n"), b": comment\n\n"),
                *(message_event("ping"), message_event("error", error={"message": "x"})),
                *(b"<p>\n\n", b"data: event: content_block_delta\ndata: {}\n\n"),
            )
        ),
        max_size=8,
    )
)
def test_runs_are_whole_events_and_together_all_of_them(parts):
    block = b"".join(parts)
    runs = MessagesMeter().runs(block)

    assert b"".join(runs) == block
    assert [piece for run in runs for piece in sse.pieces(run)] == sse.pieces(block)


def test_a_chat_block_is_always_read_whole():
    assert ChatMeter().runs(DELTA * 2) == (DELTA * 2,)


def test_a_chat_block_is_always_read():
    assert not ChatMeter().feed_deltas(chunk(choices=[{"delta": {"content": "a"}}]))
