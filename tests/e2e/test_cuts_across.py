"""Translated streams, and answers gathered from streams, that somebody cuts short.

By us, where the balance runs out: the answer ends as if the model had reached its limit. By the
client, that hangs up. By the end of the process, whose patience is bounded.
"""

import asyncio
import json

import httpx
import pytest
from support.across import (
    EVERY_WAY,
    PATHS,
    WAYS,
    asking,
    crossing,
    has_fake_end,
    output_tokens_of,
    said,
    stop_of,
    text_of,
)
from support.gateways import started
from support.priced import balance, check_books, give_micros, settled
from support.raw_upstream import until
from support.wires import run

from server.billing import ledger
from server.upstream import demo

LIMITED = {"anthropic": "max_tokens", "openai": "length", "responses": "max_output_tokens"}
FORMS = [(*way, True) for way in WAYS] + [(*way, False) for way in EVERY_WAY]
in_every_form = pytest.mark.parametrize(("client", "spoken", "stream"), FORMS)
DELTAS = (b'"text_delta"', b'"content":"', b"event: response.output_text.delta")
TARGETS = {"endless": "fault:endless:1", "demo": "demo-smart"}


async def staged(folder, scenario, *, usd=5, pace=None, billing="{}"):
    """Run `scenario(gateway, client, upstream)`; give its result and the rows."""
    options = demo.DemoOptions(pace_words_per_s=pace)
    server = await demo.start("127.0.0.1", 0, options=options)
    text = crossing(server.url, TARGETS, billing=billing)
    try:
        async with started(folder, text, usd=usd) as gateway:
            async with gateway.client() as client:
                result = await scenario(gateway, client, server)
            rows = await settled(gateway)
            await until(lambda: server.journal.open == 0)
            assert gateway.gateway.upstream.pool.busy_count == 0
            left = await balance(gateway)
        return result, rows, [*server.journal.entries], left
    finally:
        await server.close()


@in_every_form
def test_an_answer_whose_balance_runs_out_ends_as_if_at_its_token_limit(
    tmp_path, client, spoken, stream
):
    async def scenario(gateway, http, _):
        await give_micros(gateway, 12_000)  # 600 tokens of output, less the input
        ask = asking(client, f"endless-{spoken}", stream=stream, limit=64_000)
        return await http.post(PATHS[client], json=ask), await http.post(PATHS[client], json=ask)

    billing = "{hold_slice_tokens: 128, min_output_tokens: 64}"
    (reply, refused), rows, _, left = run(
        lambda: staged(tmp_path, scenario, usd=0, billing=billing)
    )

    assert reply.status_code == 200
    answer = said(client, reply.content, stream=stream)
    row = rows[0]
    assert answer.get("error") is None
    assert stop_of(answer) == LIMITED[client]
    assert text_of(answer).count(" ") > 150
    assert (row["outcome"], row["status"]) == ("cut", 200)
    assert row["stop_reason"] == ("max_tokens" if spoken == "anthropic" else "length")
    assert output_tokens_of(answer) == row["output_tokens"] > 300
    assert max(0, row["cost_micros"] - row["held_micros"]) < 64 * 20  # some tokens, not slices
    assert left == ledger.Balance(12_000 - row["cost_micros"], 0)
    assert refused.status_code == 402
    check_books(tmp_path)


@pytest.mark.parametrize("policy", ["cancel", "drain"])
def test_clients_that_hang_up_pay_for_what_they_got_or_for_the_whole(tmp_path, policy):
    async def scenario(_, http, upstream):
        await asyncio.gather(*(_visit(http, upstream, *form) for form in FORMS))

    billing = f"{{on_disconnect: {policy}}}"
    _, rows, entries, left = run(lambda: staged(tmp_path, scenario, pace=100, billing=billing))

    calls = {entry.request_id: entry for entry in entries}
    assert len(rows) == len(calls) == len(FORMS)
    assert {(row["state"], row["outcome"]) for row in rows} == {("settled", "cancelled")}
    assert left == ledger.Balance(5_000_000 - sum(row["cost_micros"] for row in rows), 0)
    for row in rows:
        entry = calls[row["request_id"]]
        assert row["cost_micros"] > 0
        if policy == "drain":
            assert entry.outcome == "completed"
            assert (row["output_tokens"], row["estimated"]) == (entry.usage.output_tokens, False)
        else:
            assert (entry.outcome, row["estimated"]) == ("client_gone", True)
    check_books(tmp_path)


async def _visit(http, upstream, client, spoken, stream):
    """Leave in the middle of an answer."""
    ask = asking(client, f"demo-{spoken}", stream=stream, limit=20_000)
    if stream:
        async with http.stream("POST", PATHS[client], json=ask) as reply:
            await _some(reply)
        return
    asked = asyncio.create_task(http.post(PATHS[client], json=ask))
    await until(lambda: _has_all_begun(upstream))
    asked.cancel()
    await asyncio.wait([asked])


async def _some(reply):
    """Read until there is something of the answer, in any protocol."""
    body = b""
    async for piece in reply.aiter_raw():
        body += piece
        if max(body.count(mark) for mark in DELTAS) > 3:
            return
    raise AssertionError("nothing came")


def _has_all_begun(upstream):
    entries = upstream.journal.entries
    return len(entries) == len(FORMS) and all(entry.events > 2 for entry in entries)


ERRORS = {
    "anthropic": b"\nevent: error\n",
    "openai": b'\ndata: {"error":',
    "responses": b"\nevent: response.failed\n",
}


def test_the_end_of_the_process_leaves_nothing_that_anybody_takes_for_whole(tmp_path):
    """Whoever waits is told to send it again: by an event, or by a 503."""

    async def scenario():
        server = await demo.start("127.0.0.1", 0, options=demo.DemoOptions())
        text = crossing(server.url, TARGETS, more="server: {drain_s: 0.2}\n")
        try:
            async with started(tmp_path, text, usd=5) as gateway:
                http = gateway.client()
                visits = [asyncio.create_task(_stay(http, *form)) for form in FORMS]
                await until(lambda: _has_all_begun(server))
            found = await asyncio.gather(*visits)
            await http.aclose()
            await until(lambda: server.journal.open == 0)
        finally:
            await server.close()
        return found

    found = run(scenario)

    for (client, _, stream), (reply, body, is_cut) in zip(FORMS, found, strict=True):
        assert not is_cut
        assert b"The gateway is restarting; send the request again." in body
        if stream:
            assert not has_fake_end(client, body)
            assert ERRORS[client] in body
            continue
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        error = json.loads(body)["error"]
        assert error["message"]
        assert (error.get("code") or error["type"]) in ("unavailable", "overloaded_error")
    rows = check_books(tmp_path)
    assert {(row["state"], row["outcome"]) for row in rows} == {("settled", "cancelled")}
    assert all(row["cost_micros"] > 0 for row in rows)


async def _stay(http, client, spoken, stream):
    """Read until it ends; tell whether it was cut."""
    ask, body = asking(client, f"endless-{spoken}", stream=stream, limit=20_000), b""
    async with http.stream("POST", PATHS[client], json=ask) as reply:
        try:
            async for piece in reply.aiter_raw():
                body += piece
        except httpx.RemoteProtocolError:
            return reply, body, True
    return reply, body, False
