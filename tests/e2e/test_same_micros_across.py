"""What the same tokens cost and how they are held, whichever two protocols meet."""

import asyncio
import json
from contextlib import asynccontextmanager
from itertools import product

import pytest
from support.gateways import started
from support.priced import CLASSES, HELLO, balance, check_books, settled
from support.raw_upstream import EVENTS, HANG, chunked, until, upstream
from support.same_usage import CHAT_USAGE, EVENTS_OF, MICROS, PRICE, TOKENS, answers
from support.wires import run

SLICE = 4096
GROWTH = 50  # deltas of 200 bytes, 50 tokens each: more than half of a slice
SPOKEN = ("anthropic", "openai")
FLAT = {"type": "function", "name": "Read", "parameters": {"type": "object"}}
BARE = {"name": "Read", "input_schema": {"type": "object"}}
SAID = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
USED = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
HAD = [
    {"role": "user", "content": "read it"},
    {"role": "assistant", "content": [USED]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "ok"}]},
]
CURSOR = "/cursor/v1/chat/completions"
# Each client's path, the body that it sends, and how it names its limit of output.
CLIENTS = {
    "messages": ("/v1/messages", {"messages": HELLO}, "max_tokens"),
    "chat": ("/v1/chat/completions", {"messages": HELLO}, "max_completion_tokens"),
    "responses": ("/v1/responses", {"input": "hello"}, "max_output_tokens"),
    "cursor chat": (CURSOR, {"messages": HELLO}, "max_tokens"),
    "cursor input": (CURSOR, {"input": SAID, "tools": [FLAT]}, "max_output_tokens"),
    "cursor blocks": (CURSOR, {"messages": HAD, "tools": [BARE]}, "max_tokens"),
}
FORMS = {  # stream, and the limit of output: above a slice, what is whole is gathered
    "streamed": (True, 300),
    "whole": (False, 300),
    "gathered": (False, 20_000),
}
COUNTED = {
    "input": 25 + 2001 + 61,
    "read": 2001,
    "written": 61,
    "output": 43,
    "thought": 7,
}

on_both = pytest.mark.parametrize("spoken", SPOKEN)
on_each = pytest.mark.parametrize("client_of", ["messages", "responses"])


def _config(url, *, billing=f"{{hold_slice_tokens: {SLICE}}}", compat="{}", per_request=""):
    models = "".join(
        f"  {spoken}: {{targets: [{{upstream: {spoken}, model: m}}], price: {price}}}\n"
        for spoken in SPOKEN
        for price in [PRICE.removesuffix("}") + per_request + "}"]
    )
    return f"""
upstreams:
  anthropic: {{protocol: anthropic, base_url: "{url}", api_key: "sk-fake-upstream-key"}}
  openai: {{protocol: openai, base_url: "{url}", api_key: "sk-fake-upstream-key", compat: {compat}}}
models:
{models}
billing: {billing}
"""


def _asked(client_of, spoken, form, **more):
    path, body, limit = CLIENTS[client_of]
    stream, tokens = FORMS[form]
    asked = {"model": spoken, "stream": stream, limit: tokens, **body, **more}
    if stream and "chat" in path:
        asked["stream_options"] = {"include_usage": True}
    return path, asked


def _told(client_of, reply):
    """Give the usage that a client was told, in one manner for all."""
    told = _usage(reply)
    if client_of == "messages":
        read, written = told["cache_read_input_tokens"], told["cache_creation_input_tokens"]
        return {
            "input": told["input_tokens"] + read + written,
            "read": read,
            "written": written,
            "output": told["output_tokens"],
            "thought": told["output_tokens_details"]["thinking_tokens"],
        }
    names = ("input", "output") if client_of == "responses" else ("prompt", "completion")
    input_of, output_of = (told[f"{name}_tokens_details"] for name in names)
    assert told["total_tokens"] == sum(told[f"{name}_tokens"] for name in names)
    return {
        "input": told[f"{names[0]}_tokens"],
        "read": input_of["cached_tokens"],
        "written": input_of["cache_write_tokens"],
        "output": told[f"{names[1]}_tokens"],
        "thought": output_of["reasoning_tokens"],
    }


def _usage(reply):
    if "event-stream" not in reply.headers["content-type"]:
        return reply.json()["usage"]
    usage = {}
    for line in reply.text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            inner = event.get("message") or event.get("response") or event
            usage |= inner.get("usage") or {}
    return usage


