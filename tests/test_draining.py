"""The end of a gateway that serves: who is waited for, who is told what, and for how long."""

import asyncio
import json
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from urllib.parse import urlsplit

import pytest
from support.certificates import certify
from support.gateways import DEMO_CONFIG, config_for, started
from support.priced import asked, check_books, config
from support.wires import ASK, check_refusal, recording, request, run, until, wire

from server.routes.services import Deadlines
from server.store.models import Request

TOLD = "The gateway is restarting; send the request again."
BODY = json.dumps(ASK).encode()
TLS = "server: {tls: {cert: tls/cert.pem, key: tls/key.pem}}\n"
CUT_SOON = "server: {drain_s: 0.1}\n"
HEALTHZ, READYZ = request("GET", "/healthz"), request("GET", "/readyz")
AT_ONCE_S = 0.5
PATHS = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
}


@asynccontextmanager
async def _to_be_stopped(folder, text, **options):
    """Run a gateway; give it, and what begins to stop it and gives the task that waits."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(started(folder, text, **options))
        yield gateway, partial(_stop, stack, gateway)


async def _stop(stack, gateway):
    task = asyncio.create_task(_timed(stack.aclose()))
    await until(lambda: _is(gateway.services.is_draining))
    return task


async def _timed(ending):
    begun = time.monotonic()
    await ending
    return time.monotonic() - begun


async def _is(value):
    return value


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stream_that_outlasts_the_drain_ends_with_its_protocols_error(tmp_path, protocol):
    """It says that nothing was wrong with the request, and pays for what it was given."""
    ask = asked("endless", max_tokens=64_000)
    if protocol == "responses":
        ask = {"model": "endless", "stream": True, "input": "hello"}

    async def scenario():
        async with _to_be_stopped(tmp_path, config() + CUT_SOON) as (gateway, stop):
            client = gateway.client()
            async with client, client.stream("POST", PATHS[protocol], json=ask) as reply:
                pieces = reply.aiter_raw()
                received = await anext(pieces)
                stopping = await stop()
                async for piece in pieces:
                    received += piece
            return received, await stopping

    received, took_s = run(scenario)

    event, data = received.rstrip().rpartition(b"\n\n")[2].decode().split("data: ", 1)
    told = json.loads(data)
    if protocol == "anthropic":
        assert event == "event: error\n"
        assert told["error"] == {"type": "overloaded_error", "message": TOLD}
    elif protocol == "openai":
        assert event == ""
        assert (told["error"]["code"], told["error"]["message"]) == ("unavailable", TOLD)
        assert b"[DONE]" not in received
    else:
        assert event == "event: response.failed\n"
        assert told["response"]["error"]["message"] == TOLD
    (row,) = check_books(tmp_path)
    assert (row["state"], row["outcome"], row["error"]) == ("settled", "cancelled", "unavailable")
    assert row["cost_micros"] > 0
    assert took_s < 0.1 + AT_ONCE_S


@pytest.mark.parametrize("protocol", PATHS)
def test_who_waits_for_a_whole_answer_gets_a_503(tmp_path, protocol):
    async def scenario():
        async with recording(None) as upstream:
            text = config_for(upstream.url, more=CUT_SOON)
            async with _to_be_stopped(tmp_path, text) as (gateway, stop):
                client = gateway.client()
                ask = {**ASK, "input": "hello"} if protocol == "responses" else ASK
                asking = asyncio.create_task(client.post(PATHS[protocol], json=ask))
                await until(lambda: _is(upstream.open == 1))
                took_s = await (await stop())
                answer = await asking
                await client.aclose()
        return answer, took_s

    answer, took_s = run(scenario)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["connection"] == "close"
    assert answer.json()["error"]["message"] == TOLD
    assert took_s < 0.1 + AT_ONCE_S


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_slow_reader_gets_the_end_of_its_answer(tmp_path, scheme):
    """Although the gateway is done with it long before."""
    context = certify(tmp_path) if scheme == "https" else None
    text = config(models='  all: {targets: [{upstream: demo, model: "fault:big:3"}], free: true}')
    body = json.dumps(asked("all", max_tokens=64_000)).encode()

    async def scenario():
        options = {"server_hostname": "127.0.0.1"} if context else {}
        async with _to_be_stopped(tmp_path, text + (TLS if context else "")) as (gateway, stop):
            slow = _slow(gateway.url)
            reader, writer = await asyncio.open_connection(
                sock=slow, ssl=context, limit=8192, **options
            )
            writer.write(request("POST", "/v1/messages", body, x_api_key=gateway.secret))
            received = await reader.read(1000)
            stopping = await stop()
            while piece := await reader.read(65_536):
                received = (received + piece)[-100:]
                await asyncio.sleep(0.005)  # what makes it slow
            writer.transport.abort()
            await stopping
            return received

    assert run(scenario).endswith(b'{"type":"message_stop"}\n\n\r\n0\r\n\r\n')


def _slow(url):
    """A socket that takes little at once."""
    parts, slow = urlsplit(url), socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    slow.connect((parts.hostname, parts.port))
    slow.setblocking(False)
    return slow


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_who_is_doing_nothing_or_half_a_request_is_not_waited_for(tmp_path, scheme):
    """An idle connection, half a head, half a body: the last is told, all are closed."""
    context = certify(tmp_path) if scheme == "https" else None
    text = DEMO_CONFIG + (TLS if context else "")

    async def scenario():
        async with (
            _to_be_stopped(tmp_path, text) as (gateway, stop),
            wire(gateway.url, context) as silent,
            wire(gateway.url, context) as idle,
            wire(gateway.url, context) as head,
            wire(gateway.url, context) as body,
        ):
            await idle.ask(HEALTHZ)
            await head.send(HEALTHZ[:-2])
            post = request("POST", "/v1/messages", BODY, x_api_key=gateway.secret)
            await body.send(post[:-1])
            await until(lambda: _is(gateway.services.arriving))
            stopping = await stop()
            refused = await body.reply()
            body.writer.close()
            ends = [await each.end() for each in (silent, idle, head)]
            return refused, ends, await stopping

    refused, ends, took_s = run(scenario)

    assert check_refusal(refused, "anthropic", 503, "overloaded_error") == TOLD
    assert (refused.header("connection"), refused.header("retry-after")) == ("close", "5")
    assert ends == ["fin"] * 3
    assert took_s < AT_ONCE_S


def test_a_client_that_goes_on_with_its_body_holds_nobody_up_for_long(tmp_path):
    async def scenario():
        async with (
            _to_be_stopped(tmp_path, DEMO_CONFIG) as (gateway, stop),
            wire(gateway.url) as body,
        ):
            post = request("POST", "/v1/messages", BODY, x_api_key=gateway.secret)
            await body.send(post[:-1])
            await until(lambda: _is(gateway.services.arriving))
            return await (await stop())

    assert run(scenario) < 1 + AT_ONCE_S


def test_new_connections_are_answered_while_the_last_streams_run(tmp_path):
    """A load balancer sees the 503, a watchdog that all is well, a client when to come back."""
    text = config(
        models='  later: {targets: [{upstream: demo, model: "fault:stall:1"}], free: true}'
    )

    async def scenario():
        async with _to_be_stopped(tmp_path, text) as (gateway, stop):
            client = gateway.client()
            async with client, client.stream("POST", "/v1/messages", json=asked("later")) as reply:
                pieces = reply.aiter_raw()
                received = await anext(pieces)
                stopping = await stop()
                answers = []
                for path in ("/healthz", "/readyz", "/v1/messages", "/tenant/keys"):
                    method = "POST" if path == "/v1/messages" else "GET"
                    ask = request(method, path, BODY, x_api_key=gateway.secret)
                    async with wire(gateway.url) as connection:
                        answers.append((await connection.ask(ask), await connection.end()))
                async with wire(gateway.url) as late:
                    await late.send(READYZ[:-2])
                    async for piece in pieces:
                        received += piece
                    over = time.monotonic()
                    await stopping
                    return answers, await late.end(), received, time.monotonic() - over

    answers, late_end, received, lag_s = run(scenario)

    (health, _), (ready, _), (message, _), (keys, _) = answers
    assert (health.status, health.json()) == (200, {"status": "ok"})
    assert (ready.status, ready.json()) == (503, {"status": "draining"})
    assert check_refusal(message, "anthropic", 503, "overloaded_error") == TOLD
    assert check_refusal(keys, "openai", 503, "unavailable") == TOLD
    assert [reply.header("retry-after") for reply in (message, keys)] == ["5", "5"]
    assert {reply.header("connection") for reply, _ in answers} == {"close"}
    assert {end for _, end in answers} | {late_end} == {"fin"}
    assert b"\nevent: message_stop\n" in received
    assert lag_s < AT_ONCE_S


def test_a_client_that_reads_nothing_holds_nobody_up_for_long(tmp_path):
    """It cannot be told; its request is settled like the others."""
    text = config(models='  all: {targets: [{upstream: demo, model: "fault:big:64"}], free: true}')

    async def scenario():
        options = {"deadlines": Deadlines(tell_s=0.3)}
        async with _to_be_stopped(tmp_path, text + CUT_SOON, **options) as (gateway, stop):
            with closing(_slow(gateway.url)) as deaf:
                body = json.dumps(asked("all", max_tokens=64_000)).encode()
                deaf.sendall(request("POST", "/v1/messages", body, x_api_key=gateway.secret))
                await until(lambda: _has_stalled(gateway))
                return await (await stop())

    took_s = run(scenario)

    (row,) = check_books(tmp_path)
    assert (row["state"], row["outcome"]) == ("settled", "cancelled")
    assert took_s < 0.1 + 0.3 + 0.5 + AT_ONCE_S


async def _has_stalled(gateway):
    return any(not each._can_write.is_set() for each in gateway.running.connections)


def test_a_request_that_cannot_be_cut_does_not_keep_the_gateway_from_its_end(tmp_path, caplog):
    async def scenario():
        released = asyncio.Event()
        async with started(tmp_path, DEMO_CONFIG) as gateway:
            stubborn = asyncio.create_task(_hold_out(released))
            gateway.gateway.pumps.add(stubborn)
            took_s = await _timed(gateway.gateway.drain(0.05, cut_wait_s=0.1))
            is_over = stubborn.done()
            gateway.gateway.pumps.discard(stubborn)
            released.set()
            await stubborn
        return took_s, is_over

    took_s, is_over = run(scenario)

    assert not is_over
    assert 0.1 < took_s < 1
    assert "1 request did not end although cut" in caplog.text


async def _hold_out(released):
    while not released.is_set():
        try:
            await released.wait()
        except asyncio.CancelledError:
            continue


def test_a_row_that_was_left_open_is_settled_by_the_next_start(tmp_path):
    """Whatever came between it and its settlement, the process seemed to end well."""
    text = config_for("http://127.0.0.1:9")

    async def scenario():
        async with started(tmp_path, text) as gateway, gateway.client() as client:
            await client.post("/v1/messages", json=ASK)
            await gateway.services.store.write(
                lambda: Request.update(state="open", outcome=None).execute()
            )
        async with started(tmp_path, text) as again:
            return await again.rows()

    assert [(row["state"], row["outcome"]) for row in run(scenario)] == [("settled", "interrupted")]
