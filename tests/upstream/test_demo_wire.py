"""The demo upstream as an HTTP/1.1 server: connections, bodies, hang-ups and its journal."""

import asyncio
import json
import time
from contextlib import suppress

import httptools
import pytest
from demo_harness import (
    chat_body,
    client,
    log,
    messages_body,
    post,
    raw,
    request_bytes,
    serve,
    until,
)

from server.upstream.demo import DemoOptions, start


async def stats(server):
    async with client(server) as http:
        return (await http.get("/__stats")).json()


async def responses(reader, count):
    """Read `count` whole answers from one connection; give status and body of each."""
    found = []

    class Listener:
        def on_message_begin(self):
            self.body = b""

        def on_body(self, body):
            self.body += body

        def on_message_complete(self):
            found.append((parser.get_status_code(), self.body))

    parser = httptools.HttpResponseParser(Listener())
    while len(found) < count:
        parser.feed_data(await asyncio.wait_for(reader.read(65536), 5))
    return found


def test_one_connection_serves_streams_and_whole_bodies_in_turn():
    async def scenario(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        seen = []
        for body in (messages_body(stream=True), messages_body(), messages_body(stream=True)):
            writer.write(request_bytes("/v1/messages", body))
            seen += await responses(reader, 1)
        writer.close()
        return seen

    seen = serve(scenario)
    assert [status for status, _ in seen] == [200, 200, 200]
    assert all(b"message" in body for _, body in seen)


def test_requests_sent_at_once_are_answered_in_order():
    async def scenario(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        names = ["one", "two", "three"]
        bodies = [request_bytes("/v1/messages", messages_body(model=name)) for name in names]
        writer.write(b"".join(bodies))
        seen = await responses(reader, 3)
        writer.close()
        return [json.loads(body)["model"] for _, body in seen]

    assert serve(scenario) == ["one", "two", "three"]


def test_connection_close_is_honoured():
    async def scenario(server):
        request = request_bytes("/v1/messages", messages_body(), "connection: close")
        return await raw(server, request)

    received, end = serve(scenario)
    assert end == "fin"
    assert b"connection: close" in received


def test_a_chunked_request_body_is_read():
    async def pieces():
        data = json.dumps(messages_body("in pieces")).encode()
        for at in range(0, len(data), 7):
            yield data[at : at + 7]

    async def scenario(server):
        async with client(server) as http:
            return await http.post("/v1/messages", content=pieces())

    assert "in pieces" in serve(scenario).json()["content"][0]["text"]


def test_a_client_that_expects_100_continue_gets_it():
    async def scenario(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        data = json.dumps(messages_body()).encode()
        head = f"POST /v1/messages HTTP/1.1\r\ncontent-length: {len(data)}\r\n"
        writer.write(head.encode() + b"expect: 100-continue\r\n\r\n")
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.write(data)
        ((status, _),) = await responses(reader, 1)
        writer.close()
        return first, status

    assert serve(scenario) == (b"HTTP/1.1 100 Continue\r\n\r\n", 200)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_body_of_40_megabytes_is_served(path):
    async def scenario(server):
        body = messages_body("x" * 40_000_000)
        async with client(server) as http:
            return await http.post(path, json=body, timeout=30)

    assert serve(scenario).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'"text"', b""])
def test_a_body_that_is_no_json_object_is_a_400(body):
    async def scenario(server):
        async with client(server) as http:
            return (await http.post("/v1/messages", content=body)).status_code

    assert serve(scenario) == 400


def test_what_is_no_http_is_refused_and_closed():
    async def scenario(server):
        return await raw(server, b"hello there\r\n\r\n")

    received, end = serve(scenario)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert end == "fin"


def test_unknown_paths_are_404_and_head_has_no_body():
    async def scenario(server):
        async with client(server) as http:
            missing = await http.get("/nowhere")
            head = await http.head("/v1/models")
            again = await http.get("/v1/models")
            return missing, head, again

    missing, head, again = serve(scenario)
    assert (missing.status_code, head.status_code, head.content) == (404, 200, b"")
    assert int(head.headers["content-length"]) == len(again.content)


@pytest.mark.parametrize("size", [100, 65_536, 70_000, 1_000_000])
@pytest.mark.parametrize("model", ["fault:slow:60", "fault:endless", "fault:stall:60"])
def test_a_client_that_hangs_up_is_noticed_at_once(size, model):
    async def scenario(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = messages_body("x" * size, model=model, stream=True)
        writer.write(request_bytes("/v1/messages", body))

        async def is_open():
            return (await stats(server))["open"] == 1

        async def is_quiet():
            return await stats(server) == {"open": 0, "served": 1}

        await until(is_open)
        writer.transport.abort()
        await until(is_quiet, 1)
        (entry,) = await log(server)
        return entry["outcome"]

    assert serve(scenario) == "client_gone"


def test_a_client_that_does_not_read_stops_the_stream():
    """What waits for a slow reader is bounded by the socket's buffers, not by memory."""

    async def scenario(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        body = messages_body(model="fault:big:64", stream=True)
        writer.write(request_bytes("/v1/messages", body))
        sizes = [-1, -2]

        async def stands_still():
            (entry,) = server.journal.entries or [None]
            sizes.append(entry.events if entry else -3)
            await asyncio.sleep(0.1)
            return sizes[-1] == sizes[-2] > 0

        await until(stands_still)
        writer.transport.abort()
        return sizes[-1]

    assert 0 < serve(scenario) < 2000  # of 4096 pieces of 16 KiB


def test_close_drops_running_streams_and_frees_the_port():
    async def main():
        server = await start("127.0.0.1", 0, options=DemoOptions())
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_bytes("/v1/messages", messages_body(model="fault:slow:60")))

        async def is_open():
            return server.journal.open == 1

        await until(is_open)
        await asyncio.wait_for(server.close(), 2)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        again = await start("127.0.0.1", server.port, options=DemoOptions())
        await again.close()
        return server.journal.open

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("model", ["demo", "fault:reset", "fault:rst-mid", "fault:slow:60"])
def test_it_works_on_uvloop_as_it_does_on_asyncio(model):
    """Sanic runs the gateway on uvloop, and the demo upstream beside it on the same loop."""
    uvloop = pytest.importorskip("uvloop")

    async def main():
        server = await start("127.0.0.1", 0, options=DemoOptions())
        body = messages_body(model=model, stream=True)
        request = request_bytes("/v1/messages", body, "connection: close")
        received = asyncio.create_task(raw(server, request))

        async def is_there():
            return received.done() or (model == "fault:slow:60" and server.journal.open == 1)

        await until(is_there)
        await asyncio.wait_for(server.close(), 2)
        return (await received)[1]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        end = runner.run(main())
    assert end == ("rst" if model in ("fault:reset", "fault:rst-mid") else "fin")


def test_starting_takes_less_than_50_ms():
    async def main():
        began = time.perf_counter()
        server = await start("127.0.0.1", 0, options=DemoOptions())
        took = time.perf_counter() - began
        await server.close()
        return took

    assert min(asyncio.run(main()) for _ in range(3)) < 0.05


def test_the_log_has_an_entry_for_each_request():
    async def scenario(server):
        await post(server, "/v1/messages", messages_body(), **{"x-request-id": "req_ours"})
        await post(server, "/v1/chat/completions", chat_body(model="fault:error"))
        return await log(server)

    first, second = serve(scenario)
    assert (first["request_id"], first["protocol"], first["outcome"]) == (
        "req_ours",
        "anthropic",
        "completed",
    )
    assert first["usage"]["output_tokens"] > 0
    assert first["bytes"] > 0
    assert (second["protocol"], second["status"], second["outcome"]) == ("openai", 500, "fault")
    assert second["usage"] is None


def test_the_journal_file_has_a_line_at_arrival_and_one_at_the_end(tmp_path):
    """Each line is flushed: it is there while the request still runs."""
    path = tmp_path / "journal.jsonl"

    def lines():
        return [json.loads(line) for line in path.read_text().splitlines()]

    async def scenario(server):
        body = messages_body(model="fault:stall:60", stream=True)
        async with client(server) as http, http.stream("POST", "/v1/messages", json=body) as answer:
            async for _ in answer.aiter_raw():
                break
            before = lines()

        async def ended():
            return len(lines()) == 2

        await until(ended)
        return before

    before = serve(scenario, journal=path)
    assert [line["line"] for line in before] == ["arrived"]
    assert [(line["line"], line["outcome"]) for line in lines()] == [
        ("arrived", "open"),
        ("ended", "client_gone"),
    ]


def test_the_same_prefix_has_the_same_hash_in_the_log():
    async def scenario(server):
        for system, content in (("a", "one"), ("a", "two"), ("b", "one")):
            await post(server, "/v1/messages", messages_body(content, system=system))
        return [entry["prefix"] for entry in await log(server)]

    one, two, three = serve(scenario)
    assert one == two != three
