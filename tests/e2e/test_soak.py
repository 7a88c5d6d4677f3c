"""Many streamed requests, one after the other: what a gateway uses of its machine stays flat.

`pytest -m slow -s tests/e2e/test_soak.py` prints the line.
"""

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.priced import check_books, prepare_money, process, table, verify
from support.wires import ASK, request, run, wire

MIB = 1024 * 1024
AT_ONCE = 32
DOLLARS = 1_000_000
PATHS = {
    "pay_per_token": ("/v1/messages", "/v1/chat/completions", "/v1/responses"),
    "subscription": ("/cline/v1/messages", "/roocode/chat/completions", "/codex/v1/responses"),
}
ENDS = (b"event: message_stop\n", b"data: [DONE]\n", b"event: response.completed\n")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _config(url):
    return f"""
upstreams:
  messages: {{protocol: anthropic, base_url: "{url}", api_key: sk-fake-upstream-key}}
  chat: {{protocol: openai, base_url: "{url}/v1", api_key: sk-fake-upstream-key}}
models:
  smart: {{targets: [{{upstream: messages, model: demo}}, {{upstream: chat, model: demo}}],
    price: {{input: "4.00", output: "20.00"}}}}
tiers: {{team: {{name: Team, price_cents: 2000}}}}
"""


@dataclass(frozen=True)
class Sample:
    """What the process used once it had served `requests`; `pss_bytes` is its share of memory."""

    requests: int
    pss_bytes: int
    files: int
    threads: int


def _sample(gateway, requests):
    proc = Path(f"/proc/{gateway.process.pid}")
    files, threads = (len([*(proc / name).iterdir()]) for name in ("fd", "task"))
    return Sample(requests, gateway.pss_bytes, files, threads)


async def _ask_on(gateway, secrets, numbers, every, samples):
    """Ask on one connection as long as there are numbers."""
    body = json.dumps({**ASK, "stream": True, "input": "hello"}).encode()
    async with wire(gateway.url) as connection:
        for number in numbers:
            billing = ("pay_per_token", "subscription")[number % 2]
            path = PATHS[billing][number // 2 % 3]
            asked = request("POST", path, body, x_api_key=secrets[billing])
            reply = await connection.ask(asked)
            assert reply.status == 200
            assert any(end in reply.body for end in ENDS)
            if number % every == 0:
                samples.append(_sample(gateway, number))


async def _soak(folder, count, every):
    async with process("mock", "--port", "0") as upstream:
        secrets = prepare_money(folder, _config(upstream.url), micros=1000 * DOLLARS, tier="team")
        words = ("serve", "--config", str(folder / "config.yaml"), "--port", "0")
        async with process(*words) as gateway:
            samples, numbers = [], iter(range(1, count + 1))
            await asyncio.gather(
                *(_ask_on(gateway, secrets, numbers, every, samples) for _ in range(AT_ONCE))
            )
            assert await gateway.end() == 0
    rows = check_books(folder)
    assert len(rows) == count
    assert {row["outcome"] for row in rows} == {"completed"}
    await verify(folder)
    assert table(folder, "SELECT count(*) AS many FROM entry WHERE kind = 'charge'") == [
        {"many": count // 2}
    ]
    return samples


def _growth_mib(samples):
    """Give by how much the straight line through the samples rises, from the first to the last."""
    counts = [each.requests for each in samples]
    slope, _ = statistics.linear_regression(counts, [each.pss_bytes for each in samples])
    return slope * (counts[-1] - counts[0]) / MIB


def _check(folder, count, *, every, warm_up, most_mib):
    begun = time.monotonic()

    samples = sorted(run(lambda: _soak(folder, count, every)), key=lambda each: each.requests)

    warm = [each for each in samples if each.requests >= warm_up]
    growth = _growth_mib(warm)
    line = " ".join(f"{each.pss_bytes / MIB:.1f}" for each in samples)
    ends = [f"{each.files} files, {each.threads} threads" for each in (warm[0], warm[-1])]
    print(f"{count} requests in {time.monotonic() - begun:.0f} s, MiB: {line}")  # noqa: T201
    print(f"after {warm_up}: {growth:+.2f} MiB; {ends[0]} -> {ends[1]}")  # noqa: T201
    assert growth < most_mib
    # Each client and each call has a file: between two samples their number sways by as many.
    assert max(each.files for each in warm) <= warm[0].files + AT_ONCE
    assert max(each.threads for each in warm) <= warm[0].threads + 2


def test_1500_streams_leave_nothing_behind(tmp_path):
    _check(tmp_path, 1_500, every=100, warm_up=700, most_mib=6)


@pytest.mark.slow
def test_50000_streams_leave_nothing_behind(tmp_path):
    _check(tmp_path, 50_000, every=1_000, warm_up=5_000, most_mib=5)
