"""Request heads and chunks that two parsers could read in two ways, and heads in odd pieces."""

import asyncio
import json

import pytest
from support.gateways import config_for, started
from support.wires import (
    ASK,
    MESSAGE,
    check_refusal,
    http_answer,
    recording,
    request,
    run,
    until,
    wire,
)

from server.routes.services import Deadlines

BODY = json.dumps(ASK).encode()
POST, HOST, LENGTH = "POST /v1/messages HTTP/1.1", "Host: gateway", f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def _raw(*lines, body=BODY):
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


REFUSED = {
    "a name with a space": _raw(POST, HOST, "Transfer-Encoding : chunked", LENGTH),
    "a length with a space": _raw(POST, HOST, "Content-Length : 3"),
    "a tab before the colon": _raw(POST, HOST, LENGTH, "x\t: y"),
    "an empty name": _raw(POST, HOST, LENGTH, ": y"),
    "no colon": _raw(POST, HOST, LENGTH, "x"),
    "a folded line": _raw(POST, HOST, LENGTH, "x-a: b", " c"),
    "a bare LF in a value": _raw(POST, HOST, LENGTH, "x-a: b\nx-b: c"),
    "a bare CR in a value": _raw(POST, HOST, LENGTH, "x-a: b\rx-b: c"),
    "a NUL in a value": _raw(POST, HOST, LENGTH, "x-a: b\0c"),
    "a DEL in a value": _raw(POST, HOST, LENGTH, "x-a: b\x7fc"),
    "no host": _raw(POST, LENGTH),
    "two hosts": _raw(POST, HOST, HOST, LENGTH),
    "a whole URL": _raw("POST http://gateway/v1/messages HTTP/1.1", HOST, LENGTH),
    "HTTP/1.0 in chunks": _raw("POST /v1/messages HTTP/1.0", HOST, CHUNKED, body=CHUNKS),
    "a name that is not ASCII": _raw(POST, HOST, LENGTH, "x-é: b"),
    "digits that are not ASCII": _raw(POST, HOST, "Content-Length: ³"),
    "no length's digits": _raw(POST, HOST, "Content-Length: "),
    "a signed length": _raw(POST, HOST, f"Content-Length: +{len(BODY)}"),
    "a list of lengths": _raw(POST, HOST, f"Content-Length: {len(BODY)}, {len(BODY)}"),
    "a negative length": _raw(POST, HOST, "Content-Length: -1"),
    "a length in hex": _raw(POST, HOST, "Content-Length: 0x3"),
    "a length with an underscore": _raw(POST, HOST, "Content-Length: 1_0"),
    "a length in Arabic digits": _raw(POST, HOST, "Content-Length: \xd9\xa3"),
    "a length with a fraction": _raw(POST, HOST, "Content-Length: 3.0"),
    "two lengths": _raw(POST, HOST, LENGTH, LENGTH),
    "two different lengths": _raw(POST, HOST, LENGTH, "content-length: 3"),
    "a length and chunks": _raw(POST, HOST, LENGTH, CHUNKED, body=CHUNKS),
    "chunks and a length": _raw(POST, HOST, CHUNKED, LENGTH, body=CHUNKS),
    "another coding": _raw(POST, HOST, "Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "an unknown coding": _raw(POST, HOST, "Transfer-Encoding: xchunked", body=CHUNKS),
    "no coding's name": _raw(POST, HOST, "Transfer-Encoding: ", LENGTH),
    "a coding that is none": _raw(POST, HOST, "Transfer-Encoding: identity", LENGTH),
    "two codings": _raw(POST, HOST, CHUNKED, CHUNKED, body=CHUNKS),
    "a coding and another": _raw(POST, HOST, CHUNKED, "transfer-encoding: x", body=CHUNKS),
    "a coding behind a vertical tab": _raw(
        POST, HOST, "Transfer-Encoding: \x0bchunked", body=CHUNKS
    ),
    "chunks in capitals": _raw(POST, HOST, "Transfer-Encoding: CHUNKED", body=CHUNKS),
    "a space behind chunked": _raw(POST, HOST, "Transfer-Encoding: chunked ", body=CHUNKS),
    "HTTP/0.9": _raw("POST /v1/messages HTTP/0.9", HOST, LENGTH),
    "HTTP/1.9": _raw("POST /v1/messages HTTP/1.9", HOST, LENGTH),
    "HTTP/2.0": _raw("POST /v1/messages HTTP/2.0", HOST, LENGTH),
    "two spaces": _raw("POST  /v1/messages HTTP/1.1", HOST, LENGTH),
    "a space in the path": _raw("POST /v1/mess ages HTTP/1.1", HOST, LENGTH),
    "a tab in the path": _raw("POST /v1/messages\t HTTP/1.1", HOST, LENGTH),
    "a line break before the request": b"\r\n" + _raw(POST, HOST, LENGTH),
    "a line break and a space before the headers": _raw(POST, " x: y", HOST, LENGTH),
    "a method in small letters": _raw("post /v1/messages HTTP/1.1", HOST, LENGTH),
    "another expectation": _raw(POST, HOST, LENGTH, "Expect: 200-ok"),
}
REFUSED_CHUNKS = {
    "a prefix": b"0x" + CHUNKS,
    "a space before the size": b" " + CHUNKS,
    "a space behind the size": CHUNKS.replace(b"\r\n", b" \r\n", 1),
    "an extension": CHUNKS.replace(b"\r\n", b";a=b\r\n", 1),
    "a sign": b"+" + CHUNKS,
    "a negative size": b"-1\r\n\r\n",
    "an underscore": b"0_" + CHUNKS,
    "no size": b"\r\n" + CHUNKS,
    "a size of 13 digits": b"1" + b"0" * 12 + CHUNKS,
    "a size without an end": b"1" * 100,
    "other bytes for the line break": CHUNKS.replace(b"\r\n0", b"XX0"),
    "bare LFs": CHUNKS.replace(b"\r\n", b"\n") + b" " * 30,
    "a trailer": CHUNKS[:-2] + b"x: y\r\n\r\n",
}
CASES = {**REFUSED, **{k: _raw(POST, HOST, CHUNKED, body=v) for k, v in REFUSED_CHUNKS.items()}}
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: gateway\r\n\r\n"


def test_what_two_parsers_could_read_in_two_ways_is_refused_and_ends_the_connection(tmp_path):
    async def exchange(gateway, data):
        key = f"\r\nx-api-key: {gateway.secret}\r\nhost:".encode()
        data = data.replace(b"\r\nHost:", key, 1) if b"\r\nHost:" in data else data
        async with wire(gateway.url) as connection:
            reply = await connection.ask(data + SMUGGLED)
            return reply, await connection.end()

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            seen = {name: await exchange(gateway, data) for name, data in CASES.items()}
        return seen, upstream.bodies

    seen, forwarded = run(scenario)

    for name, (reply, end) in seen.items():
        assert (name, reply.status, reply.header("connection"), end) == (name, 400, "close", "fin")
        assert reply.header("x-should-retry") == "false"
        assert reply.json()["error"]["type"] == "invalid_request_error"
    assert forwarded == []
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()


SERVED = {
    "a tab before a value": [_raw(POST, HOST, f"Content-Length:\t{len(BODY)}")],
    "a length with zeros before it": [_raw(POST, HOST, f"Content-Length: 000{len(BODY)}")],
    "chunks behind a tab": [_raw(POST, HOST, "Transfer-Encoding:\tchunked", body=CHUNKS)],
    "sizes with zeros before them": [_raw(POST, HOST, CHUNKED, body=b"000" + CHUNKS)],
    "a name like another": [_raw(POST, HOST, LENGTH, "Content_Length: 3", "Transfer_Encoding: x")],
    "an upgrade to HTTP/2": [
        _raw(POST, HOST, LENGTH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    ],
    "an upgrade to a socket": [
        _raw(POST, HOST, LENGTH, "Connection: Upgrade", "Upgrade: websocket")
    ],
    "other names of this host": [
        _raw(POST, f"Host: {name}", LENGTH) for name in ("", "a:1", "a/b", "u@a", "a, b", "[::1]")
    ],
    "chunks through an old proxy": [_raw(POST, HOST, CHUNKED, "Via: HTTP/1.0 old", body=CHUNKS)],
    "headers for proxies": [
        _raw(POST, HOST, LENGTH, f"{name}: /smuggled")
        for name in (
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-Forwarded-Host",
        )
    ],
}


def test_what_has_one_reading_is_served_and_what_follows_it_is_a_request_of_its_own(tmp_path):
    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            key = f"\r\nx-api-key: {gateway.secret}\r\nHost:".encode()
            seen = {}
            for name, data in [(name, each) for name, found in SERVED.items() for each in found]:
                async with wire(gateway.url) as connection:
                    await connection.send(data.replace(b"\r\nHost:", key, 1) + SMUGGLED)
                    first, second = await connection.reply(), await _reply_or_end(connection)
                seen.setdefault(name, set()).add((first.status, second))
        return seen, upstream.bodies

    seen, forwarded = run(scenario)

    assert seen == {
        name: {(200, "end" if name.startswith("an upgrade") else 404)} for name in SERVED
    }
    assert len(forwarded) == sum(map(len, SERVED.values()))
    assert len(set(forwarded)) == 1


async def _reply_or_end(connection):
    try:
        return (await connection.reply()).status
    except asyncio.IncompleteReadError as end:
        return end.partial or "end"


@pytest.mark.parametrize("kept", ["close", "keep-alive"])
def test_a_body_of_http_1_0_without_a_length_is_never_another_request(tmp_path, kept):
    """To a proxy it ends with the connection, whatever it holds."""
    post, kept = "POST /v1/messages HTTP/1.0", f"Connection: {kept}"

    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            key = f"x-api-key: {gateway.secret}"
            reply = await connection.ask(_raw(post, HOST, key, kept, body=SMUGGLED))
            return reply, await connection.end()

    reply, end = run(scenario)

    assert (reply.status, reply.header("connection"), end) == (400, "close", "fin")


@pytest.mark.parametrize("length", ["1" + "0" * 30, "9" * 400])
def test_a_length_beyond_all_bounds_is_a_413_and_the_end(tmp_path, length):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            key = f"x-api-key: {gateway.secret}"
            reply = await connection.ask(_raw(POST, HOST, key, f"Content-Length: {length}"))
            await connection.send(SMUGGLED)
            connection.writer.write_eof()
            return reply, await connection.end()

    reply, end = run(scenario)

    check_refusal(reply, "anthropic", 413, "request_too_large")
    assert (reply.header("connection"), end) == ("close", "fin")


HARDLY_HTTP = [
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT /v1/messages HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"GET \\healthz HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /healthz\r\n\r\n",
    b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"GET healthz HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"GET /\xc3\xa9 HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"GET /a\x01b HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"GET /healthz#fragment HTTP/1.1\r\nhost: gateway\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nhost: gateway\r\n\r\n",
]


def test_what_is_hardly_http_gets_a_readable_answer(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            replies = []
            for data in HARDLY_HTTP:
                async with wire(gateway.url) as connection:
                    replies.append(await connection.ask(data))
            return replies

    for reply in run(scenario):
        assert reply.status in (400, 404)
        assert reply.json()["error"]["type"] == "invalid_request_error"
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()


@pytest.mark.parametrize("size", [17_000, 100_000, 3_000_000])
def test_a_head_over_16_kb_is_a_413_that_can_be_read(tmp_path, size):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            reply = await connection.ask(request("GET", "/v1/models", x_long="a" * size))
            return reply, await connection.end()

    reply, end = run(scenario)

    assert "16 KB" in check_refusal(reply, "openai", 413, "request_too_large")
    assert end == "fin"


@pytest.mark.parametrize(
    ("path", "protocol", "kind"),
    [
        ("/v1/messages", "anthropic", "request_too_large"),
        ("/claudecode/v1/nowhere/" + "a" * 300, "anthropic", "request_too_large"),
        ("/cline/v1/chat/completions", "openai", "request_too_large"),
        ("/tenant/keys", "openai", "request_too_large"),
    ],
)
def test_a_head_that_is_too_long_is_refused_in_its_callers_envelope(tmp_path, path, protocol, kind):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            return await connection.ask(request("POST", path, x_long="a" * 17_000))

    check_refusal(run(scenario), protocol, 413, kind)


def test_a_key_in_the_path_of_a_head_that_is_too_long_is_not_logged(tmp_path):
    """Not a part of it either, wherever the logged path is cut."""
    log = tmp_path / "access.log"

    async def lines():
        return log.read_text().splitlines()

    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            path = "/" + "a/" * 85 + gateway.secret
            reply = await connection.ask(request("GET", path, x_long="a" * 17_000))
            return gateway.secret, reply.status, await until(lines)

    secret, status, (line,) = run(scenario)

    assert status == 413
    assert "/a/a/" in line
    assert secret[:12] not in line


def test_a_head_that_comes_too_late_is_refused_in_its_callers_envelope(tmp_path):
    async def scenario():
        quick = Deadlines(head_s=0.2)
        async with started(tmp_path, deadlines=quick) as gateway, wire(gateway.url) as connection:
            return await connection.ask(b"POST /v1/messages HTTP/1.1\r\nhost: gateway\r\nx-a")

    check_refusal(run(scenario), "anthropic", 400, "invalid_request_error")


def test_a_head_of_15_kb_and_400_lines_is_served(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            many = {f"x_{number}": "y" * 25 for number in range(400)}
            return await connection.ask(request("GET", "/healthz", **many))

    assert run(scenario).status == 200


def test_a_line_that_only_ends_in_lf_is_no_head_and_times_out(tmp_path):
    async def scenario():
        quick = Deadlines(head_s=0.2)
        async with started(tmp_path, deadlines=quick) as gateway, wire(gateway.url) as connection:
            reply = await connection.ask(b"GET /healthz HTTP/1.1\nhost: gateway\n\n")
            return reply, await connection.end()

    reply, end = run(scenario)

    check_refusal(reply, "openai", 400, "invalid_request")
    assert end == "fin"


def test_pipelined_requests_are_answered_in_their_order(tmp_path):
    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
            wire(gateway.url) as connection,
        ):
            chunked = _raw(POST, HOST, CHUNKED, f"x-api-key: {gateway.secret}", body=CHUNKS)
            await connection.send(
                request("GET", "/healthz")
                + request("POST", "/v1/messages", BODY, x_api_key=gateway.secret)
                + chunked
                + request("POST", "/v1/messages", b"{}", x_api_key=gateway.secret)
                + request("POST", "/v1/messages", b"{}")
                + request("DELETE", "/healthz")
                + request("GET", "/readyz")
            )
            return [await connection.reply() for _ in range(7)]

    replies = run(scenario)

    assert [reply.status for reply in replies] == [200, 200, 200, 400, 401, 405, 200]
    assert replies[2].json() == MESSAGE
    assert replies[6].json() == {"status": "ready"}
    assert len({reply.header("request-id") for reply in replies}) == 7


@pytest.mark.parametrize("form", ["length", "chunked"])
def test_a_request_split_at_any_place_is_the_same_request(tmp_path, form):
    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            key = f"x-api-key: {gateway.secret}"
            data = (
                _raw(POST, HOST, key, LENGTH)
                if form == "length"
                else _raw(POST, HOST, key, CHUNKED, body=CHUNKS)
            )
            statuses = []
            async with wire(gateway.url) as connection:
                for place in range(1, len(data)):
                    await connection.send(data[:place])
                    await asyncio.sleep(0)
                    statuses.append((await connection.ask(data[place:])).status)
        return statuses, upstream.bodies

    statuses, forwarded = run(scenario)

    assert set(statuses) == {200}
    assert len(set(forwarded)) == 1
    assert json.loads(forwarded[0]) == {**ASK, "model": "upstream-model"}


def test_http_1_0_is_answered_and_closed(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            reply = await connection.ask(b"GET /healthz HTTP/1.0\r\nhost: gateway\r\n\r\n")
            return reply, await connection.end()

    reply, end = run(scenario)

    assert (reply.status, reply.header("connection"), end) == (200, "close", "fin")
