"""A database that cannot be written: new requests are told so, running ones are settled later."""

import asyncio
import json
import resource
import sys
import threading
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from support.gateways import started
from support.locks import locked
from support.priced import (
    CHECK,
    PATHS,
    asked,
    balance,
    check_books,
    config,
    prepare_money,
    priced,
    process,
    prove,
    settled,
)
from support.wires import check_refusal, request, run, until, wire

from server.store import models
from server.tenants import keys
from server.upstream.demo import DemoOptions

MODELS = priced("demo", "demo")
TIERS = "{team: {name: Team, price_cents: 0, quota_tokens: 100000000}}"
SMALL_SLICES = config(models=MODELS, billing="{hold_slice_tokens: 16, min_output_tokens: 1}")
KINDS = {"anthropic": "overloaded_error", "openai": "unavailable"}
BODY = json.dumps(asked("demo", stream=False, max_tokens=10)).encode()
READ_ONLY, WRITABLE = "PRAGMA query_only = 1", "PRAGMA query_only = 0"


async def _pragma(gateway, words):
    """Tell the writer's own connection something; give the connection.

    Not in a job: the jobs that share its transaction would fail, and it with them.
    """
    connection = await gateway.services.store.write(models.database.connection)
    connection.execute(words).close()
    return connection


@asynccontextmanager
async def _read_only(gateway):
    """Let SQLite refuse every write of the gateway."""
    connection = await _pragma(gateway, READ_ONLY)
    try:
        yield
    finally:
        connection.execute(WRITABLE).close()


@asynccontextmanager
async def _locked(gateway):
    """Let another process keep every writer out."""
    async with locked(gateway.folder / "gateway.db"):
        yield


@asynccontextmanager
async def _locked_for_longer_than_anyone_waits(gateway):
    await _pragma(gateway, "PRAGMA busy_timeout = 100")
    async with _locked(gateway):
        yield


@pytest.mark.parametrize(("protocol", "outage"), [("anthropic", _read_only), ("openai", _locked)])
def test_a_stream_whose_hold_cannot_be_grown_waits_and_goes_on(tmp_path, protocol, outage):
    """It has money enough: that the database is away for a moment does not end its answer."""

    async def scenario():
        paced = DemoOptions(pace_words_per_s=200)
        async with started(tmp_path, SMALL_SLICES, usd=5, demo_options=paced) as gateway:
            async with gateway.client() as client:
                body, got = asked("demo", max_tokens=100), b""
                async with client.stream("POST", PATHS[protocol], json=body) as reply:
                    pieces = reply.aiter_bytes()
                    got += await anext(pieces)
                    async with outage(gateway):
                        await asyncio.sleep(0.8)
                    async for piece in pieces:
                        got += piece
            await settled(gateway)
            return got, [*gateway.running.demo.journal.entries]

    got, (call,) = run(scenario)

    assert CHECK[protocol](got).error is None
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["estimated"]) == ("completed", 0)
    assert row["output_tokens"] == call.usage.output_tokens


def test_an_outage_that_lasts_ends_what_needs_a_larger_hold(tmp_path):
    """A stream ends as if at its token limit. What has not begun is a 503, and never a 402."""

    async def scenario():
        async with started(tmp_path, SMALL_SLICES, usd=5) as gateway:
            async with gateway.client() as client:
                asking = [
                    asyncio.create_task(
                        client.post(PATHS[protocol], json=asked(model, max_tokens=9_000))
                    )
                    for protocol in PATHS
                    for model in ("endless", "slow")
                ]
                await until(lambda: _are_asked(gateway, len(asking)))
                async with _read_only(gateway):
                    replies = await asyncio.gather(*asking)
            await settled(gateway)
            return replies, await balance(gateway), gateway.running.demo.journal.open

    replies, left, open_calls = run(scenario)

    for protocol, (begun, unbegun) in zip(PATHS, (replies[:2], replies[2:]), strict=True):
        said = CHECK[protocol](begun.content)
        assert said.error is None
        assert said.stop_reason == ("max_tokens" if protocol == "anthropic" else "length")
        assert unbegun.status_code == 503
        error = unbegun.json()["error"]
        assert error["type" if protocol == "anthropic" else "code"] == KINDS[protocol]
        assert int(unbegun.headers["retry-after"]) > 0
        assert "x-should-retry" not in unbegun.headers
    rows = check_books(tmp_path)
    assert sorted((row["model"], row["outcome"], row["status"]) for row in rows) == [
        *[("endless", "cut", 200)] * 2,
        *[("slow", "cut", 503)] * 2,
    ]
    assert left.available_micros > 4_900_000
    assert open_calls == 0


