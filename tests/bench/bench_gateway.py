"""What a request, an event and a megabyte cost: the figures of a real `gatewayctl serve`.

    python tests/bench/bench_gateway.py [--seconds 4] [--json] [--folder FOLDER]

Three processes: a scripted upstream, the gateway with everything on (keys, presets, a settled row
for each request, synchronous commits) and the callers. The gateway has a core of its own where
there are two. CPU is what the kernel counted for the gateway, over the requests that it answered
meanwhile; an event's share of its request is in it. FOLDER decides which disk commits wait for.

A run counts when the machine was quiet: `others` is what all other processes used meanwhile, in
cores, and should stay below 0.2; `direct` is the same load straight at the upstream, the part of a
figure that is not the gateway's. Figures of CPU and memory need Linux.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
from processes import command, gateway, lay_out, process

HERE = Path(__file__).parent
PAUSE_MS = 20
WARM_UP = ("small", "large", "burst")


@dataclass(frozen=True)
class Measured:
    """A job's figures, and what the gateway and all other processes used meanwhile."""

    figures: dict[str, Any]
    gateway_s: float | None
    others_cores: float | None

    def cpu_each(self, what, scale):
        """Give the gateway's CPU over the requests or events; `scale` makes ms or us of it."""
        return None if self.gateway_s is None else self.gateway_s / self.figures[what] * scale


@dataclass(frozen=True)
class Row:
    """A line of the table: how a figure is read from a job, and what we aim at.

    With `less`, it is by how much more than that job's.
    """

    name: str
    label: str
    aim: float | None
    job: str
    read: Callable[[Measured], float | None]
    direct: str | None = None  # the job that has the same figure without the gateway
    less: str | None = None


def cpu_ms(measured):
    return measured.cpu_each("requests", 1e3)


def cpu_us_per_event(measured):
    return measured.cpu_each("events", 1e6)


def requests_per_s(measured):
    return measured.figures["requests"] / measured.figures["elapsed_s"]


def spread(kind, percentile):
    return lambda measured: measured.figures[kind][percentile]


ROWS = (
    Row("request_cpu_ms", "CPU ms per request, 1.9 KB body", 0.20, "small", cpu_ms),
    Row("large_cpu_ms", "CPU ms per request, 60 KB body, preset injected", 0.30, "large", cpu_ms),
    Row("chat_cpu_ms", "CPU ms per request, 1.9 KB body, chat completions", None, "chat", cpu_ms),
    Row("paced_cpu_us", "CPU µs per SSE event, paced", 80, "paced", cpu_us_per_event),
    Row("burst_cpu_us", "CPU µs per SSE event, burst", 3, "burst", cpu_us_per_event),
    Row("chat_paced_cpu_us", "CPU µs per SSE event, paced, chat completions", None, "chat paced",
        cpu_us_per_event),
    Row("across_large_cpu_ms", "CPU ms per request, 60 KB body, translated for a chat upstream",
        1.5, "large across", cpu_ms),
    Row("across_burst_cpu_us", "CPU µs per SSE event, burst, translated from a chat upstream", 15,
        "burst across", cpu_us_per_event),
    Row("requests_per_s_16", "requests/s at concurrency 16", 4000, "small", requests_per_s),
    Row("requests_per_s_64", "requests/s at concurrency 64", 6000, "small at 64", requests_per_s),
    Row("first_byte_p50_ms", "TTFB p50, 32 streams starting together, ms", 1, "paced",
        spread("first_byte_ms", "p50"), "direct paced"),
    Row("lag_p99_ms", "relay lag p99, paced, ms", 0.5, "paced", spread("lag_ms", "p99"),
        "direct paced"),
    Row("slow_cpu_ms", "CPU ms per request at 40 requests/s", 1.8, "at 40/s", cpu_ms),
    Row("slow_p50_ms", "latency p50 at 40 requests/s, ms", None, "at 40/s",
        spread("latency_ms", "p50"), "direct at 40/s"),
    Row("money_cpu_ms", "hold and settlement: CPU ms of a request", 0.10, "small", cpu_ms,
        less="free"),
    Row("money_p50_ms", "hold and settlement: latency p50 of 200 at once, ms", 3,
        "200 at once", spread("latency_ms", "p50"), less="200 free ones"),
)  # fmt: skip


