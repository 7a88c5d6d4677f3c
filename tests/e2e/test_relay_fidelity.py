"""What an upstream is sent, and what a client is given, byte for byte."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from support.gateways import started
from support.raw_upstream import upstream
from support.upstreams import KEY, both_protocols, cuts
from support.wires import (
    COMPLETION,
    MESSAGE,
    ROOTS,
    http_answer,
    recording,
    request,
    run,
    wire,
)

DATA = Path(__file__).parent.parent / "data"
PATHS = {"anthropic": "/messages", "openai": "/chat/completions"}
ANSWERS = {
    "anthropic": http_answer(200, MESSAGE),
    "openai": http_answer(200, COMPLETION),
}
TAIL = (
    rb',"messages":[ {"role":"user", "content":"h\u0069 \/ ' + "é🦊\u2028".encode() + rb'","cache_'
    rb'control":{"type":"ephemeral"},"n":1.0} ],"max_tokens":10,"metadata":{"user_id":"x" , "y":'
    rb'-0},"a_null":null,"":0,"nested":{"model":"not this one","stream":[]}}'
)
ODD = (
    rb'{"zz":[ 1 , 2.50,1e0 ],"model":"smart","temperature":1.10,"path":"a\/b","s":"\u00e9\ud83d'
    rb'\ude00","big":' + b"9" * 6000 + TAIL
)


async def _converse(folder, config, *exchanges):
    """Send each request over one connection; give the replies and the rows."""
    async with started(folder, config) as gateway, wire(gateway.url) as connection:
        replies = []
        for path, body, headers in exchanges:
            sent = request("POST", path, body, x_api_key=gateway.secret, **headers)
            replies.append(await connection.ask(sent))
        return replies, await gateway.rows(), gateway.secret


@pytest.mark.parametrize("protocol", PATHS)
def test_a_body_leaves_as_it_came_but_for_its_model(tmp_path, protocol):
    async def scenario():
        async with recording(ANSWERS[protocol]) as there:
            exchange = ("/v1" + PATHS[protocol], ODD, {})
            replies, _, _ = await _converse(tmp_path, both_protocols(there.url), exchange)
        return there.bodies, replies

    bodies, replies = run(scenario)

    assert replies[0].status == 200
    assert bodies == [ODD.replace(b'"model":"smart"', b'"model":"upstream-model"')]


def test_a_chat_stream_asks_for_usage_and_keeps_its_other_options(tmp_path):
    asked = ODD[:-1] + rb',"stream_options":{"x":1.10,"include_usage" : false},"stream":true}'

    async def scenario():
        async with recording(ANSWERS["openai"]) as there:
            exchange = ("/v1/chat/completions", asked, {})
            await _converse(tmp_path, both_protocols(there.url), exchange)
        return there.bodies

    [sent] = run(scenario)

    expected = asked.replace(b'"model":"smart"', b'"model":"upstream-model"').replace(
        b'{"x":1.10,"include_usage" : false}', b'{"x":1.10,"include_usage":true}'
    )
    assert sent == expected


@pytest.mark.parametrize("protocol", PATHS)
def test_every_spelling_of_every_route_leads_to_one_upstream_path(tmp_path, protocol):
    """Queries are ignored, and under a tool nothing but the preset's place changes."""

    async def scenario():
        async with recording(ANSWERS[protocol]) as there:
            exchanges = [
                (f"{root}{PATHS[protocol]}{query}", ODD, {})
                for root in ROOTS
                for query in ("", "?beta=true", "?x=%00&/v1/messages")
            ]
            replies, rows, _ = await _converse(
                tmp_path, both_protocols(there.url + "/v1"), *exchanges
            )
        return exchanges, there.heads, there.bodies, replies, rows

    exchanges, heads, bodies, replies, rows = run(scenario)

    assert {reply.status for reply in replies} == {200}
    assert {head.split(b"\r\n")[0] for head in heads} == {
        b"POST /v1" + PATHS[protocol].encode() + b" HTTP/1.1"
    }
    tools = [path.split("/")[1] if not path.startswith("/v1/") else None for path, *_ in exchanges]
    assert [row["tool"] for row in rows] == tools
    place = "system" if protocol == "anthropic" else "messages"
    before = _members(ODD.replace(b'"smart"', b'"upstream-model"'))
    for tool, body in zip(tools, bodies, strict=True):
        after = _members(body)
        if tool is not None:
            assert (after.pop(place) != before.get(place)) is True
            expected = {name: raw for name, raw in before.items() if name != place}
        else:
            expected = before
        assert list(after.items()) == list(expected.items())


