"""A database that cannot be written: new requests are told so, running ones are settled later."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from support.gateways import started
from support.priced import (
    CHECK,
    PATHS,
    asked,
    check_books,
    config,
    priced,
    settled,
)
from support.wires import run, until

from server.store import models
from server.upstream.demo import DemoOptions

MODELS = priced("demo", "demo")
GROWING = "{hold_slice_tokens: 64, min_output_tokens: 1, assumed_tokens_per_s: 1000000}"
REFUSED = {"anthropic": "overloaded_error", "openai": "server_error"}


@asynccontextmanager
async def _broken(gateway, pragma):
    """Let SQLite refuse every write of the gateway, as a full or read-only disk does."""

    def break_it():
        models.database.execute_sql(pragma)
        return models.database.connection()

    connection = await gateway.services.store.write(break_it)
    try:
        yield
    finally:
        connection.execute("PRAGMA query_only = 0").close()


READ_ONLY = "PRAGMA query_only = 1"


@pytest.mark.parametrize("protocol", PATHS)
def test_a_stream_whose_hold_cannot_be_kept_waits_and_goes_on(tmp_path, protocol):
    """It has money enough: that the database is away for a moment does not end its answer."""

    async def scenario():
        paced = DemoOptions(pace_words_per_s=200)
        text = config(models=MODELS, billing="{hold_slice_tokens: 16, min_output_tokens: 1}")
        async with started(tmp_path, text, usd=5, demo_options=paced) as gateway:
            async with gateway.client() as client:
                body, got = asked("demo", max_tokens=100), b""
                async with client.stream("POST", PATHS[protocol], json=body) as reply:
                    pieces = reply.aiter_bytes()
                    got += await anext(pieces)
                    async with _broken(gateway, READ_ONLY):
                        await asyncio.sleep(0.8)
                    async for piece in pieces:
                        got += piece
            await settled(gateway)
            return got, [*gateway.running.demo.journal.entries]

    got, (call,) = run(scenario)

    said = CHECK[protocol](got)
    assert said.error is None
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["estimated"]) == ("completed", 0)
    assert row["output_tokens"] == call.usage.output_tokens


@pytest.mark.parametrize("protocol", PATHS)
def test_an_answer_that_has_not_begun_is_a_503_and_no_402(tmp_path, protocol):
    """Its unseen thinking has used up its hold, and there is money for more."""

    async def scenario():
        async with started(tmp_path, config(models=MODELS, billing=GROWING), usd=50) as gateway:
            async with gateway.client() as client:
                body = asked("slow", max_tokens=2_000_000)
                asking = asyncio.create_task(client.post(PATHS[protocol], json=body))
                await until(lambda: _is_asked(gateway))
                async with _broken(gateway, READ_ONLY):
                    reply = await asking
            await settled(gateway)
            return reply

    reply = run(scenario)

    assert reply.status_code == 503
    assert reply.json()["error"]["type"] == REFUSED[protocol]
    assert int(reply.headers["retry-after"]) > 0
    assert "x-should-retry" not in reply.headers
    (row,) = check_books(tmp_path)
    assert (row["outcome"], row["status"], row["error"]) == ("cut", 503, "unavailable")


async def _is_asked(gateway):
    return gateway.running.demo.journal.open
