"""What a chaos run happens to: a gateway and its upstream as processes, and what is done to them.

The upstream outlives every gateway, and its journal tells what each request was really given.
"""

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

from support.chaos_clients import NOBODYS, Got, play
from support.chaos_schedule import BILLING, Ask, Schedule, Step
from support.faults import ARGUMENTS, KEY, NAMES
from support.priced import check_books, gatewayctl, prepare_money, prepare_tenant, process, table
from support.processes import Process
from support.wires import request, wire

QUIET_S = 20
PACE = "250"  # words a second: an answer takes long enough to be cut
QUICKER = {"big": "0.3", "endless": "3", "gzipbomb": "64", "tiny": "0"}
DRAIN_S = 1
UP_S = 0.2  # a gateway's shortest life: those who waited for it come in
DOLLAR = 1_000_000
POOR_MICROS, GRANT = 60_000, "0.02"
LIMPS = {"messages": "unavailable", "chat": "reset"}
EXITS = {"KILL": {-9}, "TERM": {0}, "TERM KILL": {0, -9}, "TERM TERM": {0, 1}}


def _model_of(name: str) -> str:
    argument = QUICKER.get(name) or ARGUMENTS.get(name)
    return f"fault:{name}" + (f":{argument}" if argument else "")


def config(url: str, *, turn: int, dollars: int) -> str:
    """Write the config; `turn` changes what means nothing, `dollars` the price of input."""
    price = f'price: {{input: "{dollars}", output: "{5 * dollars}", cache_read: "0.4"}}'
    faults = "".join(
        f'  {name}-{spoken}: {{targets: [{{upstream: {spoken}, model: "{_model_of(name)}"}}], '
        'price: {input: "4", output: "20"}}\n'
        for name in NAMES
        for spoken in ("messages", "chat")
    )
    around = "".join(
        f'  around-{spoken}: {{targets: [{{upstream: {spoken}, model: "fault:{limps}", order: 1}}, '
        f"{{upstream: {spoken}, model: demo, order: 2}}], {price}}}\n"
        for spoken, limps in LIMPS.items()
    )
    return f"""
server: {{drain_s: {DRAIN_S}}}
upstreams:
  messages: {{protocol: anthropic, base_url: "{url}", api_key: "{KEY}"}}
  chat: {{protocol: openai, base_url: "{url}/v1", api_key: "{KEY}"}}
models:
  smart: {{targets: [{{upstream: messages, model: demo}}, {{upstream: chat, model: demo}}],
    {price}}}
  messages: {{targets: [{{upstream: messages, model: demo}}], {price}}}
  chat: {{targets: [{{upstream: chat, model: demo}}], {price}}}
{around}{faults}
aliases: {{"turn-{turn}": smart}}
tiers: {{team: {{name: Team, price_cents: 0, quota_tokens: 1000000000}}}}
billing: {{hold_slice_tokens: 16, min_output_tokens: 1}}  # so that longer answers have checkpoints
"""


