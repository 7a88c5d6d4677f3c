"""Bodies that are too large, too slow, or nobody's: refused so that the client can read it."""

import asyncio
import json
import tracemalloc

import httpx
import pytest
from support.gateways import DEMO_CONFIG, started
from support.wires import check_refusal, request, run, until, wire

from server.routes.services import Deadlines

MB = 1024 * 1024
SMALL = DEMO_CONFIG + "server: {max_body_mb: 1}\n"
QUICK = Deadlines(head_s=0.3, body_s=0.3, discard_s=0.3, write_s=0.3)


def _head(path, *lines):
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: gateway", *lines, "", ""]).encode()


def _chunks(size, piece=60_000):
    return (b"%x\r\n" % piece + b"x" * piece + b"\r\n") * (size // piece) + b"0\r\n\r\n"


@pytest.mark.parametrize("config", [DEMO_CONFIG, SMALL])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_is_still_sending_reads_the_413(tmp_path, config, chunked):
    size = (1 if config == SMALL else 32) * MB + MB

    def pieces():
        for _ in range(size // MB):
            yield b"x" * MB

    async def scenario():
        async with started(tmp_path, config) as gateway, gateway.client() as client:

            async def body():
                for piece in pieces():
                    yield piece

            headers = {} if chunked else {"content-length": str(size)}
            return await client.post("/cline/v1/messages", content=body(), headers=headers)

    answer = run(scenario)

    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "request_too_large"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["connection"] == "close"


def test_a_body_of_exactly_the_limit_is_read(tmp_path):
    body = json.dumps({"model": "nobody", "messages": [], "x": ""}).encode()
    body = body.replace(b'""', b'"' + b"x" * (MB - len(body)) + b'"')

    async def scenario():
        async with started(tmp_path, SMALL) as gateway, gateway.client() as client:
            fits = await client.post("/v1/messages", content=body)
            larger = await client.post("/v1/messages", content=body + b" ")
        return fits, larger

    fits, larger = run(scenario)

    assert len(body) == MB
    assert fits.status_code == 404
    assert larger.status_code == 413


def test_a_body_in_the_smallest_chunks_takes_no_more_memory_than_another(tmp_path):
    size, head = 200_000, _head("/v1/messages/count_tokens", "transfer-encoding: chunked")
    body = json.dumps({"messages": []}).ljust(size).encode()
    chunks = b"".join(b"2\r\n%b\r\n" % body[at : at + 2] for at in range(0, size, 2))

    async def scenario():
        async with started(tmp_path, SMALL) as gateway, wire(gateway.url) as connection:
            key = f"\r\nx-api-key: {gateway.secret}\r\nhost:".encode()
            await connection.send(head.replace(b"\r\nhost:", key))
            tracemalloc.start()
            try:
                for at in range(0, len(chunks), 50_000):
                    await connection.send(chunks[at : at + 50_000])
                reply = await connection.ask(b"0\r\n\r\n")
                return reply, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    reply, peak = run(scenario)

    assert reply.status == 400, "there is no model in it"
    assert peak < 10 * size


@pytest.mark.parametrize(
    "lines",
    [("content-length: 40000000",), ("transfer-encoding: chunked",)],
    ids=["length", "chunked"],
)
def test_a_413_can_be_read_by_who_writes_first_and_reads_later(tmp_path, lines):
    body = b"x" * 40_000_000 if "length" in lines[0] else _chunks(40_000_000)

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG) as gateway, wire(gateway.url) as connection:
            await connection.send(
                _head("/v1/chat/completions", f"x-api-key: {gateway.secret}", *lines)
            )
            await connection.send(body)
            return await connection.reply(), await connection.end()

    reply, end = run(scenario)

    assert "32 MB" in check_refusal(reply, "openai", 413, "request_too_large")
    assert end == "fin"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/tenant/keys"])
def test_who_has_no_key_is_refused_before_the_body_is_sent(tmp_path, path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            reply = await connection.ask(_head(path, "content-length: 30000000"))
            return reply, await connection.end()

    reply, end = run(scenario)

    protocol, kind = (
        ("openai", "invalid_api_key") if "tenant" in path else ("anthropic", "authentication_error")
    )
    check_refusal(reply, protocol, 401, kind)
    assert reply.header("connection") == "close"
    assert end == "fin"


def test_who_has_no_key_can_read_the_401_behind_a_large_body(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
                answer = await client.post("/v1/messages", content=b"x" * 30_000_000)
            async with wire(gateway.url) as connection:
                await connection.send(_head("/v1/messages", "transfer-encoding: chunked"))
                await connection.send(_chunks(10_000_000))
                return answer, await connection.reply()

    answer, reply = run(scenario)

    assert answer.status_code == 401
    check_refusal(reply, "anthropic", 401, "authentication_error")


def test_a_client_that_waits_for_permission_to_send_gets_the_refusal_instead(tmp_path):
    async def scenario():
        async with started(tmp_path, SMALL) as gateway:
            replies = []
            for lines in (
                ("content-length: 100",),
                (f"x-api-key: {gateway.secret}", "content-length: 2000000"),
            ):
                async with wire(gateway.url) as connection:
                    await connection.send(_head("/v1/messages", *lines, "expect: 100-continue"))
                    replies.append((await connection.reader.readuntil(b"\r\n"))[:12])
            async with wire(gateway.url) as connection:
                key = f"x-api-key: {gateway.secret}"
                lines = (key, "content-length: 2", "expect: 100-continue")
                await connection.send(_head("/v1/messages", *lines))
                replies.append((await connection.reader.readuntil(b"\r\n\r\n"))[:12])
                replies.append((await connection.ask(b"{}")).status)
        return replies

    assert run(scenario) == [b"HTTP/1.1 401", b"HTTP/1.1 413", b"HTTP/1.1 100", 400]


STALLED = [
    b"GET /healthz HTTP/1.1\r\nhost: gate",
    _head("/v1/messages", "x-api-key: KEY", "content-length: 100") + b'{"a',
    _head("/v1/messages", "x-api-key: KEY", "transfer-encoding: chunked") + b"10\r\nabc",
    _head("/v1/messages", "x-api-key: KEY", "transfer-encoding: chunked") + b"1",
    _head("/v1/messages", "content-length: 100") + b'{"a',
    _head("/tenant/keys", "x-api-key: KEY", "content-length: 100"),
    _head("/nowhere", "content-length: 100"),
    _head("/healthz", "content-length: 100").replace(b"POST", b"GET"),
]


def test_clients_that_stall_are_answered_and_their_sockets_are_gone(tmp_path):
    """Although none of them ever closes its own side."""

    async def stall(gateway, data):
        async with wire(gateway.url) as connection:
            reply = await connection.ask(data.replace(b"KEY", gateway.secret.encode()))
            await connection.end()
            await until(lambda: _is(not gateway.running.connections), 3)
            return reply

    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, deadlines=QUICK) as gateway:
            return await asyncio.gather(*(stall(gateway, data) for data in STALLED))

    replies = run(scenario)

    assert [reply.status for reply in replies] == [400, 400, 400, 400, 401, 400, 404, 200]
    assert {reply.header("connection") for reply in replies} == {"close"}


async def _is(value):
    return value


def test_a_head_that_drips_in_for_ever_is_cut_off(tmp_path):
    """An inactivity timer would be renewed by every byte."""

    async def scenario():
        async with started(tmp_path, deadlines=QUICK) as gateway, wire(gateway.url) as connection:
            reply = asyncio.create_task(connection.reply())
            await connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: ")
            while not reply.done():
                connection.writer.write(b"a")
                await asyncio.sleep(0.05)
            return await reply

    check_refusal(run(scenario), "openai", 400, "invalid_request")


def test_a_body_that_drips_in_for_ever_is_cut_off(tmp_path):
    async def scenario():
        async with started(tmp_path, deadlines=QUICK) as gateway, wire(gateway.url) as connection:
            reply = asyncio.create_task(connection.reply())
            key = f"x-api-key: {gateway.secret}"
            await connection.send(_head("/v1/messages", key, "content-length: 1000"))
            while not reply.done():
                connection.writer.write(b"a")
                await asyncio.sleep(0.05)
            return await reply

    message = check_refusal(run(scenario), "anthropic", 400, "invalid_request_error")
    assert "in time" in message


def test_a_small_body_behind_a_refusal_does_not_end_the_connection(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            refused = [
                await connection.ask(request("POST", path, b'{"model": "smart"}'))
                for path in ("/v1/messages", "/tenant/keys", "/nowhere", "/healthz")
            ]
            return refused, await connection.ask(request("GET", "/healthz", b"{}"))

    refused, healthy = run(scenario)

    assert [reply.status for reply in refused] == [401, 401, 404, 405]
    assert healthy.json() == {"status": "ok"}


def test_tenant_bodies_have_a_limit_of_their_own(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, wire(gateway.url) as connection:
            body = b'{"name": "' + b"x" * 65_536 + b'"}'
            return await connection.ask(
                request("POST", "/tenant/keys", body, x_api_key=gateway.secret)
            )

    assert "64 KB" in check_refusal(run(scenario), "openai", 413, "request_too_large")