def _exchange(folder, scripts, calls, **config):
    """Make one call after the other; give the replies, and the bodies that left."""

    async def scenario():
        async with (
            upstream(*scripts) as there,
            started(folder, _config(there.url, **config), usd=5) as gateway,
            gateway.client() as client,
        ):
            replies = [await client.post(path, json=asked) for path, asked in calls]
            await settled(gateway)
            return replies, [json.loads(body) for _, body in there.requests]

    replies, sent = run(scenario)
    assert {reply.status_code for reply in replies} == {200}
    return replies, sent


@on_both
def test_the_same_usage_is_the_same_micros_and_told_as_it_is_billed(tmp_path, spoken):
    given, ways = answers(), list(product(CLIENTS, FORMS))
    scripts = [given[spoken, form != "whole"] for _, form in ways]

    replies, sent = _exchange(
        tmp_path, scripts, [_asked(each, spoken, form) for each, form in ways]
    )

    rows = check_books(tmp_path)
    for (client_of, form), row, reply, body in zip(ways, rows, replies, sent, strict=True):
        assert {each: row[each] for each in CLASSES} == TOKENS, (client_of, form)
        assert (row["cost_micros"], row["estimated"], row["outcome"]) == (MICROS, 0, "completed")
        assert bool(row["stream"]) is (form == "streamed")
        assert bool(body.get("stream")) is (form != "whole")
        assert _told(client_of, reply) == COUNTED, (client_of, form)


@asynccontextmanager
async def _gathering(folder, script, client_of, spoken, **config):
    """Ask for a gathered call; give its gateway and upstream, its task, and what it holds first."""
    async with (
        upstream(script) as there,
        started(folder, _config(there.url, **config), usd=50) as gateway,
        gateway.client() as client,
    ):
        path, asked = _asked(client_of, spoken, "gathered")
        asking = asyncio.create_task(client.post(path, json=asked))
        await until(lambda: there.requests)
        yield gateway, there, asking, (await balance(gateway)).held_micros


@on_both
@on_each
def test_a_gathered_call_is_held_like_the_stream_that_it_is(tmp_path, client_of, spoken):
    """A slice of output at first, and never the worst case: the hold follows what comes."""
    events = EVENTS_OF[spoken]()

    async def scenario():
        begin, go, end = (asyncio.Event() for _ in range(3))
        script = [EVENTS, begin, chunked(*_long_start(events, spoken), end=b"")]
        script += [go, chunked(*_grown(events, spoken) * 2, end=b""), end]
        script += [chunked(*events[_opened(spoken) :])]
        async with _gathering(tmp_path, script, client_of, spoken) as (
            gateway,
            there,
            asking,
            first,
        ):
            held = [first]
            for event in (begin, go):
                event.set()
                held.append(await _more_than(gateway, held[-1]))
            end.set()
            assert (await asking).status_code == 200
            await settled(gateway)
            return held, there.requests[0][1]

    (first, *grown), sent = run(scenario)

    estimate = len(sent) * 5 // 16 + 1
    assert first == -(-(estimate * 5_070_000 + SLICE * 20_030_000) // 1_000_000)
    assert grown[-1] < 20_000 * 20
    (row,) = check_books(tmp_path)
    assert (row["cost_micros"], row["held_micros"]) == (MICROS, grown[-1])


def _opened(spoken):
    """Tell how many events come before the first delta."""
    return 2 if spoken == "anthropic" else 0


def _long_start(events, spoken):
    return [*events[: _opened(spoken)], *_grown(events, spoken)]


def _grown(events, spoken):
    """Give deltas that are long enough for the hold to grow."""
    delta = events[_opened(spoken)].replace(b'"hello"', b'"%b"' % (b"x" * 200))
    return [delta] * GROWTH


async def _more_than(gateway, micros):
    for _ in range(400):
        held = (await balance(gateway)).held_micros
        if held > micros:
            return held
        await asyncio.sleep(0.01)
    raise AssertionError("the hold did not grow")


@on_both
@on_each
def test_a_strict_hold_covers_all_that_a_gathered_call_may_cost(tmp_path, client_of, spoken):
    events = EVENTS_OF[spoken]()

    async def scenario():
        go = asyncio.Event()
        script = [EVENTS, chunked(events[0], end=b""), go, chunked(*events[1:])]
        strict = f"{{hold: strict, hold_slice_tokens: {SLICE}}}"
        async with _gathering(tmp_path, script, client_of, spoken, billing=strict) as (
            gateway,
            there,
            asking,
            held,
        ):
            go.set()
            assert (await asking).status_code == 200
            await settled(gateway)
            return held, there.requests[0][1]

    held, sent = run(scenario)

    assert json.loads(sent)["stream"] is True
    assert held >= 20_000 * 20_030_000 // 1_000_000 + len(sent) * 8_090_000 // 1_000_000
    (row,) = check_books(tmp_path)
    assert (row["cost_micros"], row["held_micros"]) == (MICROS, held)


@on_both
@on_each
def test_a_gathered_call_that_nobody_waits_for_is_billed_for_what_came(tmp_path, client_of, spoken):
    events = EVENTS_OF[spoken]()

    async def scenario():
        begin = asyncio.Event()
        script = [EVENTS, begin, chunked(*_long_start(events, spoken), end=b""), HANG]
        async with _gathering(tmp_path, script, client_of, spoken) as (
            gateway,
            there,
            asking,
            held,
        ):
            begin.set()
            await _more_than(gateway, held)
            asking.cancel()
            await asyncio.wait([asking])
            await settled(gateway)
            await until(lambda: there.open == 0)

    run(scenario)

    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["estimated"]) == ("cancelled", 1)
    assert GROWTH * 50 <= row["output_tokens"] <= GROWTH * 60
    assert row["input_tokens"] > 0
    if spoken == "anthropic":  # it says so at once
        assert {name: row[name] for name in TOKENS if name != "output_tokens"} == {
            name: count for name, count in TOKENS.items() if name != "output_tokens"
        }


