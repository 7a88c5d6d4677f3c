"""Every fault fails the way its line says, in both protocols, and the server survives it."""

import asyncio
import gzip
import json
import time
from contextlib import suppress

import httpx
import pytest
from demo_harness import (
    chat_body,
    check_chat_stream,
    check_messages_stream,
    client,
    log,
    messages_body,
    post,
    raw,
    request_bytes,
    serve,
)

from server.upstream.demo import FAULTS

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
STATUSES = {
    "unavailable": 503,
    "error": 500,
    "html": 502,
    "ratelimit": 429,
    "ratelimit:3600": 429,
    "ratelimit:none": 429,
    "unauthorized": 401,
    "forbidden": 403,
    "notfound": 404,
    "badrequest": 400,
    "toolong": 400,
    "toolarge": 413,
    "timeout": 408,
    "redirect": 302,
    "no-such-fault": 404,
}
both_protocols = pytest.mark.parametrize("protocol", PATHS)
streaming_or_not = pytest.mark.parametrize("stream", [True, False])


def body_of(protocol, model, *, stream=False):
    build = messages_body if protocol == "anthropic" else chat_body
    return build(model=f"fault:{model}", stream=stream)


def answer(protocol, model, *, stream=False, **headers):
    async def scenario(server):
        body = body_of(protocol, model, stream=stream)
        response = await post(server, PATHS[protocol], body, **headers)
        return response, (await log(server))[0]

    return serve(scenario)


def on_the_wire(protocol, model, *, stream=False):
    """Give head, body and end of what the server sends, and the journal's entry."""

    async def scenario(server):
        body = body_of(protocol, model, stream=stream)
        received, end = await raw(server, request_bytes(PATHS[protocol], body))
        (entry,) = await log(server)
        return *received.partition(b"\r\n\r\n")[::2], end, entry

    return serve(scenario)


def test_every_fault_has_a_line():
    assert len(FAULTS) >= 35
    assert all(name.startswith("fault:") and line for name, line in FAULTS.items())


@both_protocols
@streaming_or_not
@pytest.mark.parametrize("model", STATUSES)
def test_an_error_has_its_status_before_any_stream(protocol, stream, model):
    response, entry = answer(protocol, model, stream=stream)

    assert response.status_code == STATUSES[model]
    assert entry["outcome"] == ("completed" if model == "no-such-fault" else "fault")


def test_overloaded_is_529_or_503_as_the_vendor_has_it():
    messages, chat = answer("anthropic", "overloaded")[0], answer("openai", "overloaded")[0]

    assert (messages.status_code, messages.json()["error"]["type"]) == (529, "overloaded_error")
    assert (chat.status_code, chat.json()["error"]["type"]) == (503, "server_error")


def test_ratelimit_says_how_long_to_wait():
    waits = [
        answer("anthropic", name)[0].headers.get("retry-after")
        for name in STATUSES
        if "rate" in name
    ]

    assert waits == ["2", "3600", None]


@both_protocols
def test_too_long_has_the_wording_that_clients_match(protocol):
    message = answer(protocol, "toolong")[0].json()["error"]["message"]

    assert message == "prompt is too long: 250000 tokens > 200000 maximum"


@both_protocols
def test_unauthorized_repeats_the_key(protocol):
    response, _ = answer(protocol, "unauthorized", authorization="Bearer canary")

    assert "canary" in response.text


def test_redirect_leads_to_a_place_that_is_logged_or_to_a_named_port():
    own, other = answer("anthropic", "redirect")[0], answer("anthropic", "redirect:4000")[0]

    assert own.headers["location"] == f"http://127.0.0.1:{own.url.port}/redirected"
    assert other.headers["location"] == "http://127.0.0.1:4000/redirected"


@both_protocols
@streaming_or_not
@pytest.mark.parametrize(("model", "end"), [("refuse", "fin"), ("reset", "rst")])
def test_a_refused_request_gets_no_byte(protocol, stream, model, end):
    head, _, ended, entry = on_the_wire(protocol, model, stream=stream)

    assert (head, ended, entry["outcome"]) == (b"", end, "fault")


@both_protocols
@streaming_or_not
@pytest.mark.parametrize(
    ("model", "end"),
    [("cut", "fin"), ("rst-mid", "rst"), ("silent-close", "fin"), ("short-length", "fin")],
)
def test_a_cut_answer_begins_with_200_and_does_not_end(protocol, stream, model, end):
    head, body, ended, entry = on_the_wire(protocol, model, stream=stream)

    assert head.startswith(b"HTTP/1.1 200 ")
    assert not body.endswith(b"0\r\n\r\n")
    assert (ended, entry["outcome"]) == (end, "cut")


@both_protocols
def test_a_cut_stream_ends_inside_an_event(protocol):
    _, body, _, entry = on_the_wire(protocol, "cut", stream=True)

    assert entry["events"] > 2
    assert not body.endswith(b"\n\n")