def _members(body):
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


@pytest.mark.parametrize(
    ("protocol", "base", "path"),
    [
        ("anthropic", "", "/v1/messages"),
        ("anthropic", "/", "/v1/messages"),
        ("anthropic", "/v1", "/v1/messages"),
        ("anthropic", "/v1/", "/v1/messages"),
        ("anthropic", "/api/anthropic", "/api/anthropic/v1/messages"),
        ("anthropic", "/api/v1/", "/api/v1/messages"),
        ("openai", "", "/chat/completions"),
        ("openai", "/", "/chat/completions"),
        ("openai", "/v1", "/v1/chat/completions"),
        ("openai", "/v1/", "/v1/chat/completions"),
        ("openai", "/api/openai/v2", "/api/openai/v2/chat/completions"),
    ],
)
def test_a_base_url_may_end_in_v1_or_in_a_slash(tmp_path, protocol, base, path):
    async def scenario():
        async with recording(ANSWERS[protocol]) as there:
            exchange = ("/v1" + PATHS[protocol], ODD, {})
            await _converse(tmp_path, both_protocols(there.url + base), exchange)
        return there.heads

    [head] = run(scenario)

    assert head.startswith(b"POST %b HTTP/1.1\r\n" % path.encode())


CURIOUS = {
    "user_agent": "claude-cli/2.1.330 (external, cli)",
    "accept": "application/json",
    "accept_encoding": "gzip, br",
    "cookie": "session=secret",
    "origin": "https://elsewhere.example",
    "x_forwarded_for": "10.0.0.1",
    "x_request_id": "req_of_the_client",
    "x_stainless_lang": "js",
    "anthropic_dangerous_direct_browser_access": "true",
    "openai_organization": "org-client",
    "x_claude_code_session_id": "session-1",
    "proxy_authorization": "Basic abc",
    "content_type": "application/json; charset=utf-8",
}
FIXED = {
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "gatewayctl",
    "x-extra": "1",
    "x-routing-hint": "eu, de",
}


@pytest.mark.parametrize(
    ("protocol", "given", "forwarded"),
    [
        ("anthropic", {}, {"anthropic-version": "2023-06-01"}),
        (
            "anthropic",
            {
                "anthropic_version": "2026-10-21",
                "anthropic_beta": "fine-grained-tool-streaming-2025-05-14,x-2026-01-01, y",
                "openai_beta": "assistants=v2",
            },
            {
                "anthropic-version": "2026-10-21",
                "anthropic-beta": "fine-grained-tool-streaming-2025-05-14,x-2026-01-01, y",
            },
        ),
        ("openai", {"anthropic_version": "2026-10-21", "anthropic_beta": "x"}, {}),
        ("openai", {"openai_beta": "assistants=v2"}, {"openai-beta": "assistants=v2"}),
        # A list may come in several lines, and a version may not.
        (
            "anthropic",
            {
                "anthropic_version": "2026-10-21",
                "Anthropic-Version": "2023-06-01",
                "anthropic_beta": "one,two",
                "Anthropic-Beta": "three",
            },
            {"anthropic-version": "2026-10-21", "anthropic-beta": "one,two,three"},
        ),
        ("openai", {"openai_beta": "a=v2", "OpenAI-Beta": "b"}, {"openai-beta": "a=v2,b"}),
    ],
)
def test_an_upstream_sees_these_headers_and_no_other(tmp_path, protocol, given, forwarded):
    async def scenario():
        async with recording(ANSWERS[protocol]) as there:
            config = both_protocols(there.url, headers='{X-Extra: "1", X-Routing-Hint: "eu, de"}')
            exchange = ("/claudecode/v1" + PATHS[protocol], ODD, {**CURIOUS, **given})
            replies, rows, secret = await _converse(tmp_path, config, exchange)
        return there, replies[0], rows[0], secret

    there, reply, row, secret = run(scenario)

    lines = there.heads[0].decode("latin-1").split("\r\n")[1:-2]
    seen = dict(line.split(": ", 1) for line in lines)
    assert len(seen) == len(lines)
    key = {"x-api-key": KEY} if protocol == "anthropic" else {"authorization": f"Bearer {KEY}"}
    assert seen == {
        **FIXED,
        **key,
        **forwarded,
        "host": there.url.removeprefix("http://"),
        "x-request-id": row["request_id"],
        "content-length": str(len(there.bodies[0])),
    }
    assert secret.encode() not in there.heads[0] + there.bodies[0]
    assert reply.header("request-id") == row["request_id"]
    assert row["session"] == "session-1"


