"""Asks for every row of a table of faults, in four forms, with and without a second target."""

import asyncio
import json
import socket
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import httpx
from support.gateways import started
from support.raw_upstream import until

from server.store.models import Request, Tenant
from server.upstream import demo

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
FORMS = [
    (protocol, form, targets)
    for protocol, form, targets in product(PATHS, ("stream", "whole"), ("one", "two"))
]
KEY = "sk-fake-matrix-key-0123456789"
PING_AFTER_S = 0.25
SILENT_S = 0.8  # where a provider falls silent, but not for too long
SHORT_S = 0.5  # the timeouts of what is silent for too long
_STATUS = Path("/proc/self/status")


@dataclass
class Told:
    """What came of one request: for its client, in its row, and at both providers."""

    status: int
    headers: httpx.Headers
    body: bytes
    took_s: float
    is_settled: bool  # as soon as the client had its last byte
    open_s: float  # how long after that a provider had a call of it open
    grown_bytes: int  # by how much memory grew meanwhile; those that wait are taken as one
    row: dict
    first: list  # the calls that reached the faulty upstream
    second: list  # and the healthy one

    @property
    def attempts(self):
        return len(json.loads(self.row["attempts"] or "[0]"))

    @property
    def said(self):
        """The tokens of input and output that the answering provider counted."""
        usage = (self.second or self.first)[-1]["usage"]
        return usage["input_tokens"], usage["output_tokens"]


def name_of(row, protocol, form, targets):
    """Name the model, and the upstream, that one request alone goes to."""
    return f"{row.name}.{protocol}.{form}.{targets}"


async def play(folder, rows, *, silent_s=SILENT_S, ping_after_s=PING_AFTER_S):
    """Ask for each of `rows` in each form; give what came of it by name, and what was left."""
    first = await demo.start("127.0.0.1", 0, options=demo.DemoOptions())
    second = await demo.start("127.0.0.1", 0, options=demo.DemoOptions())
    try:
        with _closed_port() as port:
            config = _config(rows, (first.url, second.url, f"http://127.0.0.1:{port}"), silent_s)
            async with started(folder, config) as gateway, gateway.client() as client:
                asker = Asker(gateway, client, (first.journal, second.journal))
                asked = await asker.ask_for_all(rows, ping_after_s)
                await until(lambda: not gateway.gateway.pumps)
                await until(lambda: first.journal.open + second.journal.open == 0)
                await gateway.services.store.write(lambda: None)  # what is queued is committed
                usage_rows = await gateway.rows()
                left = {
                    "rows": len(usage_rows),
                    "open": sum(row["state"] == "open" for row in usage_rows),
                    "busy": gateway.gateway.upstream.pool.busy_count,
                    **await gateway.services.store.read(_money),
                }
                return _told(asked, usage_rows, first, second), left
    finally:
        await first.close()
        await second.close()


