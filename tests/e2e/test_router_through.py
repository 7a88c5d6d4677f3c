"""Requests that fail at one place and are served at another: one answer, one row, one charge."""

import asyncio
import json
import re
from contextlib import AsyncExitStack

import pytest
from support.gateways import started
from support.priced import balance, check_books, prove, table
from support.raw_upstream import EVENTS, FIN, HANG, RST, chunked, upstream
from support.relays import BEGIN, CHECKS, FRAME, STREAMS
from support.responses_rules import check_responses_stream
from support.routed import (
    PATHS,
    USED,
    WHOLE,
    asked,
    idle,
    model,
    place,
    routed,
    tried,
)
from support.wires import http_answer, run, until

from server.protocols import Protocol
from server.protocols.by_protocol import PING

FAIL = http_answer(500, {"error": {"message": "its own words"}})
LIMITED = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
SAID = {  # inside of a 200
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"Overloaded"}}\n\n',
    "openai": b'data: {"error":{"message":"Overloaded","type":"server_error","code":503}}\n\n',
}
BOTH = pytest.mark.parametrize("protocol", PATHS)


def failures(protocol):
    """Give what a first place plays to a stream and to a whole request, and what is told of it."""
    torn = WHOLE[protocol][:-5]
    begun = [EVENTS, chunked(FRAME[protocol], end=b""), RST]
    said = [EVENTS, chunked(SAID[protocol])]
    return {
        "error": (FAIL, FAIL, "upstream_error"),
        "overloaded": (*[http_answer(529, LIMITED)] * 2, "overloaded"),
        "refused": (*[http_answer(401, LIMITED)] * 2, "upstream_error"),
        "limited": (*[http_answer(429, LIMITED, "retry-after: 30")] * 2, "rate_limited"),
        "silent": ([FIN], [RST], "upstream_error"),
        "cut": ([EVENTS, FIN], [torn, FIN], "upstream_error"),
        "said": (said, http_answer(503, LIMITED), "overloaded"),
        "begun": (begun, [torn, RST], "upstream_error"),
    }


def _answer_of(protocol):
    """Answer a stream with a stream, and all else whole."""
    return [EVENTS, chunked(STREAMS[protocol])]


def _same(body):
    """Leave out what tells two translations of one answer apart."""
    return re.sub(rb'[0-9a-f]{40,}|"created":\d+|"model":"\w+-\w+s"', b"", body)


async def _fail_and_serve(folder, client_protocol, first, second):
    """Ask for each failure, and for what serves it alone, as a stream and whole."""
    scripts = failures(first)
    async with AsyncExitStack() as stack:
        behind = {
            "streams": await stack.enter_async_context(upstream(_answer_of(second))),
            "wholes": await stack.enter_async_context(upstream(WHOLE[second])),
        }
        servers = {
            name: await stack.enter_async_context(upstream(*played))
            for name, (*played, _) in scripts.items()
        }
        urls = {name: server.url for name, server in servers.items()}
        urls["closed"] = "http://127.0.0.1:1"
        places = [place(name, url, first) for name, url in urls.items()]
        places += [place(name, server.url, second) for name, server in behind.items()]
        models = [model(f"alone-{back}", back) for back in behind]
        models += [model(f"{name}-{back}", name, back) for name in urls for back in behind]
        gateway = await stack.enter_async_context(started(folder, routed(places, models)))
        client = await stack.enter_async_context(gateway.client())
        replies = {}
        for stream, back in ((True, "streams"), (False, "wholes")):
            for name in ("alone", *urls):
                ask = asked(model=f"{name}-{back}", stream=stream)
                replies[name, stream] = await client.post(PATHS[client_protocol], json=ask)
        await idle(gateway)
        return replies, {name: len(server.requests) for name, server in servers.items()}