class House:
    """The processes of a run, the secrets to them, and what was seen and done."""

    def __init__(self, folder: Path, schedule: Schedule) -> None:
        self.folder = folder
        self.schedule = schedule
        self.secrets = dict.fromkeys(BILLING, NOBODYS)
        self.got: list[Got] = []
        self.revoked_at: dict[str, float] = {}
        self.away: list[tuple[float, float]] = []  # when the gateway was stopped and started
        self.grants = 0
        self.peak_bytes = 0
        self.said = b""
        self._key_ids: dict[str, str] = {}
        self._turn, self.dollars = 0, 4
        self._up = asyncio.Event()
        self._processes = AsyncExitStack()

    async def __aenter__(self) -> Self:
        journal = ("--journal", str(self.folder / "journal"))
        self.upstream = await self._run("mock", "--port", "0", "--pace", PACE, *journal)
        found = prepare_money(self.folder, self._config, micros=1000 * DOLLAR, tier="team")
        (self.folder / "sound.yaml").write_text(self._config)
        self.secrets["paying"] = found["pay_per_token"]
        self.secrets["subscribed"] = found["subscription"]
        self.secrets["poor"] = prepare_tenant(self.folder, "poor", micros=POOR_MICROS)
        await self.serve()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._processes.aclose()

    @property
    def _config(self) -> str:
        return config(self.upstream.url, turn=self._turn, dollars=self.dollars)

    async def _run(self, *words: str) -> Process:
        return await self._processes.enter_async_context(process(*words))

    async def serve(self) -> None:
        """Start a gateway; nothing that the one before left behind may still be open."""
        path = self.folder / "config.yaml"
        path.write_text(self._config)  # whoever starts it has mended what was broken
        self.gateway = await self._run("serve", "--config", str(path), "--port", "0")
        check_books(self.folder)
        self._up.set()
        await asyncio.sleep(UP_S)

    async def cli(self, *words: str) -> str:
        """Run a command that has to succeed; give what it said."""
        # Of a config of its own, since the gateway's may be broken just now.
        code, said = await gatewayctl(self.folder, *words, config="sound.yaml")
        assert code == 0, (words, said)
        return said

    async def play(self) -> None:
        """Let everything happen that is on the schedule, until the last client is done."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for ask in self.schedule.asks:
                tasks.create_task(self._ask(ask, begun))
            tasks.create_task(self._in_turn(self.schedule.commands, begun))
            tasks.create_task(self._in_turn(self.schedule.blows, begun))

    async def _ask(self, ask: Ask, begun: float) -> None:
        await _until_it_is(begun + ask.at_s)
        await self._up.wait()
        deadline = self.schedule.seconds + QUIET_S
        try:
            async with asyncio.timeout(deadline):
                self.got += await play(ask, self.gateway.url, self.secrets[ask.key])
        except TimeoutError:
            raise AssertionError(f"never answered to its end: {ask}") from None

    async def _in_turn(self, steps: tuple[Step, ...], begun: float) -> None:
        for step in steps:
            await _until_it_is(begun + step.at_s)
            await getattr(self, f"_{step.do}")(step.what)

    # what a step does

    async def _create(self, name: str, *words: str) -> None:
        said = await self.cli("--json", "keys", "create", name, *words, "--billing", BILLING[name])
        made = json.loads(said)
        self.secrets[name], self._key_ids[name] = made["secret"], made["id"]

    async def _revoke(self, name: str) -> None:
        await self.cli("keys", "revoke", self._key_ids[name])
        self.revoked_at[name] = time.monotonic()

    async def _grant(self, tenant: str) -> None:
        await self.cli("credits", "grant", GRANT, "--reason", "chaos", "--tenant", tenant)
        self.grants += 1

    async def _edit(self, kind: str) -> None:
        self._turn += kind == "plain"
        self.dollars += kind == "price"
        text = self._config
        if kind == "broken":
            text = text.replace("models:", "models: {", 1)
        (self.folder / "config.yaml").write_text(text)

    async def _hup(self, _: str) -> None:
        self.gateway.process.send_signal(signal.SIGHUP)

    async def _stop(self, signals: str) -> None:
        begun = time.monotonic()
        self._up.clear()
        self._note_memory()
        *first, last = (signal.Signals[f"SIG{name}"] for name in signals.split())
        for number in first:
            self.gateway.process.send_signal(number)
        status = await self.end(last)
        assert status in EXITS[signals], (signals, status, self.said)
        await self.serve()
        self.away.append((begun, time.monotonic()))

    async def end(self, number: int = signal.SIGTERM) -> int:
        """End the gateway; what it said is kept."""
        self._note_memory()
        status = await self.gateway.end(number)
        self.said += self.gateway.said
        return status

    async def make_peace(self) -> None:
        """Mend the config; wait until it is in force, and nothing is open anywhere."""
        (self.folder / "config.yaml").write_text(self._config)
        await self._hup("")
        async with asyncio.timeout(QUIET_S):
            while busy := await self._what_is_open():
                self.busy = busy
                await asyncio.sleep(0.05)

    async def _what_is_open(self) -> dict[str, object]:
        """Tell what is not as it has to be once all is quiet."""
        stats = json.loads(await _get(self.upstream.url, "/__stats"))
        shown = (await _get(self.gateway.url, "/metrics")).decode()
        gauges = dict(line.rsplit(" ", 1) for line in shown.splitlines() if line[:1] != "#")
        found = {
            "calls": stats["open"],
            "streams": int(gauges["gatewayctl_streams_open"]),
            "requests": int(gauges["gatewayctl_requests_in_flight"]),
            "rows": len(table(self.folder, "SELECT 1 FROM request WHERE state = 'open'")),
            "price": not table(
                self.folder, f"SELECT 1 FROM price WHERE input = {self.dollars * DOLLAR}"
            ),
        }
        return {name: what for name, what in found.items() if what}

    def _note_memory(self) -> None:
        with suppress(OSError, StopIteration):  # it is gone, or this is not Linux
            text = Path(f"/proc/{self.gateway.process.pid}/status").read_text()
            peak = next(line.split()[1] for line in text.splitlines() if line[:6] == "VmHWM:")
            self.peak_bytes = max(self.peak_bytes, int(peak) * 1024)


async def _until_it_is(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def _get(url: str, path: str) -> bytes:
    async with wire(url) as connection:
        return (await connection.ask(request("GET", path))).body
