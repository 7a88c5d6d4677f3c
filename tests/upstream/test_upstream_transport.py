"""Our transport under a real httpx client."""

import asyncio
import gzip

import httpx
import pytest
from support.raw_upstream import (
    CHUNKED,
    FIN,
    HANG,
    RST,
    chunked,
    run,
    sized,
    until,
    upstream,
)

from server.upstream.pool import Pool
from server.upstream.transport import Transport


def scene(play, *scripts, timeout=5.0):
    """Run `play(client, server, pool)` and close; nothing may stay open."""

    async def main():
        async with upstream(*scripts) as server:
            pool = Pool()
            async with httpx.AsyncClient(
                transport=Transport(pool), base_url=server.url, timeout=timeout
            ) as client:
                result = await play(client, server, pool)
                await until(lambda: pool.busy_count == 0, 2)
            assert pool.open_count == 0
            await until(lambda: server.open == 0)
        return result

    return run(main())


def test_get_and_post_reuse_one_connection():
    async def play(client, server, pool):
        got = await client.get("/v1/models?limit=1", headers={"x-api-key": "fake"})
        posted = await client.post("/v1/messages", json={"a": 1})
        return got, posted, server

    got, posted, server = scene(play, sized(b'{"data": []}', "x-a: 1", "x-a: 2"))

    assert (got.status_code, got.json()) == (200, {"data": []})
    assert got.headers.get_list("x-a") == ["1", "2"]
    assert posted.status_code == 200
    (get_head, get_body), (post_head, post_body) = server.requests
    assert get_head.startswith(b"GET /v1/models?limit=1 HTTP/1.1\r\n")
    assert b"\r\nx-api-key: fake\r\n" in get_head
    assert b"content-length" not in get_head
    assert (get_body, post_body) == (b"", b'{"a":1}')
    assert post_head.lower().count(b"content-length: 7\r\n") == 1
    assert server.accepted == 1


def test_a_body_of_unknown_length_goes_out_whole():
    async def content():
        yield b"one "
        yield b"two"

    async def play(client, server, _):
        await client.post("/", content=content())
        return server.requests[0]

    head, body = scene(play, sized(b""))

    assert body == b"one two"
    assert b"transfer-encoding" not in head.lower()


def test_the_body_streams():
    go = asyncio.Event

    async def play(client, server, _):
        got = []
        async with client.stream("GET", "/") as answer:
            async for data in answer.aiter_raw():
                got.append(data)
                gate.set()
        return got

    gate = go()
    assert scene(play, [CHUNKED, chunked(b"first", end=b""), gate, chunked(b"second")]) == [
        b"first",
        b"second",
    ]


def test_a_stream_that_is_left_early_closes_its_connection():
    async def play(client, server, pool):
        async with client.stream("GET", "/") as answer:
            assert answer.status_code == 200
        await until(lambda: server.open == 0)

    scene(play, [CHUNKED, chunked(b"first", end=b""), HANG])


def test_a_big_answer_read_slowly_is_whole():
    big = bytes(range(256)) * 8_000

    async def play(client, *_):
        got = bytearray()
        async with client.stream("GET", "/") as answer:
            async for data in answer.aiter_bytes():
                got += data
                await asyncio.sleep(0.001)
        return got == big

    assert scene(play, [sized(big)])


def test_httpx_inflates_and_follows_nothing():
    packed = sized(gzip.compress(b"{}"), "content-encoding: gzip")
    moved = b"HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: 0\r\n\r\n"

    async def play(client, *_):
        return (await client.get("/")).json(), (await client.get("/")).status_code

    assert scene(play, packed, moved) == ({}, 302)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([FIN], httpx.RemoteProtocolError),
        ([RST], httpx.RemoteProtocolError),
        ([b"<html>", HANG], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", FIN], httpx.RemoteProtocolError),
        ([HANG], httpx.ReadTimeout),
        ([CHUNKED, chunked(b"a", end=b""), HANG], httpx.ReadTimeout),
    ],
)
def test_failures_are_httpxs_own(script, error):
    async def play(client, server, _):
        with pytest.raises(error, match="The provider"):
            await client.get("/")

    scene(play, script, timeout=0.2)


def test_no_connection_is_a_connect_error():
    async def play(client, server, _):
        with pytest.raises(httpx.ConnectError, match="could not be reached"):
            await client.get("http://127.0.0.1:1/")

    scene(play, [FIN])


def test_a_cancelled_request_closes_its_connection():
    async def play(client, server, pool):
        task = asyncio.create_task(client.get("/"))
        await until(lambda: server.requests)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: server.open == 0 and pool.open_count == 0, 2)

    scene(play, [HANG])


@pytest.mark.parametrize(
    ("method", "url", "headers", "error"),
    [
        ("HEAD", "/", {}, httpx.UnsupportedProtocol),
        ("GET", "ftp://127.0.0.1/", {}, httpx.UnsupportedProtocol),
        ("GET", "/", {"x-a": "b\r\nx-c: d"}, httpx.LocalProtocolError),
    ],
)
def test_what_cannot_be_sent_is_refused(method, url, headers, error):
    async def play(client, server, _):
        with pytest.raises(error):
            await client.request(method, url, headers=headers)
        return server.accepted

    assert scene(play, [FIN]) == 0
