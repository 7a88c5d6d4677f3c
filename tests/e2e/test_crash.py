"""`kill -9` under load: what a client was given in full is charged exactly, the rest by a rule.

The rule (server/billing/orphans.py): what was under way is charged the provider's exact input and
the output of the last checkpoint, or, where it had not come so far, the estimated input.
"""

import asyncio
import json
import random
import signal

import pytest
from support.priced import (
    CHECK,
    CLASSES,
    PATHS,
    check_books,
    prepare_money,
    process,
    table,
    verify,
)
from support.wires import request, run, wire

CLIENTS = 12
ENDS = {"anthropic": b'"message_stop"}', "openai": b"data: [DONE]"}
ROOTS = {"pay_per_token": ("", "/claudecode", "/cursor"), "subscription": ("/cline", "/roocode")}
MICROS = 1_000_000_000


def _config(url):
    return f"""
server: {{port: 0}}
upstreams:
  m: {{protocol: anthropic, base_url: "{url}", api_key: "${{FAKE_KEY}}"}}
  c: {{protocol: openai, base_url: "{url}/v1", api_key: "${{FAKE_KEY}}"}}
models:
  smart: {{targets: [{{upstream: m, model: demo}}, {{upstream: c, model: demo}}],
    price: {{input: "4.00", output: "20.00", cache_read: "0.40", cache_write_5m: "5.00"}}}}
tiers: {{team: {{name: Team, price_cents: 0, quota_tokens: 1000000000}}}}
billing: {{hold_slice_tokens: 16, min_output_tokens: 1}}  # so that longer answers have checkpoints
"""


class Client:
    """Asks again and again until the gateway is gone; keeps what it got in full."""

    def __init__(self, seed: int, billing: str) -> None:
        self.chance = random.Random(seed)
        self.roots = ROOTS[billing]
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
        body, path = json.dumps(ask).encode(), self.chance.choice(self.roots) + PATHS[protocol]
        await connection.send(request("POST", path, body, x_api_key=secret))
        head = await connection.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")[1:-2]
        headers = dict(line.split(": ", 1) for line in lines)
        assert head.startswith(b"HTTP/1.1 200")
        if "content-length" in headers:  # a stream that came at once has one too
            body = await connection.reader.readexactly(int(headers["content-length"]))
            usage = CHECK[protocol](body).usage if stream else json.loads(body)["usage"]
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
    words = ("serve", "--config", str(folder / "config.yaml"), "--port", "0")
    whole = {}
    async with process(*mock) as upstream:
        secrets = prepare_money(folder, _config(upstream.url), micros=MICROS, tier="team")
        for number in range(rounds):
            async with process(*words) as gateway:
                check_books(folder)  # whatever was open is settled before anyone is served
                chosen = [[*secrets][each % 2] for each in range(CLIENTS)]
                clients = [
                    Client(seed * 1000 + number * 100 + each, billing)
                    for each, billing in enumerate(chosen)
                ]
                load = asyncio.gather(
                    *(
                        client.run(gateway.url, secrets[billing])
                        for client, billing in zip(clients, chosen, strict=True)
                    )
                )
                await asyncio.sleep(chance.uniform(0.3, 0.9))
                assert await gateway.end(signal.SIGKILL) == -signal.SIGKILL
            await asyncio.wait_for(load, 10)
            for client in clients:
                whole |= client.whole
            await verify(folder)  # as the kill left it, and so with holds
        async with process(*words) as gateway:
            check_books(folder)
            await verify(folder)
            assert await gateway.end() == 0
    return whole


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
    whole = run(lambda: _kill_again_and_again(folder, seed, rounds))

    rows = {row["request_id"]: row for row in check_books(folder)}
    arrived, ended = _journal(folder)
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
    interrupted = [row for row in rows.values() if row["outcome"] == "interrupted"]
    assert len(interrupted) >= rounds
    assert {row["output_tokens"] > 0 for row in interrupted} == {True, False}
    assert {row["billing"] for row in interrupted} == set(ROOTS)
    _check_sums(folder, rows.values())


def _check_row(row, call):
    """Compare a row with the upstream's own log."""
    assert row["outcome"] in ("completed", "interrupted")
    spent = row["cost_micros"], row["quota_tokens"]
    assert [unit > 0 for unit in spent] == [row["billing"] == each for each in ROOTS]
    if row["outcome"] == "completed":
        assert {each: row[each] for each in CLASSES} == {
            each: call["usage"][each] for each in CLASSES
        }
        return
    assert row["input_tokens"] > 0
    assert row["estimated"] == 1
    if row["output_tokens"]:  # there was a checkpoint
        assert row["output_tokens"] <= max(call["events"], call["bytes"] // 4)
        if row["protocol"] == "anthropic":  # Chat tells its input at the end alone
            assert row["input_tokens"] == call["usage"]["input_tokens"]


def _check_sums(folder, rows):
    """Nothing but the charges has moved the balance, and nothing but the rows the quota."""
    [tenant] = table(folder, "SELECT * FROM tenant")
    [subscription] = table(folder, "SELECT * FROM subscription")
    assert tenant["balance_micros"] == MICROS - sum(row["cost_micros"] for row in rows)
    assert subscription["used_tokens"] == sum(row["quota_tokens"] for row in rows)
    assert subscription["used_requests"] == sum(row["billing"] == "subscription" for row in rows)


def test_two_kills_lose_and_invent_nothing(tmp_path, monkeypatch):
    _check(tmp_path, 1, 2, monkeypatch)


@pytest.mark.slow
def test_twenty_five_kills_lose_and_invent_nothing(tmp_path, monkeypatch):
    _check(tmp_path, 2, 25, monkeypatch)
