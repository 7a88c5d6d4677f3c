"""A provider's errors, wherever they come in its answer, in the words of the client's protocol.

Before anything was sent they are an HTTP answer; behind a ping or a word they are the protocol's
own event, and no end follows. Providers are scripted, after what servers of each protocol send.
"""

import json
import re
from pathlib import Path

import pytest
from support.across import EVERY_WAY, PATHS, WAYS, asking, crossing, has_fake_end, said
from support.gateways import started
from support.priced import check_books
from support.raw_upstream import EVENTS, FIN, chunked, sized, upstream
from support.wires import run

DATA = Path(__file__).parent.parent / "data"
STREAMS = {
    "anthropic": [(DATA / f"messages_{name}.sse").read_bytes() for name in ("text", "tools")],
    "openai": [
        *((DATA / f"chat_{name}.sse").read_bytes() for name in ("text", "tools")),
        (DATA / "translation" / "chat_openrouter.sse").read_bytes(),
    ],
}
PING = {
    "anthropic": b'event: ping\ndata: {"type":"ping"}\n\n',
    "openai": b": ping\n\n",
    "responses": b": ping\n\n",
}
ACROSS = pytest.mark.parametrize(("client", "spoken"), WAYS)
# What each client is told: an HTTP status, Anthropic's type, Chat's code, and the code in an event
# of a Responses stream.
FAILED = (502, "api_error", "upstream_error", "server_error")
OVERLOADED = (529, "overloaded_error", "overloaded", "server_error")
LATE = (504, "timeout_error", "upstream_timeout", "server_error")
LIMITED = (429, "rate_limit_error", "rate_limited", "rate_limit_exceeded")
BAD = (400, "invalid_request_error", "invalid_request", "invalid_prompt")
LONG = (400, "invalid_request_error", "context_length_exceeded", "context_length_exceeded")
LARGE = (413, "request_too_large", "request_too_large", "invalid_prompt")
REPORTED = {  # in a stream's event, or in the body of a 200
    "anthropic": [
        ({"type": "overloaded_error", "message": "Overloaded"}, OVERLOADED),
        ({"type": "api_error", "message": "Internal server error"}, FAILED),
        ({"type": "rate_limit_error", "message": "Slowly."}, LIMITED),
        ({"type": "timeout_error", "message": "Late."}, LATE),
        ({"type": "authentication_error", "message": "Key sk-fake-000000 is odd."}, FAILED),
        ({"type": "invalid_request_error", "message": "messages: odd"}, BAD),
        (
            {
                "type": "invalid_request_error",
                "message": "prompt is too long: 250000 tokens > 200000 maximum",
            },
            LONG,
        ),
        ({"type": "request_too_large", "message": "Too large."}, LARGE),
    ],
    "openai": [
        ({"type": "server_error", "message": "Boom.", "code": None, "param": None}, FAILED),
        # OpenRouter gives an HTTP status, and no type.
        ({"code": 502, "message": "Provider disconnected"}, FAILED),
        ({"code": 503, "message": "No provider is available."}, OVERLOADED),
        ({"code": 429, "message": "Slowly."}, LIMITED),
        ({"code": 408, "message": "Late."}, LATE),
        ({"code": 402, "message": "Key sk-fake-000000 has no credit."}, FAILED),
        # vLLM gives one beside a type of its own.
        ({"type": "BadRequestError", "code": 400, "message": "messages: odd"}, BAD),
        (
            {
                "type": "BadRequestError",
                "code": 400,
                "message": "This model's maximum context length is 10 tokens. However, you "
                "requested 25 tokens (20 in the messages, 5 in the completion).",
            },
            LONG,
        ),
        (
            {"type": "invalid_request_error", "code": "context_length_exceeded", "message": "!"},
            LONG,
        ),
        ("The model fell over.", FAILED),
    ],
}


def played(folder, client, spoken, scripts, *, stream=True, limit=400, ping_after_s=15.0):
    """Ask once for each script; give the replies and the rows. Nothing may stay open."""
    ask = asking(client, f"m-{spoken}", stream=stream, limit=limit)

    async def scenario():
        async with upstream(*scripts) as there:
            text = crossing(there.url, {"m": "m"}, billing="{hold_slice_tokens: 1000}")
            async with started(folder, text, usd=100) as gateway, gateway.client() as http:
                gateway.gateway.ping_after_s = ping_after_s
                replies = [await http.post(PATHS[client], json=ask) for _ in scripts]
                await gateway.services.store.write(lambda: None)  # what is queued is committed
                assert gateway.gateway.upstream.pool.busy_count == 0
                return replies

    replies = run(scenario)
    rows = check_books(folder)
    assert len(rows) == len(scripts)
    assert " ERROR " not in (folder / "gateway.log").read_text()
    return replies, rows


