"""`kill -9` under load: what a client was given in full is charged exactly, the rest is told."""

import asyncio
import json
import random
import signal
import sqlite3

import pytest
from support.processes import Process, prepare
from support.validators import check_chat_stream, check_messages_stream
from support.wires import request, run, wire

CLIENTS = 12
ENDS = {"anthropic": b'"message_stop"}', "openai": b"data: [DONE]"}
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}


def _config(url):
    return f"""
server: {{port: 0}}
upstreams:
  m: {{protocol: anthropic, base_url: "{url}", api_key: "${{FAKE_KEY}}"}}
  c: {{protocol: openai, base_url: "{url}/v1", api_key: "${{FAKE_KEY}}"}}
models:
  smart: {{targets: [{{upstream: m, model: demo}}, {{upstream: c, model: demo}}], free: true}}
"""


class Client:
    """Asks again and again until the gateway is gone; keeps what it got in full."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.whole = {}  # request id -> output tokens, as the answer said

    async def run(self, url: str, secret: str) -> None:
        while True:
            try:
                async with wire(url) as connection:
                    while True:
                        await self._ask(connection, secret)
            except (OSError, asyncio.IncompleteReadError, EOFError):
                return

    async def _ask(self, connection, secret: str) -> None:
        protocol, stream = self.chance.choice([*PATHS]), self.chance.random() < 0.8
        ask = {
            "model": "smart",
            "max_tokens": self.chance.choice([1, 1, 1, 1, 1, 1, 1, 80]),
            "stream": stream,
            "messages": [{"role": "user", "content": "hello"}],
        }
        if protocol == "openai" and stream:
            ask["stream_options"] = {"include_usage": True}
        body = json.dumps(ask).encode()
        await connection.send(request("POST", PATHS[protocol], body, x_api_key=secret))
        head = await connection.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")[1:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        assert head.startswith(b"HTTP/1.1 200")
        if not stream:
            body = await connection.reader.readexactly(int(headers["content-length"]))
            usage = json.loads(body)["usage"]
            self._note(headers["request-id"], usage)
            return
        await self._read_stream(connection.reader, protocol, headers["request-id"])

    async def _read_stream(self, reader, protocol, request_id) -> None:
        data = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data += await reader.readexactly(size)
            if data.endswith(b"\n\n") and ENDS[protocol] in data:
                self._note(request_id, CHECK[protocol](data).usage)
            await reader.readexactly(2)
        await reader.readexactly(2)

    def _note(self, request_id, usage) -> None:
        self.whole[request_id] = usage.get("output_tokens", usage.get("completion_tokens"))


async def _kill_again_and_again(folder, seed, rounds):
    chance = random.Random(seed)
    mock = ("mock", "--port", "0", "--pace", "400", "--journal", str(folder / "journal"))
    upstream = await Process.start(*mock)
    secret = prepare(folder, _config(upstream.url))
    words = ("serve", "--config", str(folder / "config.yaml"), "--port", "0")
    whole = {}
    try:
        for number in range(rounds):
            gateway = await Process.start(*words)
            clients = [Client(seed * 1000 + number * 100 + each) for each in range(CLIENTS)]
            load = asyncio.gather(*(client.run(gateway.url, secret) for client in clients))
            await asyncio.sleep(chance.uniform(0.3, 0.9))
            assert await gateway.end(signal.SIGKILL) == -signal.SIGKILL
            await asyncio.wait_for(load, 10)
            for client in clients:
                whole |= client.whole
        gateway = await Process.start(*words)
        open_rows = _rows(folder, "WHERE state = 'open'")
        assert await gateway.end() == 0
    finally:
        await upstream.end()
    return whole, open_rows


def _rows(folder, where=""):
    with sqlite3.connect(folder / "gateway.db") as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM request {where}")]


def _journal(folder):
    """Read the demo's own log: what arrived, and how it ended."""
    arrived, ended = [], {}
    for line in (folder / "journal").read_text().splitlines():
        entry = json.loads(line)
        if entry.pop("line") == "arrived":
            arrived.append(entry["request_id"])
        else:
            ended[entry["request_id"]] = entry
    return arrived, ended


def _check(folder, seed, rounds, monkeypatch):
    monkeypatch.setenv("FAKE_KEY", "sk-fake-upstream-key")
    whole, open_rows = run(lambda: _kill_again_and_again(folder, seed, rounds))

    rows = {row["request_id"]: row for row in _rows(folder)}
    arrived, ended = _journal(folder)
    with sqlite3.connect(folder / "gateway.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert open_rows == []
    assert len(arrived) == len(set(arrived))
    assert set(arrived) <= set(rows)
    unsent = [row for name, row in rows.items() if name not in set(arrived)]
    assert {row["outcome"] for row in unsent} <= {"interrupted"}
    assert len(whole) > 10 * rounds
    for name, output_tokens in whole.items():
        row = rows[name]
        assert (row["outcome"], row["estimated"]) == ("completed", 0)
        assert row["output_tokens"] == output_tokens
    for name, row in rows.items():
        _check_row(row, ended.get(name))
    assert sum(row["outcome"] == "interrupted" for row in rows.values()) >= rounds


def _check_row(row, call):
    assert row["outcome"] in ("completed", "interrupted")
    if row["outcome"] == "interrupted":
        assert row["input_tokens"] > 0
        assert row["estimated"] == 1
    else:
        usage = call["usage"]
        assert row["output_tokens"] == usage["output_tokens"]
        assert row["input_tokens"] == usage["input_tokens"]


def test_two_kills_lose_and_invent_nothing(tmp_path, monkeypatch):
    _check(tmp_path, 1, 2, monkeypatch)


@pytest.mark.slow
def test_twenty_five_kills_lose_and_invent_nothing(tmp_path, monkeypatch):
    _check(tmp_path, 2, 25, monkeypatch)