@pytest.mark.parametrize("second", PATHS)
@pytest.mark.parametrize("first", PATHS)
@BOTH
def test_what_fails_before_content_is_served_elsewhere_as_if_nothing_had_been(
    tmp_path, protocol, first, second
):
    replies, calls = run(lambda: _fail_and_serve(tmp_path, protocol, first, second))

    rows = check_books(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    # A place that wants to be left alone for a while is, where there is another.
    assert calls == {name: 1 if name == "limited" else 2 for name in calls}
    assert len(rows) == len(lines) == len(replies)
    reasons = {name: told for name, (*_, told) in failures(first).items()}
    for (name, stream), reply, row, line in zip(
        replies, replies.values(), rows, lines, strict=True
    ):
        alone, back = replies["alone", stream], "streams" if stream else "wholes"
        assert (reply.status_code, _same(reply.content)) == (200, _same(alone.content)), name
        if second == protocol:
            assert reply.content == (STREAMS[protocol] if stream else _body(WHOLE[second]))
        if stream:
            CHECKS[protocol](reply.content)
            start = b"event: message_start\n" if protocol == "anthropic" else b'"role":"assistant"'
            assert reply.content.count(start) == 1
        was_first = name == "alone" or (name == "limited" and not stream)
        told = [(name, 1, reasons.get(name, "upstream_error")), (back, 1, None)]
        assert tried(row) == (None if was_first else told)
        assert line.get("tried") == (None if was_first else json.loads(row["attempts"]))
        assert line["attempts"] == (1 if was_first else 2)
        assert (row["outcome"], row["upstream"], row["estimated"]) == ("completed", back, 0)
        used = USED[second] if stream else (7, 3)
        assert (row["input_tokens"], row["output_tokens"]) == used
        assert row["cost_micros"] == rows[0 if stream else len(rows) // 2]["cost_micros"] > 0
    charges = table(tmp_path, "SELECT ref FROM entry WHERE kind = 'charge'")
    assert [each["ref"] for each in charges] == [row["request_id"] for row in rows]
    prove(tmp_path)


def _body(answer):
    return answer.partition(b"\r\n\r\n")[2]


def _two(first, second, protocol="anthropic", more="", **routing):
    places = [place("one", first.url, protocol), place("two", second.url, protocol)]
    return routed(places, [model("smart", "one", "two")], more, **routing)


@BOTH
@pytest.mark.parametrize("end", [FIN, RST])
def test_what_fails_behind_its_first_content_ends_with_an_error_and_is_asked_once(
    tmp_path, protocol, end
):
    async def scenario():
        async with (
            upstream([EVENTS, chunked(BEGIN[protocol], end=b""), 0.05, end]) as first,
            upstream(_answer_of(protocol)) as second,
            started(tmp_path, _two(first, second, protocol)) as gateway,
            gateway.client() as client,
        ):
            reply = await client.post(PATHS[protocol], json=asked(stream=True))
            await idle(gateway)
            return reply.content, len(first.requests), len(second.requests)

    content, *calls = run(scenario)

    assert content.startswith(BEGIN[protocol])
    rest = content.removeprefix(BEGIN[protocol])
    begins = {"anthropic": b"event: error\ndata: ", "openai": b"data: "}[protocol]
    assert rest.startswith(begins)
    assert rest.count(b"\n\n") == 1
    assert json.loads(rest.removeprefix(begins))["error"]["message"]
    assert calls == [1, 0]
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["upstream"], row["attempts"]) == ("upstream_error", "one", None)
    assert row["cost_micros"] > 0
    prove(tmp_path)


@BOTH
def test_a_client_is_given_pings_of_a_failed_attempt_and_nothing_else(tmp_path, protocol):
    ping = PING[Protocol(protocol)]

    async def scenario():
        go = asyncio.Event()
        async with (
            upstream([EVENTS, chunked(FRAME[protocol], end=b""), go, RST]) as first,
            upstream(_answer_of(protocol)) as second,
            started(tmp_path, _two(first, second, protocol)) as gateway,
            gateway.client() as client,
        ):
            gateway.gateway.ping_after_s, got = 0.03, b""
            ask = asked(stream=True)
            async with client.stream("POST", PATHS[protocol], json=ask) as reply:
                async for piece in reply.aiter_raw():
                    got += piece
                    if got.count(ping) == 2:
                        go.set()
            await idle(gateway)
            return got

    got = run(scenario)

    pings, begun = got[: -len(STREAMS[protocol])], got[-len(STREAMS[protocol]) :]
    assert begun == STREAMS[protocol]
    assert pings == ping * (len(pings) // len(ping))
    (row,) = check_books(tmp_path)
    assert tried(row) == [("one", 1, "upstream_error"), ("two", 1, None)]


@BOTH
def test_what_fails_everywhere_behind_a_ping_ends_with_one_error(tmp_path, protocol):
    ping = PING[Protocol(protocol)]

    async def scenario():
        go = asyncio.Event()
        async with (
            upstream([EVENTS, chunked(FRAME[protocol], end=b""), go, RST]) as first,
            upstream(FAIL) as second,
            started(tmp_path, _two(first, second, protocol)) as gateway,
            gateway.client() as client,
        ):
            gateway.gateway.ping_after_s, got = 0.03, b""
            ask = asked(stream=True)
            async with client.stream("POST", PATHS[protocol], json=ask) as reply:
                async for piece in reply.aiter_raw():
                    got += piece
                    go.set()
            await idle(gateway)
            return got, [len(first.requests), len(second.requests)]

    got, calls = run(scenario)

    assert sum(calls) == 3
    begins = {"anthropic": b"event: error\ndata: ", "openai": b"data: "}[protocol]
    said = got.replace(ping, b"")
    assert (said.count(b"\n\n"), got.startswith(ping), got.endswith(said)) == (1, True, True)
    assert json.loads(said.removeprefix(begins))["error"]["message"]
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["status"], len(tried(row))) == ("upstream_error", 200, 3)
    prove(tmp_path)


@pytest.mark.parametrize("second", PATHS)
@pytest.mark.parametrize("first", PATHS)
def test_a_client_of_responses_is_served_elsewhere_too(tmp_path, first, second):
    async def scenario():
        async with (
            upstream([EVENTS, chunked(FRAME[first], end=b""), RST]) as one,
            upstream(_answer_of(second)) as two,
        ):
            places = [place("one", one.url, first), place("two", two.url, second)]
            config = routed(places, [model("smart", "one", "two")])
            async with started(tmp_path, config) as gateway, gateway.client() as client:
                ask = {"model": "smart", "input": "hello", "stream": True}
                reply = await client.post("/v1/responses", json=ask)
                await idle(gateway)
                return reply.content

    content = run(scenario)

    check_responses_stream(content)
    assert content.count(b"event: response.created\n") == 1
    (row,) = check_books(tmp_path)
    assert tried(row) == [("one", 1, "upstream_error"), ("two", 1, None)]
    assert (row["input_tokens"], row["output_tokens"]) == USED[second]
    prove(tmp_path)


@BOTH
def test_a_providers_limit_is_passed_on_where_there_is_no_other_place(tmp_path, protocol):
    async def scenario():
        limits = ("retry-after: 30", "x-ratelimit-remaining-requests: 0")
        async with upstream(http_answer(429, LIMITED, *limits)) as there:
            config = routed([place("one", there.url, protocol)], [model("smart", "one")])
            async with started(tmp_path, config) as gateway, gateway.client() as client:
                reply = await client.post(PATHS[protocol], json=asked())
                await idle(gateway)
                return reply, len(there.requests)

    reply, calls = run(scenario)

    assert (reply.status_code, reply.headers["retry-after"], calls) == (429, "30", 1)
    assert reply.json()["error"]["message"] == "slow down"
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["cost_micros"], row["error"]) == (
        "upstream_error",
        0,
        "rate_limited",
    )


