"""Bodies that cannot be served: a clear refusal on every inference route, and nothing leaves."""

import json

import pytest
from support.gateways import config_for, started
from support.wires import (
    ASK,
    COMPLETION,
    MESSAGE,
    ROOTS,
    check_refusal,
    http_answer,
    recording,
    request,
    run,
    wire,
)

WHOLE = json.dumps(ASK)
BAD = {
    "empty": b"",
    "blank": b" \n",
    "cut short": WHOLE[:-1].encode(),
    "trailing data": f"{WHOLE} {{}}".encode(),
    "not an object": b"[]",
    "null": b"null",
    "a byte order mark": b"\xef\xbb\xbf" + WHOLE.encode(),
    "invalid UTF-8": WHOLE.replace("hello", "h\udcff").encode(errors="surrogateescape"),
    "invalid UTF-8 in a name": b'{"\xff": 1, ' + WHOLE.encode()[1:],
    "NaN": WHOLE.replace('"hello"', "NaN").encode(),
    "Infinity": WHOLE.replace("10", "-Infinity").encode(),
    "half a surrogate pair": WHOLE.replace("hello", "\\ud800").encode(),
    "half a surrogate pair in the model": WHOLE.replace("smart", "\\udfff").encode(),
    "deep arrays": WHOLE.replace('"hello"', "[" * 100_000 + "]" * 100_000).encode(),
    "deep objects": WHOLE.replace('"hello"', '{"a":' * 100_000 + "1" + "}" * 100_000).encode(),
    "deep and never closed": b"[" * 100_000,
    "a case twin": json.dumps({**ASK, "Model": "other"}).encode(),
    "a case twin alone": json.dumps({**ASK, "STREAM": True}).encode(),
    "an escaped case twin": WHOLE.replace("{", '{"\\u004dodel": "x", ', 1).encode(),
    "a single quote": b"{'model': 'smart'}",
}
WRONG_TYPES = {
    "model": [None, 1, "", [], {}, "m" * 257, "two\nlines"],
    "messages": [None, "hello", {}, 1],
    "stream": ["true", 1, [], {}],
    "max_tokens": [-1, 1.5, "10", True, 10**30, [], 2**31],
}
MISSING = ["model", "messages"]


def _wrong_types():
    for field, values in WRONG_TYPES.items():
        for value in values:
            yield json.dumps({**ASK, field: value}).encode()
    for field in MISSING:
        yield json.dumps({name: value for name, value in ASK.items() if name != field}).encode()


def _routes():
    for root in ROOTS:
        yield f"{root}/messages", "anthropic"
        yield f"{root}/messages/count_tokens", "anthropic"
        yield f"{root}/chat/completions", "openai"


async def _refusals(gateway, path, protocol, bodies):
    """Post each body on one connection, which every refusal must leave usable."""
    kind = "invalid_request_error" if protocol == "anthropic" else "invalid_request"
    messages = []
    async with wire(gateway.url) as connection:
        for body in bodies:
            reply = await connection.ask(request("POST", path, body, x_api_key=gateway.secret))
            messages.append(check_refusal(reply, protocol, 400, kind))
            assert reply.header("x-should-retry") == "false"
            assert reply.header("connection") == "keep-alive"
    return messages


def test_every_inference_route_refuses_what_is_no_request_and_forwards_nothing(tmp_path):
    bodies = [*BAD.values(), *_wrong_types()]

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            told = {
                path: await _refusals(gateway, path, protocol, bodies)
                for path, protocol in _routes()
            }
            rows = await gateway.rows()
        return told, upstream.bodies, rows

    told, forwarded, rows = run(scenario)

    assert forwarded == []
    assert rows == []
    assert all(len(messages) == len(bodies) for messages in told.values())
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()


@pytest.mark.parametrize("field", ["output_config", "response_format", "stream_options", "n"])
def test_a_field_that_only_one_protocol_reads_is_checked_there(tmp_path, field):
    path, protocol = (
        ("/v1/messages", "anthropic")
        if field == "output_config"
        else ("/v1/chat/completions", "openai")
    )
    bodies = [json.dumps({**ASK, field: value}).encode() for value in ("text", -1, [1], True)]

    async def scenario():
        async with started(tmp_path) as gateway:
            return await _refusals(gateway, path, protocol, bodies)

    assert all(field in message for message in run(scenario))


def test_the_openai_envelope_names_the_field_at_fault(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            path = "/v1/chat/completions"
            wrong = [("max_tokens", "ten"), ("model", 1), ("n", 0)]
            return [
                (await client.post(path, json={**ASK, field: value})).json()["error"]["param"]
                for field, value in wrong
            ]

    assert run(scenario) == ["max_tokens", "model", "n"]


def test_what_is_not_read_leaves_byte_for_byte_and_duplicates_collapse(tmp_path):
    """Only `model` is replaced here; of two equal names the last one counts, and leaves alone."""
    number = b"9" * 6000
    body = (
        b'{"model":"auto","temperature":1.10,"model":"smart","\\u0078":"a\\/b\\u00e9",'
        b'"max_tokens":10,"deep":' + b"[" * 200 + b"]" * 200 + b',"big":' + number + b","
        b'"huge":"' + b"y" * 1_000_000 + b'", "messages" : [ {"role":"user","content":"hello"} ] }'
    )
    expected = body.replace(b'"model":"auto",', b'"model":"upstream-model",')
    expected = expected.replace(b'"model":"smart",', b"").replace(b"\\u0078", b"x")
    expected = expected.replace(b', "messages" : [', b',"messages":[').replace(b"} ] }", b"} ]}")

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
            wire(gateway.url) as connection,
        ):
            reply = await connection.ask(
                request("POST", "/v1/messages", body, x_api_key=gateway.secret)
            )
        return reply, upstream.bodies

    reply, forwarded = run(scenario)

    assert reply.json() == MESSAGE
    assert forwarded == [expected]


def test_a_chat_body_leaves_untouched_too(tmp_path):
    body = (
        b'{"messages":[],"seed":1.10,"user":"a\\/b","big":'
        + b"7" * 6000
        + b',"n":1,"max_tokens":9,"model":"auto"}'
    )

    async def scenario():
        async with (
            recording(http_answer(200, COMPLETION)) as upstream,
            started(tmp_path, config_for(upstream.url, protocol="openai")) as gateway,
            wire(gateway.url) as connection,
        ):
            reply = await connection.ask(
                request("POST", "/v1/chat/completions", body, x_api_key=gateway.secret)
            )
        return reply, upstream.bodies

    reply, forwarded = run(scenario)

    assert reply.json() == COMPLETION
    assert forwarded == [body.replace(b'"auto"', b'"upstream-model"')]


def test_an_unknown_model_is_a_404_in_the_callers_envelope(tmp_path):
    body = json.dumps({**ASK, "model": "smrt"}).encode()

    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            post = [
                request("POST", path, body, x_api_key=gateway.secret)
                for path in ("/v1/messages", "/v1/chat/completions")
            ]
            return [await connection.ask(each) for each in post]

    messages, chat = run(scenario)

    assert '"smart"' in check_refusal(messages, "anthropic", 404, "not_found_error")
    assert '"smart"' in check_refusal(chat, "openai", 404, "model_not_found")