@pytest.mark.parametrize("protocol", PATHS)
def test_a_whole_answer_comes_back_byte_for_byte(tmp_path, protocol):
    answer = dict(MESSAGE if protocol == "anthropic" else COMPLETION)
    body = json.dumps(answer, indent=3).encode().replace(b'"hello"', rb'"h\/\u00e9 1.10"')
    body = body[:-1] + b',"x":' + b"9" * 400 + b', "y" : 1.10}\n \n'

    async def scenario():
        async with recording(http_answer(200, body)) as there:
            exchange = ("/v1" + PATHS[protocol], ODD, {})
            replies, rows, _ = await _converse(tmp_path, both_protocols(there.url), exchange)
        return replies[0].body, rows[0]

    received, row = run(scenario)

    assert received == body
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (7, 3, False)
    assert (row["outcome"], row["stop_reason"]) == (
        "completed",
        "end_turn" if protocol == "anthropic" else "stop",
    )


STREAMS = {
    "messages_text": "anthropic",
    "messages_tools": "anthropic",
    "messages_error": "anthropic",
    "chat_text": "openai",
    "chat_tools": "openai",
    "chat_error": "openai",
}
KEPT = (
    "outcome",
    "status",
    "error",
    "stop_reason",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "estimated",
    "upstream_request_id",
)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_and_its_row_are_the_same_however_the_network_cut_it(tmp_path, name):
    stream, protocol = (DATA / f"{name}.sse").read_bytes(), STREAMS[name]
    ways = cuts(stream)
    ask = {
        "model": "smart",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if protocol == "anthropic":
        del ask["stream_options"]
    body = json.dumps(ask).encode()

    async def receive(gateway):
        async with wire(gateway.url) as connection:
            sent = request("POST", "/v1" + PATHS[protocol], body, x_api_key=gateway.secret)
            return await connection.ask(sent)

    async def scenario():
        async with (
            upstream(*ways.values()) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
        ):
            replies = [await receive(gateway) for _ in ways]
            rows = await gateway.rows()
            return replies, rows, gateway.gateway.upstream.pool.busy_count

    replies, rows, busy = run(scenario)

    assert {way: reply.body for way, reply in zip(ways, replies, strict=True)} == dict.fromkeys(
        ways, stream
    )
    kept = [tuple(row[column] for column in KEPT) for row in rows]
    assert dict(zip(ways, kept, strict=True)) == dict.fromkeys(ways, kept[0])
    assert busy == 0
    if not name.endswith("error"):
        assert rows[0]["outcome"] == "completed"
        assert rows[0]["output_tokens"] > 0


def test_a_client_that_did_not_ask_for_usage_gets_the_stream_without_its_chunk(tmp_path):
    stream = (DATA / "chat_text.sse").read_bytes()
    events = [piece + b"\n\n" for piece in stream.removesuffix(b"\n\n").split(b"\n\n")]
    shown = b"".join(event for event in events if b'"choices":[]' not in event)
    assert len(shown) < len(stream)
    ways = cuts(stream)
    ask = {"model": "smart", "messages": [{"role": "user", "content": "hello"}], "stream": True}

    async def scenario():
        async with (
            upstream(*ways.values()) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            replies = [await client.post("/v1/chat/completions", json=ask) for _ in ways]
            return [reply.content for reply in replies], await gateway.rows()

    received, rows = run(scenario)

    assert dict(zip(ways, received, strict=True)) == dict.fromkeys(ways, shown)
    assert len({row["output_tokens"] for row in rows}) == 1
    assert rows[0]["estimated"] is False


def test_events_reach_the_client_while_the_next_ones_are_not_there_yet(tmp_path):
    """Nothing is kept back but the end."""
    stream = (DATA / "messages_text.sse").read_bytes()
    first, rest = stream[: stream.index(b"event: content_block_stop")], None
    rest = stream[len(first) :]

    async def scenario():
        go = asyncio.Event()
        script = [
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
            % len(stream),
            first,
            go,
            rest,
        ]
        async with (
            upstream(script) as there,
            started(tmp_path, both_protocols(there.url)) as gateway,
            gateway.client() as client,
        ):
            ask = {**json.loads(b'{"model":"smart","max_tokens":9}'), "stream": True}
            ask["messages"] = [{"role": "user", "content": "hello"}]
            received = b""
            async with client.stream("POST", "/v1/messages", json=ask) as reply:
                async for piece in reply.aiter_raw():
                    received += piece
                    if received == first:
                        go.set()
            return received

    assert run(scenario) == stream