@pytest.mark.parametrize("policy", ["cancel", "drain"])
def test_a_client_that_leaves_during_the_backoff_owes_nothing(tmp_path, policy):
    async def scenario():
        async with upstream(FAIL) as there:
            config = routed(
                [place("one", there.url)],
                [model("smart", "one")],
                f"billing: {{on_disconnect: {policy}}}\n",
                backoff_s=1.5,
                longest_backoff_s=1.5,
            )
            async with started(tmp_path, config) as gateway, gateway.client() as client:
                asking = asyncio.create_task(client.post(PATHS["anthropic"], json=asked()))

                async def has_failed():
                    return [name for name, each in _breakers(gateway) if each.failures_in_a_row]

                await until(has_failed)
                asking.cancel()
                await asyncio.wait([asking])
                await idle(gateway)
                return len(there.requests), await balance(gateway)

    calls, left = run(scenario)

    (row,) = check_books(tmp_path)
    assert (row["cost_micros"], left.held_micros, calls) == (0, 0, 1)
    assert (row["outcome"], row["output_tokens"]) == ("cancelled", 0)
    [(where, _, problem)] = tried(row)
    assert where == "one"
    assert problem is not None  # though nobody was told
    prove(tmp_path)


def _breakers(gateway):
    return gateway.gateway.router.breakers()


@pytest.mark.parametrize("streamed", [True, False])
def test_nothing_is_asked_for_again_for_a_client_that_has_gone(tmp_path, streamed):
    """With `drain` an answer is waited for, as it has to be paid; another would be for nobody."""

    async def scenario():
        go = asyncio.Event()
        async with (
            upstream([go, FAIL]) as first,
            upstream(_answer_of("anthropic")) as second,
            started(tmp_path, _two(first, second, more="billing: {on_disconnect: drain}\n")) as gw,
            gw.client() as client,
        ):
            ask = asked(stream=streamed)
            asking = asyncio.create_task(client.post(PATHS["anthropic"], json=ask))

            async def is_asked():
                return first.requests

            async def is_left():
                return not gw.running.connections

            await until(is_asked)
            asking.cancel()
            await asyncio.wait([asking])
            await until(is_left)
            go.set()
            await idle(gw)
            return len(first.requests), len(second.requests)

    calls = run(scenario)

    assert calls == (1, 0)
    (row,) = check_books(tmp_path)
    assert (row["error"], row["upstream"], row["cost_micros"]) == ("upstream_error", "one", 0)
    prove(tmp_path)


def test_a_client_that_leaves_a_second_place_pays_for_what_that_one_gave(tmp_path):
    """Its outcome is the second attempt's: the first one's failure is not charged."""

    async def scenario():
        async with (
            upstream([EVENTS, chunked(FRAME["anthropic"], end=b""), RST]) as first,
            upstream([EVENTS, chunked(BEGIN["anthropic"], end=b""), HANG]) as second,
            started(tmp_path, _two(first, second)) as gateway,
            gateway.client() as client,
        ):
            ask = asked(stream=True)
            async with client.stream("POST", PATHS["anthropic"], json=ask) as reply:
                await anext(reply.aiter_raw())
            await idle(gateway)

    run(scenario)

    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["upstream"], row["input_tokens"]) == ("cancelled", "two", 25)
    assert 0 < row["output_tokens"] < 42
    assert [where for where, *_ in tried(row)] == ["one", "two"]
    prove(tmp_path)