def event_of(spoken, error):
    if spoken == "openai":
        return b"data: %b\n\n" % json.dumps({"error": error}).encode()
    event = json.dumps({"type": "error", "error": error}).encode()
    return b"event: error\ndata: %b\n\n" % event


def check_refusal(client, reply, expected):
    """Check an HTTP answer."""
    status, kind, code, _ = expected
    error = reply.json()["error"]
    assert reply.status_code == (503 if (status, client == "anthropic") == (529, False) else status)
    assert error["type" if client == "anthropic" else "code"] == (
        kind if client == "anthropic" else code
    )
    assert error["message"]
    assert "sk-fake" not in reply.text
    is_retried = reply.headers.get("x-should-retry") is None
    assert is_retried == (status in (429, 502, 503, 504, 529))


def check_event(client, reply, expected):
    """Check a stream that ends in an error; give what came before it."""
    _, kind, code, responses_code = expected
    assert reply.status_code == 200
    answer = said(client, reply.content, stream=True)
    wanted = {"anthropic": kind, "openai": code, "responses": responses_code}[client]
    assert answer["error"]["type" if client == "anthropic" else "code"] == wanted
    assert "sk-fake" not in reply.text
    assert not has_fake_end(client, reply.content)
    return answer


@ACROSS
def test_an_error_that_comes_first_in_a_stream_is_an_http_error(tmp_path, client, spoken):
    scripts = [[EVENTS, chunked(event_of(spoken, error))] for error, _ in REPORTED[spoken]]

    replies, rows = played(tmp_path, client, spoken, scripts)

    for reply, (_, expected) in zip(replies, REPORTED[spoken], strict=True):
        check_refusal(client, reply, expected)
    assert {(row["outcome"], row["cost_micros"]) for row in rows} == {("upstream_error", 0)}


@ACROSS
def test_an_error_behind_some_words_is_the_clients_own_event(tmp_path, client, spoken):
    begin = b"".join(piece + b"\n\n" for piece in STREAMS[spoken][0].split(b"\n\n")[:6])
    scripts = [[EVENTS, chunked(begin, event_of(spoken, error))] for error, _ in REPORTED[spoken]]

    replies, rows = played(tmp_path, client, spoken, scripts)

    for reply, (_, expected) in zip(replies, REPORTED[spoken], strict=True):
        check_event(client, reply, expected)
    assert {(row["outcome"], row["status"]) for row in rows} == {("upstream_error", 200)}
    assert all(row["output_tokens"] > 0 and row["cost_micros"] > 0 for row in rows)


@pytest.mark.parametrize(("client", "spoken"), EVERY_WAY)
@pytest.mark.parametrize("behind", [0, 6])
def test_an_error_in_an_answer_that_is_gathered_is_an_http_error(tmp_path, client, spoken, behind):
    begin = b"".join(piece + b"\n\n" for piece in STREAMS[spoken][0].split(b"\n\n")[:behind])
    scripts = [[EVENTS, chunked(begin + event_of(spoken, error))] for error, _ in REPORTED[spoken]]

    replies, rows = played(tmp_path, client, spoken, scripts, stream=False, limit=2000)

    for reply, (_, expected) in zip(replies, REPORTED[spoken], strict=True):
        check_refusal(client, reply, expected)
    assert {row["outcome"] for row in rows} == {"upstream_error"}
    assert {row["cost_micros"] > 0 for row in rows} == {behind > 0}


@pytest.mark.parametrize(("client", "spoken"), EVERY_WAY)
def test_an_error_in_the_body_of_a_200_is_an_http_error(tmp_path, client, spoken):
    bodies = [json.dumps({"type": "error", "error": error}) for error, _ in REPORTED[spoken]]

    replies, rows = played(
        tmp_path, client, spoken, [sized(body.encode()) for body in bodies], stream=False
    )

    for reply, (_, expected) in zip(replies, REPORTED[spoken], strict=True):
        check_refusal(client, reply, expected)
    assert {(row["outcome"], row["cost_micros"]) for row in rows} == {("upstream_error", 0)}


