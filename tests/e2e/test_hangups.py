"""Clients that leave at any moment: no call stays open, and each request has one true row."""

import asyncio
import json
import random
import socket
import struct

import pytest
from support.gateways import started
from support.raw_upstream import until
from support.wires import request, run, wire

from server.upstream.demo import DemoOptions

ENDS = {"anthropic": b"message_stop", "openai": b"[DONE]"}
PATHS = {
    "anthropic": ("/v1/messages", "/claudecode/v1/messages", "/cline/messages"),
    "openai": ("/v1/chat/completions", "/cursor/v1/chat/completions"),
}
MOMENTS = ("in the body", "before the head", "after bytes", "after a while", "never")
GOODBYES = ("close", "half-close", "reset")
OPEN_WITHIN_S = 1.0
CONFIG = """
upstreams:
  demo: {protocol: demo}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], free: true}
  endless: {targets: [{upstream: demo, model: "fault:endless:5"}], free: true}
  slow: {targets: [{upstream: demo, model: "fault:slow:60"}], free: true}
"""


class Visit:
    """One request of a client that may leave before its answer is whole."""

    def __init__(self, chance: random.Random) -> None:
        self.protocol = chance.choice([*PATHS])
        self.path = chance.choice(PATHS[self.protocol])
        self.stream = chance.random() < 0.7
        self.moment = chance.choice(MOMENTS)
        self.goodbye = chance.choice(GOODBYES)
        self.place = chance.random()
        self.received = b""
        size = chance.choice([200, 3_000, chance.randrange(70_000, 300_000)])
        self.body = json.dumps(
            {
                "model": self._model(chance),
                "max_tokens": 300,
                "stream": self.stream,
                "messages": [{"role": "user", "content": "hello " + "x" * size}],
            }
        ).encode()

    def _model(self, chance: random.Random) -> str:
        """Choose one that answers, or one that never comes to an end by itself."""
        leaves = self.moment != "never" and (self.stream or self.moment != "after bytes")
        if not leaves or chance.random() < 0.5:
            return "smart"
        return "endless" if self.stream else "slow"

    async def make(self, gateway) -> None:
        headers = {"x_api_key": gateway.secret, "connection": "close"}
        data = request("POST", self.path, self.body, **headers)
        async with wire(gateway.url) as connection:
            if self.moment == "in the body":
                await connection.send(data[: int(len(data) * self.place)])
            else:
                await connection.send(data)
                await self._receive(connection.reader)
            if self.moment != "never":
                await self._leave(connection)

    async def _receive(self, reader) -> None:
        wanted = 1 << 30
        if self.moment == "after bytes":
            wanted = int(self.place * 8000)
        elif self.moment == "before the head":
            wanted = 0
        elif self.moment == "after a while":
            await asyncio.sleep(self.place * 0.2)
            return
        while len(self.received) < wanted:
            piece = await asyncio.wait_for(reader.read(wanted - len(self.received)), 20)
            if not piece:
                return
            self.received += piece

    async def _leave(self, connection) -> None:
        if self.goodbye == "half-close":
            connection.writer.write_eof()
            while await asyncio.wait_for(connection.reader.read(65536), 20):
                pass
        elif self.goodbye == "reset":
            sock = connection.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.writer.transport.abort()
        else:
            connection.writer.close()

    @property
    def is_whole(self) -> bool:
        """Tell whether the client got its answer to the last byte."""
        if self.stream:
            return ENDS[self.protocol] in self.received and self.received.endswith(b"0\r\n\r\n")
        head, _, body = self.received.partition(b"\r\n\r\n")
        return bool(head) and f"content-length: {len(body)}".encode() in head.lower()

    @property
    def request_id(self) -> str | None:
        lines = self.received.partition(b"\r\n\r\n")[0].decode("latin-1").lower().split("\r\n")
        found = [line.split(": ")[1] for line in lines if line.startswith("request-id: ")]
        return found[0] if found else None


async def _visit(folder, seed, count):
    """Let `count` clients come and go, eight at a time; give them, the rows and the journal."""
    chance = random.Random(seed)
    visits = [Visit(chance) for _ in range(count)]
    slots = asyncio.Semaphore(8)
    options = DemoOptions(pace_words_per_s=500)
    async with started(folder, CONFIG, demo_options=options) as gateway:

        async def make(visit):
            async with slots:
                await visit.make(gateway)

        await asyncio.gather(*(make(visit) for visit in visits))
        journal = gateway.running.demo.journal
        await until(lambda: journal.open == 0, OPEN_WITHIN_S)
        await until(lambda: not gateway.gateway.pumps, OPEN_WITHIN_S)
        await until(lambda: not gateway.running.connections, OPEN_WITHIN_S)
        pool = gateway.gateway.upstream.pool
        assert pool.busy_count == 0
        await gateway.services.store.write(lambda: None)  # what is queued is committed
        rows = await gateway.rows()
        return visits, rows, [entry.as_json() for entry in journal.entries]


def _check(folder, seed, count):
    visits, rows, served = run(lambda: _visit(folder, seed, count))

    by_id = {row["request_id"]: row for row in rows}
    calls = {entry["request_id"]: entry for entry in served}
    assert len(by_id) == len(rows)
    assert len(calls) == len(served)
    assert set(calls) <= set(by_id)
    assert {row["state"] for row in rows} == {"settled"}
    for row in rows:
        _check_row(row, calls.get(row["request_id"]))
    whole = [visit for visit in visits if visit.is_whole]
    assert {by_id[visit.request_id]["outcome"] for visit in whole} == {"completed"}
    assert any(row["outcome"] == "cancelled" for row in rows)
    assert " ERROR " not in (folder / "gateway.log").read_text()


def _check_row(row, call):
    if row["outcome"] == "completed":
        assert call["outcome"] == "completed"
        usage = call["usage"]
        assert row["input_tokens"] == usage["input_tokens"]
        assert row["cache_read_input_tokens"] == usage["cache_read_input_tokens"]
        assert row["output_tokens"] == usage["output_tokens"]
        assert (row["estimated"], row["status"]) == (False, 200)
        return
    assert row["outcome"] == "cancelled"
    assert row["input_tokens"] < 200_000
    if call is None:  # it was admitted, but its client left before it was sent, or sent whole
        assert row["output_tokens"] == 0
    else:
        assert row["input_tokens"] + row["cache_read_input_tokens"] > 0


def test_sixty_clients_that_leave_anywhere_leave_nothing_behind(tmp_path):
    _check(tmp_path, 20261122, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_clients_that_leave_anywhere_leave_nothing_behind(tmp_path, seed):
    _check(tmp_path, seed, 500)