async def _are_asked(gateway, count):
    return gateway.running.demo.journal.open == count


async def _stream(url, secret, path, body):
    """Read one stream to its end; give its bytes and how long it took."""
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=url, headers={"x-api-key": secret}, timeout=30) as client:
        reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    return reply.content, time.monotonic() - begun


async def _new(url, secret, path, body):
    async with wire(url) as connection:
        return await connection.ask(request("POST", path, body, x_api_key=secret))


def _ways(secrets):
    """Give each protocol's path on a route that each key may use, with its key."""
    return [
        (protocol, "/cursor" + path, secret)
        for protocol, path in PATHS.items()
        for secret in secrets
    ]


@pytest.mark.parametrize(
    ("outage", "seconds"),
    [(_read_only, 1.6), (_locked, 3), (_locked_for_longer_than_anyone_waits, 1.6)],
)
def test_streams_outlast_an_outage_and_new_requests_are_told(tmp_path, outage, seconds):
    """Streams end in it, new requests come in it, and then all is as before."""
    text = config(models=MODELS, tiers=TIERS)

    async def scenario():
        paced = DemoOptions(pace_words_per_s=60)
        async with started(tmp_path, text, usd=5, demo_options=paced) as gateway:
            _, subscribed = await gateway.mint(billing=keys.Billing.SUBSCRIPTION)
            ways, journal = _ways([gateway.secret, subscribed]), gateway.running.demo.journal
            body = asked("demo", max_tokens=60)
            streams = [
                asyncio.create_task(_stream(gateway.url, secret, path, body))
                for _, path, secret in ways * 2
            ]
            await until(lambda: _all_begun(journal, len(streams)))
            async with outage(gateway):
                begun = time.monotonic()
                news = [
                    asyncio.create_task(_new(gateway.url, secret, path, BODY))
                    for _, path, secret in ways * 3
                ]
                ended = await asyncio.gather(*streams)
                await asyncio.sleep(begun + seconds - time.monotonic())
                check_books(tmp_path, is_idle=False)
            replies = await asyncio.gather(*news)
            after = [await _new(gateway.url, secret, path, BODY) for _, path, secret in ways]
            await settled(gateway)
            return ended, replies, after, [*journal.entries]

    ended, replies, after, calls = run(scenario)

    for (protocol, *_), (got, _) in zip(_ways("ab") * 2, ended, strict=True):
        assert CHECK[protocol](got).error is None
    for (protocol, *_), reply in zip(_ways("ab") * 3, replies, strict=True):
        _check_new(reply, protocol, is_told=outage is not _locked)
    assert [reply.status for reply in after] == [200] * 4
    served = [reply for reply in (*replies, *after) if reply.status == 200]
    rows = check_books(tmp_path)
    assert len(rows) == len(ended) + len(served) == len(calls)
    assert {(row["outcome"], row["estimated"]) for row in rows} == {("completed", 0)}
    prove(tmp_path)


def _check_new(reply, protocol, *, is_told):
    """SQLite itself waits for five seconds: a shorter lock is a delay, anything else a 503."""
    if not is_told:
        assert reply.status == 200
        return
    check_refusal(reply, protocol, 503, KINDS[protocol])
    assert int(reply.header("retry-after")) > 0
    assert reply.header("x-should-retry") is None


async def _all_begun(journal, count):
    return sum(entry.events > 3 for entry in journal.entries) == count


async def _all_waiting(gateway, count):
    return len(gateway.gateway.pumps) == count


def _limit_pages(spare):
    (pages,) = models.database.execute_sql("PRAGMA page_count").fetchone()
    models.database.execute_sql(f"PRAGMA max_page_count = {pages + spare}")
    return models.database.connection()


