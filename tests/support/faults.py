"""Every failure that the demo upstream can play, asked for through one gateway."""

import asyncio
from dataclasses import dataclass

import httpx
from support.gateways import started
from support.raw_upstream import until

from server.upstream import demo

KEY = "sk-fake-demo-key-0123456789"
NAMES = [name.removeprefix("fault:") for name in demo.FAULTS]
ARGUMENTS = {
    "slow": "0.3",
    "stall": "0.3",
    "endless": "1",
    "gzipbomb": "80",
    "ratelimit": "7",
    "tiny": "0.1",
}
# The provider refused, or never got or never took the request: nothing is to be paid.
FREE = {
    *("overloaded", "unavailable", "error", "html", "ratelimit", "unauthorized", "forbidden"),
    *("notfound", "badrequest", "toolong", "toolarge", "timeout", "refuse", "reset", "redirect"),
}
UNCOUNTED = {"no-usage", "weird-usage"}  # no sound stream to begin with
RETRIED = {429, 500, 502, 503, 504, 529}
AT_ONCE = 8


@dataclass
class Answer:
    """What a client was given, and the row that tells of it; no status: it did not wait."""

    status: int | None
    headers: httpx.Headers
    body: bytes
    took_s: float
    row: dict
    served: dict


@dataclass
class Played:
    """All replies in the order of what was asked, and what was left when all was over."""

    replies: list
    rows: list[dict]
    served: dict[str, dict]  # the upstream's records, by request id
    busy: int  # connections to the upstream
    calls: int  # that the upstream counted


def model_of(name):
    """Name the demo's model that plays a fault."""
    return f"fault:{name}:{ARGUMENTS[name]}" if name in ARGUMENTS else f"fault:{name}"


async def play(folder, config_of, ask, asked):
    """Run a gateway in `folder`; call `ask(client, *each)` for each of `asked`, some at a time.

    `config_of` gives its config for an upstream's address.
    """
    server = await demo.start("127.0.0.1", 0, options=demo.DemoOptions())
    slots = asyncio.Semaphore(AT_ONCE)

    async def in_turn(client, each):
        async with slots:
            return await ask(client, *each)

    try:
        async with started(folder, config_of(server.url)) as gateway, gateway.client() as client:
            replies = await asyncio.gather(*(in_turn(client, each) for each in asked))
            await until(lambda: not gateway.gateway.pumps)
            await until(lambda: server.journal.open == 0)
            await gateway.services.store.write(lambda: None)  # what is queued is committed
            return Played(
                replies,
                await gateway.rows(),
                {entry.request_id: entry.as_json() for entry in server.journal.entries},
                gateway.gateway.upstream.pool.busy_count,
                server.journal.served,
            )
    finally:
        await server.close()