@both_protocols
def test_a_clean_cut_is_a_whole_answer_without_its_terminal_event(protocol):
    response, entry = answer(protocol, "cut-clean", stream=True)

    assert response.content.endswith(b"\n\n")
    assert b"message_stop" not in response.content
    assert b"[DONE]" not in response.content
    assert entry["outcome"] == "cut"


@both_protocols
@streaming_or_not
@pytest.mark.parametrize(
    "model", ["slow:0.1", "stall:0.1", "continue", "gzip", "tiny:0", "big:0.2"]
)
def test_a_harmless_fault_still_answers_in_full(protocol, stream, model):
    began = time.monotonic()
    response, entry = answer(protocol, model, stream=stream)

    if not stream:
        assert response.json()["model"] == f"fault:{model}"
    elif protocol == "anthropic":
        check_messages_stream(response.content)
    else:
        check_chat_stream(response.content)
    assert entry["outcome"] == "completed"
    if "0.1" in model:
        assert time.monotonic() - began >= 0.1


def test_continue_comes_before_the_answer():
    async def scenario(server):
        body = body_of("anthropic", "continue")
        return await raw(server, request_bytes(PATHS["anthropic"], body, "connection: close"))

    received, _ = serve(scenario)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_gzip_is_sent_though_identity_was_asked():
    response, _ = answer("anthropic", "gzip", **{"accept-encoding": "identity"})

    assert response.headers["content-encoding"] == "gzip"


@pytest.mark.parametrize("megabytes", [3])
def test_a_gzip_bomb_inflates_to_the_size_that_was_asked(megabytes):
    async def scenario(server):
        body = body_of("openai", f"gzipbomb:{megabytes}")
        async with (
            client(server) as http,
            http.stream("POST", PATHS["openai"], json=body) as answer,
        ):
            return b"".join([chunk async for chunk in answer.aiter_raw()])

    squeezed = serve(scenario)
    assert len(squeezed) < 10_000
    assert len(gzip.decompress(squeezed)) == megabytes * 1024 * 1024


@both_protocols
def test_garbage_is_no_event_in_a_stream_and_no_json_outside(protocol):
    stream, whole = answer(protocol, "garbage", stream=True)[0], answer(protocol, "garbage")[0]

    assert b"\nHTTP/1.1 200 OK\r\n" in stream.content
    with pytest.raises(ValueError, match=r"codec|Expecting"):
        whole.json()


@both_protocols
def test_an_error_can_come_inside_the_stream(protocol):
    first, mid = (
        answer(protocol, "error-first", stream=True)[0],
        answer(protocol, "error-mid", stream=True)[0],
    )

    assert (first.status_code, mid.status_code) == (200, 200)
    assert first.content.count(b"\n\n") == 1
    assert mid.content.count(b"\n\n") > 3
    for content in (first.content, mid.content):
        last = content.strip().split(b"data: ")[-1]
        assert json.loads(last)["error"]["message"]


@both_protocols
@streaming_or_not
def test_no_usage_leaves_usage_out(protocol, stream):
    response, entry = answer(protocol, "no-usage", stream=stream)

    assert response.status_code == 200
    assert b"_tokens" not in response.content
    assert entry["usage"] is None


@both_protocols
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("negative", -5),
        ("huge", 10**18),
        ("string", "12"),
        ("float", 3.7),
        ("null", None),
        ("bool", True),
    ],
)
def test_weird_usage_has_the_value_that_was_asked(protocol, kind, value):
    usage = answer(protocol, f"weird-usage:{kind}")[0].json()["usage"]

    counts = {key: each for key, each in usage.items() if key.endswith("_tokens")}
    assert counts
    assert all(each == value and type(each) is type(value) for each in counts.values())


@both_protocols
def test_wrong_type_is_a_page(protocol):
    response, _ = answer(protocol, "wrong-type", stream=True)

    assert (response.status_code, response.headers["content-type"]) == (
        200,
        "text/html; charset=utf-8",
    )


@both_protocols
@streaming_or_not
@pytest.mark.parametrize("model", ["endless", "endless-line"])
def test_an_endless_answer_goes_on_until_the_client_goes(protocol, stream, model):
    async def scenario(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes(PATHS[protocol], body_of(protocol, model, stream=stream)))
        received = await asyncio.wait_for(reader.readexactly(5000), 5)
        writer.transport.abort()
        return received

    assert serve(scenario).startswith(b"HTTP/1.1 200 OK\r\n")


def test_big_is_as_big_as_asked():
    text = answer("anthropic", "big:2")[0].json()["content"][0]["text"]

    assert len(text) == 2 * 1024 * 1024


def test_the_server_goes_on_after_every_fault():
    """One client after the other meets each fault; the next still gets a good answer."""
    endless = {"fault:endless", "fault:endless-line", "fault:gzipbomb"}

    async def scenario(server):
        for name in [each for each in FAULTS if each not in endless]:
            short = f"{name}:0" if name in ("fault:slow", "fault:stall", "fault:tiny") else name
            with suppress(httpx.HTTPError):
                await post(server, "/v1/messages", messages_body(model=short, stream=True))
        return (
            await post(server, "/v1/messages", messages_body())
        ).status_code, server.journal.open

    assert serve(scenario) == (200, 0)