@ACROSS
def test_an_error_behind_pings_is_the_clients_own_event(tmp_path, client, spoken):
    """A silent provider's stream is kept alive with a 200, which cannot be taken back."""
    told = {"type": "rate_limit_error", "message": "Slowly."}
    long = {"type": "invalid_request_error", "message": "prompt is too long: 3 tokens > 2 maximum"}
    answers = [
        (sized(json.dumps({"error": told}).encode(), status="429 Whatever"), LIMITED),
        (sized(json.dumps({"error": long}).encode(), status="400 Whatever"), LONG),
        (sized(b"<html>", status="502 Whatever"), FAILED),
        (sized(b"{}", status="529 Whatever"), OVERLOADED),
        (sized(b"{}", status="401 Whatever"), FAILED),
    ]

    replies, rows = played(
        tmp_path, client, spoken, [[0.25, answer] for answer, _ in answers], ping_after_s=0.1
    )

    for reply, (_, expected) in zip(replies, answers, strict=True):
        assert reply.content.startswith(PING[client] * 2)
        check_event(client, reply, expected)
    assert {(row["status"], row["outcome"]) for row in rows} == {(200, "upstream_error")}
    assert {row["cost_micros"] for row in rows} == {0}


@ACROSS
def test_a_slow_answer_is_kept_alive_in_the_clients_protocol(tmp_path, client, spoken):
    events = [piece + b"\n\n" for piece in STREAMS[spoken][0].split(b"\n\n") if piece]
    script = [0.25, EVENTS, chunked(*events[:6], end=b""), 0.25, chunked(*events[6:])]

    (slow, quick), rows = played(
        tmp_path, client, spoken, [script, [EVENTS, chunked(*events)]], ping_after_s=0.1
    )

    assert slow.content.startswith(PING[client] * 2)
    assert slow.content.count(PING[client]) >= 4
    ids = {"id", "created", "created_at"}
    told = [said(client, reply.content, stream=True) for reply in (slow, quick)]
    plain = [json.dumps(_without(answer, ids)) for answer in told]
    assert _normal(plain[0]) == _normal(plain[1])
    assert [row["outcome"] for row in rows] == ["completed"] * 2


def _without(answer, names):
    return {name: value for name, value in answer.items() if name not in names}


def _normal(text):
    """Take the parts of ids that tell requests apart out of what an answer says."""
    return re.sub(r"_01[0-9a-f]{20,}", "_N", text)


@pytest.mark.parametrize(
    ("client", "spoken", "stream"),
    [(*way, stream) for way in WAYS for stream in STREAMS[way[1]]],
    ids=[f"{'-'.join(way)}-{number}" for way in WAYS for number in range(len(STREAMS[way[1]]))],
)
def test_a_stream_that_breaks_off_anywhere_is_an_error_and_has_no_end(
    tmp_path, client, spoken, stream
):
    events = [piece + b"\n\n" for piece in stream.split(b"\n\n") if piece]
    last = _first_end(spoken, events)
    scripts = []
    for count in range(last):
        begun = b"".join(events[:count])
        scripts += [
            [EVENTS, chunked(begun)] if begun else [EVENTS, b"0\r\n\r\n"],
            [EVENTS, chunked(begun, events[count][: len(events[count]) // 2], end=b""), FIN],
        ]

    replies, rows = played(tmp_path, client, spoken, scripts)

    for reply in replies:
        if reply.status_code == 200:
            check_event(client, reply, FAILED)
        else:
            check_refusal(client, reply, FAILED)
    assert {row["outcome"] for row in rows} == {"upstream_error"}
    assert replies[-1].status_code == 200


@pytest.mark.parametrize(("client", "spoken"), EVERY_WAY)
def test_an_answer_that_is_gathered_and_breaks_off_is_an_error(tmp_path, client, spoken):
    events = [piece + b"\n\n" for piece in STREAMS[spoken][1].split(b"\n\n") if piece]
    last = _first_end(spoken, events)
    scripts = [[EVENTS, chunked(*events[:count])] for count in range(1, last)]

    replies, _ = played(tmp_path, client, spoken, scripts, stream=False, limit=2000)

    for reply in replies:
        check_refusal(client, reply, FAILED)


def _first_end(spoken, events):
    """Give how many events of a stream are not yet all of it; [DONE] may be left out."""
    mark = b"\nevent: message_stop\n" if spoken == "anthropic" else b'"finish_reason":"'
    return next(at for at, event in enumerate(events) if mark in b"\n" + event)


@pytest.mark.parametrize("client", ["anthropic", "responses"])
def test_a_finish_that_says_error_is_no_end(tmp_path, client):
    """OpenRouter's word for a provider that went away, where it may leave out the error."""
    events = [piece + b"\n\n" for piece in STREAMS["openai"][0].split(b"\n\n") if piece]
    last = _first_end("openai", events)
    broken = events[last].replace(b'"finish_reason":"stop"', b'"finish_reason":"error"')
    assert broken != events[last]

    (reply,), (row,) = played(
        tmp_path,
        client,
        "openai",
        [[EVENTS, chunked(*events[:last], broken, *events[last + 1 :])]],
    )

    check_event(client, reply, FAILED)
    assert row["outcome"] == "upstream_error"