class Asker:
    """Asks through a gateway, and looks at once at what each answer has left behind."""

    def __init__(self, gateway, client, journals) -> None:
        self._gateway, self._client, self._journals = gateway, client, journals

    async def ask_for_all(self, rows, ping_after_s):
        """Ask: what waits, and meanwhile the silent with early pings; then each of the rest."""
        serving, first = self._gateway.gateway, self._journals[0]
        slow = {kind: [*product(those, FORMS)] for kind, those in _slow_ones(rows).items()}
        usual_s, before = serving.ping_after_s, _begin_peak()
        waiting = asyncio.gather(*(self._ask(*each) for each in slow["waits"]))
        await until(lambda: len(first.entries) >= len(slow["waits"]))
        serving.ping_after_s = ping_after_s
        asked = await asyncio.gather(*(self._ask(*each) for each in slow["silent"]))
        serving.ping_after_s = usual_s
        asked += await waiting
        grown = _memory("VmHWM") - before
        found = {name: (*told, grown) for name, *told in asked}
        for row, form in product(rows, FORMS):
            if not (row.waits or row.is_silent):
                before = _begin_peak()
                name, *told = await self._ask(row, form)
                found[name] = (*told, _memory("VmHWM") - before)
        return found

    async def _ask(self, row, form):
        protocol, kind, _ = form
        ask = {
            "model": name_of(row, *form),
            "max_tokens": 400,
            "messages": [{"role": "user", "content": "Tell me what you are."}],
            "stream": kind == "stream",
        }
        if protocol == "openai" and kind == "stream":
            ask["stream_options"] = {"include_usage": True}
        begun, body = time.monotonic(), b""
        path, client = PATHS[protocol], self._client
        async with client.stream("POST", path, json=ask, timeout=200) as reply:
            async for piece in reply.aiter_raw():
                body += piece
        ended = time.monotonic()
        made = reply.headers["request-id"]
        is_settled = await self._gateway.services.store.read(_is_settled, made)
        await until(lambda: not self._is_open(made))
        open_s = time.monotonic() - ended
        return ask["model"], reply, body, ended - begun, is_settled, open_s

    def _is_open(self, made):
        entries = (entry for journal in self._journals for entry in journal.entries)
        return any(entry.outcome == "open" for entry in entries if entry.request_id == made)


def _slow_ones(rows):
    return {
        "waits": [row for row in rows if row.waits],
        "silent": [row for row in rows if row.is_silent],
    }


def _is_settled(made):
    return Request.get(Request.request_id == made).state == "settled"


def _told(asked, usage_rows, first, second):
    by_id = {row["request_id"]: row for row in usage_rows}
    calls = []
    for upstream in (first, second):
        calls.append(reached := defaultdict(list))
        for entry in upstream.journal.entries:
            reached[entry.request_id].append(entry.as_json())
    return {
        name: Told(
            *(reply.status_code, reply.headers, *told),
            row=by_id[made := reply.headers["request-id"]],
            first=calls[0][made],
            second=calls[1][made],
        )
        for name, (reply, *told) in asked.items()
    }


def _money():
    tenant = Tenant.select().get()
    return {
        "held_micros": tenant.held_micros,
        "balance_micros": tenant.balance_micros,
    }


def _begin_peak():
    """Let the peak begin anew; give the memory in use."""
    if _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(what):
    if not _STATUS.exists():  # only Linux tells
        return 0
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


@contextmanager
def _closed_port():
    """Keep a port that refuses: bound, so that nobody else gets it, and never listened on."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def _config(rows, urls, silent_s):
    """Write a config where each request has an upstream of its own: none sees another's rests."""
    first, second, closed = urls
    upstreams, models = [], []
    for row, (protocol, form, targets) in product(rows, FORMS):
        name = name_of(row, protocol, form, targets)
        url = (first if row.model else closed) + ("/v1" if protocol == "openai" else "")
        more = ""
        if row.is_short:
            more = f", timeouts: {{first_byte_s: {SHORT_S}, idle_s: {SHORT_S}}}"
        upstreams.append(
            f'  {name}: {{protocol: {protocol}, base_url: "{url}", api_key: "{KEY}"{more}}}'
        )
        model = (row.model or "none").format(silent_s=silent_s)
        each = [f'{{upstream: {name}, model: "{model}"}}']
        if targets == "two":
            each.append(f"{{upstream: good-{protocol}, model: demo-smart, order: 2}}")
        price = '{input: "4.00", output: "20.00"}'
        models.append(f"  {name}: {{targets: [{', '.join(each)}], price: {price}}}")
    return "\n".join(
        [
            "upstreams:",
            f'  good-anthropic: {{protocol: anthropic, base_url: "{second}", api_key: "{KEY}"}}',
            f'  good-openai: {{protocol: openai, base_url: "{second}/v1", api_key: "{KEY}"}}',
            *upstreams,
            "models:",
            *models,
            "routing: {backoff_s: 0.01, longest_backoff_s: 0.02, breaker_failures: null}",
            "server: {max_stream_mb: 64}",
        ]
    )