def test_everyone_in_a_group_that_a_full_disk_ends_is_told(tmp_path):
    """They wait behind one job, so that they are one group; it runs out of pages in the middle."""

    async def scenario():
        async with started(tmp_path, config(models=MODELS), usd=5) as gateway:
            store = gateway.services.store
            go = threading.Event()
            blocked = asyncio.create_task(store.write(go.wait, 10))
            limiting = asyncio.create_task(store.write(_limit_pages, 4))
            news = [
                asyncio.create_task(_new(gateway.url, gateway.secret, path, BODY))
                for path in list(PATHS.values()) * 50
            ]
            await until(lambda: _all_waiting(gateway, len(news)))
            go.set()
            await blocked
            connection, replies = await limiting, await asyncio.gather(*news)
            books = check_books(tmp_path)
            connection.execute("PRAGMA max_page_count = 1000000").close()
            after = await _new(gateway.url, gateway.secret, "/v1/messages", BODY)
            await settled(gateway)
            return replies, books, after, gateway.running.demo.journal.served

    replies, books, after, served = run(scenario)

    assert [reply.status for reply in replies] == [503] * 100
    assert books == []
    assert (after.status, served) == (200, 1)
    (row,) = check_books(tmp_path)
    assert row["outcome"] == "completed"


@asynccontextmanager
async def _full_disk(gateway, file):
    """Let a process make no file much longer than `file` is."""
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    most = (file.stat().st_size + 20_000, resource.RLIM_INFINITY)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, most)
    try:
        yield
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, no_limit)


def _both_protocols(url):
    key = "sk-fake-upstream-key"
    return f"""
server: {{port: 0}}
upstreams:
  m: {{protocol: anthropic, base_url: "{url}", api_key: {key}}}
  c: {{protocol: openai, base_url: "{url}/v1", api_key: {key}}}
models:
  demo: {{targets: [{{upstream: m, model: demo}}, {{upstream: c, model: demo}}],
    price: {{input: "4.00", output: "20.00"}}}}
tiers: {TIERS}
"""


def _arrived(folder):
    lines = (folder / "journal").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["line"] == "arrived"]


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_gateway_whose_disk_is_full_refuses_and_settles_once_there_is_room(tmp_path):
    """A real process that may not make its files longer, with streams that end meanwhile."""

    async def scenario():
        mock = ("mock", "--port", "0", "--pace", "30", "--journal", str(tmp_path / "journal"))
        words = ("serve", "--config", str(tmp_path / "config.yaml"))
        async with process(*mock) as there:
            text = _both_protocols(there.url)
            secrets = prepare_money(tmp_path, text, micros=5_000_000, tier="team")
            async with process(*words) as gateway:
                ways, body = _ways(secrets.values()), asked("demo", max_tokens=60)
                streams = [
                    asyncio.create_task(_stream(gateway.url, secret, path, body))
                    for _, path, secret in ways * 4
                ]
                await until(lambda: _are_open(tmp_path, len(streams)))
                async with _full_disk(gateway.process, tmp_path / "gateway.db-wal"):
                    replies = await asyncio.gather(
                        *(_new(gateway.url, secret, path, BODY) for _, path, secret in ways * 10)
                    )
                    ended = await asyncio.gather(*streams)
                    books = check_books(tmp_path, is_idle=False)
                after = await until(lambda: _served(gateway.url, ways[0]), 10)
                await until(lambda: _are_open(tmp_path, 0))
                assert await gateway.end() == 0
        return replies, ended, books, after

    replies, ended, books, after = run(scenario)

    for (protocol, *_), reply in zip(_ways("ab") * 10, replies, strict=True):
        _check_new(reply, protocol, is_told=True)
    for (protocol, *_), (got, _) in zip(_ways("ab") * 4, ended, strict=True):
        assert CHECK[protocol](got).error is None
    # Not one of the group was charged while the others were not.
    assert {row["state"] for row in books} == {"open"}
    rows = check_books(tmp_path)
    assert len(rows) == len(ended) + after == len(_arrived(tmp_path))
    assert {(row["outcome"], row["estimated"]) for row in rows} == {("completed", 0)}
    prove(tmp_path)


async def _are_open(folder, count):
    return sum(row["state"] == "open" for row in check_books(folder, is_idle=False)) == count


async def _served(url, way):
    """Tell once a new request is served: 1, for it was one."""
    _, path, secret = way
    return int((await _new(url, secret, path, BODY)).status == 200)
