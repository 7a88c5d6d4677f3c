"""Disks as they fail under a real process: nothing is served that cannot be billed."""

import asyncio
import json
import resource
import sqlite3
import sys
import time
from contextlib import asynccontextmanager, closing

import pytest
from support.gateways import DEMO_CONFIG
from support.locks import locked
from support.priced import PATHS, asked, check_books, gatewayctl, prepare_money, process, prove
from support.wires import check_refusal, request, run, until, wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")

KINDS = {"anthropic": "overloaded_error", "openai": "unavailable"}
BODY = json.dumps(asked("demo", stream=False, max_tokens=10)).encode()


@asynccontextmanager
async def _served(folder):
    """Run the demo upstream and a gateway; give a way to ask, and the calls that arrived."""
    journal = folder / "journal"
    async with process("mock", "--port", "0", "--journal", str(journal)) as upstream:
        key = "sk-fake-upstream-key"
        text = f"""
server: {{port: 0}}
upstreams:
  m: {{protocol: anthropic, base_url: "{upstream.url}", api_key: {key}}}
  c: {{protocol: openai, base_url: "{upstream.url}/v1", api_key: {key}}}
models:
  demo: {{targets: [{{upstream: m, model: demo}}, {{upstream: c, model: demo}}],
    price: {{input: "4.00", output: "20.00"}}}}
tiers: {{team: {{name: Team, price_cents: 0, quota_tokens: 100000000}}}}
"""
        secret = prepare_money(folder, text, micros=5_000_000, tier="team")["pay_per_token"]
        async with process("serve", "--config", str(folder / "config.yaml")) as gateway:

            async def ask(protocol):
                async with wire(gateway.url) as connection:
                    return await connection.ask(
                        request("POST", PATHS[protocol], BODY, x_api_key=secret)
                    )

            def calls():
                lines = journal.read_text().splitlines() if journal.exists() else []
                return sum(json.loads(line)["line"] == "arrived" for line in lines)

            yield gateway, ask, calls


async def _slowest_health(url, pending):
    slowest = 0.0
    async with wire(url) as connection:
        while not all(task.done() for task in pending):
            begun = time.monotonic()
            assert (await connection.ask(request("GET", "/healthz"))).status == 200
            slowest = max(slowest, time.monotonic() - begun)
            await asyncio.sleep(0.02)
    return slowest


def _both(ask, times=3):
    return [
        (protocol, asyncio.create_task(ask(protocol))) for protocol in PATHS for _ in range(times)
    ]


@asynccontextmanager
async def _full(gateway, most):
    """Let no file of the process grow beyond `most` bytes."""
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    pid = gateway.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, no_limit)


def _check(folder, answered, calls):
    """Every answer was told right, and what was served is what was billed."""
    for protocol, reply in answered:
        if reply.status != 200:
            check_refusal(reply, protocol, 503, KINDS[protocol])
            assert int(reply.header("retry-after")) > 0
    served = sum(reply.status == 200 for _, reply in answered)
    rows = check_books(folder)
    assert [row["outcome"] for row in rows] == ["completed"] * served
    assert calls == served
    prove(folder)


def test_a_disk_without_a_byte_of_room_lets_nothing_reach_the_provider(tmp_path):
    """The logs have no room either, and the gateway goes on once there is some."""

    async def scenario():
        async with _served(tmp_path) as (gateway, ask, calls):
            before = [(protocol, await ask(protocol)) for protocol in PATHS]
            async with _full(gateway, 1):
                pending = _both(ask)
                slowest = await _slowest_health(gateway.url, [task for _, task in pending])
                refused = [(protocol, await task) for protocol, task in pending]
                during = calls()
            after = [(protocol, await _well_soon(ask, protocol)) for protocol in PATHS]
            assert await gateway.end() == 0
            return before, refused, during, after, slowest, calls()

    before, refused, during, after, slowest, calls = run(scenario)

    assert {reply.status for _, reply in refused} == {503}
    assert during == len(before)
    assert slowest < 1
    _check(tmp_path, [*before, *refused, *after], calls)


async def _well_soon(ask, protocol):
    async def well():
        reply = await ask(protocol)
        return reply if reply.status == 200 else None

    return await until(well)


def test_only_the_logs_are_full_and_every_request_is_served(tmp_path):
    async def scenario():
        async with _served(tmp_path) as (gateway, ask, calls):
            answered = [(protocol, await ask(protocol)) for protocol in PATHS]
            log = tmp_path / "access.log"
            await until(lambda: _is_there(log))
            log.rename(tmp_path / "old.log")
            log.symlink_to("/dev/full")
            pending = _both(ask)
            slowest = await _slowest_health(gateway.url, [task for _, task in pending])
            answered += [(protocol, await task) for protocol, task in pending]
            assert await gateway.end() == 0
            return answered, slowest, calls()

    answered, slowest, calls = run(scenario)

    assert {reply.status for _, reply in answered} == {200}
    assert slowest < 1
    _check(tmp_path, answered, calls)
    assert "the access log cannot be written" in (tmp_path / "gateway.log").read_text()


async def _is_there(path):
    return path.exists() and path.stat().st_size > 0


def test_a_database_that_another_process_locks_for_more_than_five_seconds(tmp_path):
    """SQLite waits for five: who comes first is told then, and who comes later may be in luck."""

    async def scenario():
        async with _served(tmp_path) as (gateway, ask, calls):
            answered = [(protocol, await ask(protocol)) for protocol in PATHS]
            async with locked(tmp_path / "gateway.db"):
                pending = _both(ask)
                tasks = [task for _, task in pending]
                health = asyncio.create_task(_slowest_health(gateway.url, tasks))
                await asyncio.sleep(6.5)
                during = calls()
            answered += [(protocol, await task) for protocol, task in pending]
            answered += [(protocol, await _well_soon(ask, protocol)) for protocol in PATHS]
            slowest = await health
            assert await gateway.end() == 0
            return answered, during, slowest, calls()

    answered, during, slowest, calls = run(scenario)

    assert 503 in {reply.status for _, reply in answered}
    assert {reply.status for _, reply in answered[-2:]} == {200}
    assert (during, slowest < 1) == (2, True)
    _check(tmp_path, answered, calls)


def _header(path):
    return b"\xde\xad" * 50 + path.read_bytes()[100:]


def _half(path):
    whole = path.read_bytes()
    return whole[: len(whole) // 2]


def _ledger(path):
    with closing(sqlite3.connect(path)) as connection:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = 'entry'"
        (root,) = connection.execute(sql).fetchone()
    whole = path.read_bytes()
    return whole[: (root - 1) * 4096] + b"\xff" * 4096 + whole[root * 4096 :]


@pytest.mark.parametrize("damage", [_header, _half, _ledger])
def test_serve_refuses_a_damaged_database_and_leaves_it_as_it_was(tmp_path, damage):
    prepare_money(tmp_path, DEMO_CONFIG, micros=1, tier="team")
    path = tmp_path / "gateway.db"
    damaged = damage(path)
    path.write_bytes(damaged)

    code, said = run(lambda: gatewayctl(tmp_path, "serve", "--port", "0"))

    assert code == 7
    assert said.startswith(f"error: {path} is not a gatewayctl database, or is damaged (")
    assert said.count("\n") == 1
    assert path.read_bytes() == damaged
    assert not [*tmp_path.glob("gateway.db-*")]