def jobs(seconds):
    """Describe the load of each row; a stream is no longer than `seconds`."""
    deltas = max(1, min(100, int(seconds * 1000) // PAUSE_MS))
    whole = {"protocol": "anthropic", "path": "/v1/messages", "size": "small", "stream": False}
    whole |= {"model": "bench-0-0", "deltas": 0, "concurrency": 16, "seconds": seconds}
    free = whole | {"model": "free", "target": whole["model"]}  # no price, so no hold and no charge
    # Half a second each: callers without a pause would measure the gateway's load instead.
    long = whole | {"stream": True, "deltas": 2, "model": "bench-2-250", "concurrency": 200}
    stream = whole | {"stream": True, "deltas": deltas, "concurrency": 32}
    paced = stream | {"model": f"bench-{deltas}-{PAUSE_MS}"}
    burst = stream | {"deltas": 2 * deltas, "model": f"bench-{2 * deltas}-0", "concurrency": 8}
    chat = {"protocol": "openai", "path": "/v1/chat/completions"}
    large = whole | {"path": "/claudecode/v1/messages", "size": "large"}
    across = {"upstream": "openai"}  # a Messages client all the same
    return {
        "small": whole,
        "free": free,
        "large": large,
        "large across": large | across | {"model": "across", "target": large["model"]},
        "chat": whole | chat,
        "small at 64": whole | {"concurrency": 64},
        "200 at once": long,
        "200 free ones": long | {"model": "free-long", "target": long["model"]},
        "burst": burst,
        "burst across": burst | across | {"model": "across-burst", "target": burst["model"]},
        "direct paced": paced,
        "paced": paced,
        "chat paced": paced | chat,
        "direct at 40/s": whole | {"rate": 40},
        "at 40/s": whole | {"rate": 40},
    }


class Bench:
    """Gives jobs to the callers, and watches what the gateway and the machine do meanwhile."""

    def __init__(self, callers, upstream, serve, ports, key):
        self._callers, self._serve = callers, serve
        self._ours = (serve.pid, callers.pid, upstream.pid, os.getpid())
        self._ports, self._key = ports, key
        self.sent = {"gateway": 0, "direct": 0}

    def run(self, name, job):
        """Run a job to its end; a name that begins with `direct` goes past the gateway."""
        way = "direct" if name.startswith("direct") else "gateway"
        line = json.dumps(job | {"port": self._ports[way], "key": self._key})
        before = self._used()
        self._callers.stdin.write(line + "\n")
        self._callers.stdin.flush()
        figures = json.loads(self._callers.stdout.readline())
        if "error" in figures:
            sys.exit(f"{name}: {figures['error']}")
        self.sent[way] += figures["requests"]
        if before[1] is None:
            return Measured(figures, None, None)
        elapsed_s, gateway_s, others_s = (
            now - then for now, then in zip(self._used(), before, strict=True)
        )
        return Measured(figures, gateway_s, max(0.0, others_s / elapsed_s))

    def _used(self):
        """Give the time, the gateway's CPU, and the CPU of all that is no part of the bench."""
        ours = [machine.cpu_s(pid) for pid in self._ours]
        busy_s = machine.busy_s()
        return time.monotonic(), ours[0], None if busy_s is None else busy_s - sum(ours)


def measure(seconds, folder):
    """Run every job; give the lines of the report and whether all requests are accounted for."""
    wanted, core, other_core = jobs(seconds), *machine.cores()
    machine.pin(os.getpid(), other_core)
    starts = 3 if seconds >= 1 else 1
    with process([HERE / "upstream.py"], other_core) as upstream:
        upstream_port = int(upstream.stdout.readline())
        key = lay_out(folder, upstream_port, wanted.values())
        ready = [_ready_s(folder, core) for _ in range(starts - 1)]
        with (
            gateway(folder, core) as (serve, port, ready_s),
            process([HERE / "load.py"], other_core) as callers,
        ):
            ports = {"gateway": port, "direct": upstream_port}
            bench = Bench(callers, upstream, serve, ports, key)
            for name in WARM_UP:
                bench.run(name, wanted[name] | {"seconds": seconds / 4})
            measured = {name: bench.run(name, job) for name, job in wanted.items()}
            memory = machine.pss_mib(serve.pid)
        upstream.stdin.close()
        answered = int(upstream.stdout.readline())
    more = (
        ("pss_mib", "memory (PSS) after the run, MiB", 45, memory),
        ("ready_s", "`serve` ready, s", 1.0, statistics.median([*ready, ready_s])),
        ("help_s", "`gatewayctl --help`, s", 0.3,
         statistics.median(_help_s(folder) for _ in range(starts))),
    )  # fmt: skip
    lines = [_line(row, measured) for row in ROWS]
    lines += [_bare_line(*figure) for figure in more]
    return lines, _accounts(folder, bench.sent, answered)


def _ready_s(folder, core):
    with gateway(folder, core) as (_, _, ready_s):
        return ready_s


def _help_s(folder):
    begun = time.perf_counter()
    command(folder, "--help")
    return time.perf_counter() - begun


def _accounts(folder, sent, answered):
    """Compare what was sent with what the upstream answered and what the gateway has on record."""
    usage = json.loads(command(folder, "usage", "--json"))
    return {
        "sent": sent["gateway"],
        "on_record": usage["total"]["requests"],
        "reached_the_upstream": answered - sent["direct"],
    }


def _line(row, measured):
    job = measured[row.job]
    value = row.read(job)
    if row.less is not None and value is not None:
        value -= row.read(measured[row.less])
    line = _bare_line(row.name, row.label, row.aim, value)
    if row.direct is not None:
        line["direct"] = row.read(measured[row.direct])
    return line | {"others_cores": job.others_cores}


def _bare_line(name, label, aim, value):
    line = {"name": name, "label": label, "value": value, "aim": aim}
    return line | {"direct": None, "others_cores": None}


def markdown(report):
    """Write the report for a person."""
    facts = {**report["machine"], "calibration": f"{report['calibration_ms']:.1f} ms"}
    texts = [f"- {name}: {value}" for name, value in facts.items()]
    texts.append(
        "- requests: " + ", ".join(f"{n} {name}" for name, n in report["accounts"].items())
    )
    columns = ("value", "aim", "direct", "others_cores")
    texts += ["", "| | measured | aim | direct | others |", "|---|---|---|---|---|"]
    for line in report["rows"]:
        cells = (line["label"], *(_shown(line[column]) for column in columns))
        texts.append(f"| {' | '.join(cells)} |")
    if any(line["value"] is None for line in report["rows"]):
        texts += ["", "CPU and memory can only be read on Linux."]
    return "\n".join(texts)


def _shown(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4, help="how long each load lasts")
    parser.add_argument("--folder", type=Path, help="where the database is, for a while")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    report = {"machine": machine.description(), "calibration_ms": machine.calibration_ms()}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        report["rows"], report["accounts"] = measure(chosen.seconds, Path(folder))
    print(json.dumps(report, indent=2) if chosen.json else markdown(report))  # noqa: T201
    if len(set(report["accounts"].values())) > 1:
        sys.exit("The counts of requests differ: these figures are not to be trusted.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