@on_both
def test_a_provider_may_answer_a_gathered_call_in_one_piece(tmp_path, spoken):
    """Some compatible servers pass over `stream`; the client never asked for one."""
    calls = [_asked(client_of, spoken, "gathered") for client_of in CLIENTS]

    replies, sent = _exchange(tmp_path, answers()[spoken, False], calls)

    assert {body["stream"] for body in sent} == {True}
    for client_of, reply, row in zip(CLIENTS, replies, check_books(tmp_path), strict=True):
        assert _told(client_of, reply) == COUNTED, client_of
        assert (row["cost_micros"], row["estimated"]) == (MICROS, 0)


def test_a_server_without_usage_in_streams_is_never_gathered(tmp_path):
    """Its streams are estimated, and the row says so; what is whole stays whole, and exact."""
    usage = json.dumps(CHAT_USAGE).encode()
    stream = [EVENTS, chunked(*(each for each in EVENTS_OF["openai"]() if usage not in each))]
    calls = [_asked(*way) for way in product(CLIENTS, ["openai"], ["gathered", "streamed"])]
    scripts = [answers()["openai", False], stream] * len(CLIENTS)

    _, sent = _exchange(tmp_path, scripts, calls, compat="{stream_usage: false}")

    rows = check_books(tmp_path)
    for body, row in zip(sent[::2], rows[::2], strict=True):
        assert not body.get("stream")
        assert (row["cost_micros"], row["estimated"]) == (MICROS, 0)
    for body, row in zip(sent[1::2], rows[1::2], strict=True):
        assert (body["stream"], "stream_options" in body) == (True, False)
        assert (row["estimated"], row["cost_micros"] > 0) == (1, True)


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
TOOL = {"name": "Read", "input_schema": {"type": "object"}}
HOSTED = {"type": "web_search"}
SEARCHES = {
    "messages": ("/v1/messages", {"messages": HELLO, "tools": [TOOL, SEARCH]}),
    "responses": ("/v1/responses", {"input": "hello", "tools": [FLAT, HOSTED]}),
    "cursor": (CURSOR, {"input": SAID, "tools": [FLAT, HOSTED]}),
}


@pytest.mark.parametrize("per_request", ["", ', per_request: {web_search: "1.00"}'])
def test_a_server_tool_that_does_not_leave_is_neither_priced_nor_held_nor_refused(
    tmp_path, per_request
):
    """What a request asks for beyond tokens is read from what leaves."""
    limits = {"model": "openai", "max_tokens": 300, "max_output_tokens": 300}
    calls = [(path, {**limits, **asked}) for path, asked in SEARCHES.values()]

    _, sent = _exchange(tmp_path, answers()["openai", False], calls, per_request=per_request)

    for body, row in zip(sent, check_books(tmp_path), strict=True):
        assert [tool["function"]["name"] for tool in body["tools"]] == ["Read"]
        assert (row["cost_micros"], row["extras"]) == (MICROS, None)
        assert row["held_micros"] < 1_000_000  # one search


def test_a_server_tool_that_does_leave_is_refused_where_it_has_no_price(tmp_path):
    async def scenario():
        async with (
            upstream(answers()["anthropic", False]) as there,
            started(tmp_path, _config(there.url), usd=5) as gateway,
            gateway.client() as client,
        ):
            asked = {"model": "anthropic", "max_tokens": 300, **SEARCHES["messages"][1]}
            reply = await client.post("/v1/messages", json=asked)
            return reply, there.requests

    reply, requests = run(scenario)

    assert (reply.status_code, requests) == (400, [])
    assert "web_search" in reply.json()["error"]["message"]
