"""The callers: each line of stdin is a job in JSON, answered with a line of figures in JSON.

A job says where to (`port`, `path`, `key`), what (`protocol`, `size`, `model`, `stream`, `deltas`)
and how: `concurrency` callers that ask again as soon as they are answered (a closed loop), or, with
a `rate`, so many requests a second whatever becomes of them (an open loop). Every answer is
checked whole; the first that is wrong ends the job.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field

import httptools
import uvloop
from bodies import body
from upstream import MARK

STAGGER_S = 0.003  # between the callers' first requests, or their deltas would come in step
SPIN_S = 0.002  # the loop's timers are no finer than a millisecond

LAST = {"anthropic": b'data: {"type":"message_stop"}\n\n', "openai": b"data: [DONE]\n\n"}


@dataclass(frozen=True)
class Question:
    """A request's bytes, and what a right answer to it looks like."""

    request: bytes
    last: bytes
    deltas: int

    @classmethod
    def of(cls, job):
        stream, protocol = job["stream"], job["protocol"]
        data = body(job["size"], protocol, model=job["model"], stream=stream)
        head = (
            f"POST {job['path']} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {job['key']}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        last = LAST[protocol] if stream else b"}"
        return cls(head.encode() + data, last, job["deltas"] if stream else 0)

    def check(self, status, answer):
        if status != 200 or not answer.endswith(self.last) or answer.count(MARK) != self.deltas:
            raise RuntimeError(f"a wrong answer ({status}): {answer[:300]!r}")


@dataclass
class Tally:
    """What a job has seen; times in milliseconds."""

    requests: int = 0
    events: int = 0
    latency_ms: list[float] = field(default_factory=list)
    first_byte_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)

    def figures(self, elapsed_s):
        spread = ("latency_ms", "first_byte_ms", "lag_ms")
        counts = {"requests": self.requests, "events": self.events, "elapsed_s": elapsed_s}
        return counts | {name: _percentiles(getattr(self, name)) for name in spread}


class Caller(asyncio.Protocol):
    """One kept-alive connection; `ask` sends a question and checks its answer."""

    def __init__(self, tally):
        self._tally = tally
        self._answered = None

    def connection_made(self, transport):
        self.transport = transport

    async def ask(self, question, scheduled=None):
        """Ask, and wait for the end; latency counts from `scheduled` (now if left out)."""
        tally = self._tally
        self._answered = asyncio.get_running_loop().create_future()
        self._parts, self._first_at = [], None
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        begun = time.monotonic()
        self.transport.write(question.request)
        await self._answered
        tally.latency_ms.append((time.monotonic() - (scheduled or begun)) * 1e3)
        tally.first_byte_ms.append((self._first_at - begun) * 1e3)
        answer = b"".join(self._parts)
        question.check(self._parser.get_status_code(), answer)
        tally.requests += 1
        tally.events += answer.count(b"data: ")

    def data_received(self, data):
        if self._first_at is None:
            self._first_at = time.monotonic()
        written = data[(at := data.rfind(MARK) + len(MARK)) : at + 19]
        if at >= len(MARK) and len(written) == 19:  # the newest delta of this read
            self._tally.lag_ms.append((time.monotonic_ns() - int(written)) / 1e6)
        self._parser.feed_data(data)

    def on_message_complete(self):
        self._answered.set_result(None)

    def connection_lost(self, exc):
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("the connection ended too early"))


class Job:
    """One job on its way."""

    def __init__(self, job):
        self._job, self._question, self._tally = job, Question.of(job), Tally()
        self._callers = []

    async def run(self):
        loop = asyncio.get_running_loop()
        for _ in range(self._job["concurrency"]):
            place = ("127.0.0.1", self._job["port"])
            _, caller = await loop.create_connection(lambda: Caller(self._tally), *place)
            self._callers.append(caller)
        begun = time.monotonic()
        until = begun + self._job["seconds"]
        async with asyncio.TaskGroup() as group:
            if rate := self._job.get("rate"):
                await self._open_loop(group, begun, until, 1 / rate)
            else:
                for place, caller in enumerate(self._callers):
                    group.create_task(self._closed_loop(caller, place, until))
        elapsed_s = time.monotonic() - begun
        for caller in self._callers:
            caller.transport.close()
        return self._tally.figures(elapsed_s)

    async def _closed_loop(self, caller, place, until):
        await asyncio.sleep(STAGGER_S * place if self._question.deltas else 0)
        await caller.ask(self._question)
        while time.monotonic() < until:
            await caller.ask(self._question)

    async def _open_loop(self, group, begun, until, apart_s):
        """Ask at fixed instants; with every caller busy a question waits, and its wait counts."""
        idle = asyncio.Queue()
        for caller in self._callers:
            idle.put_nowait(caller)

        async def ask(scheduled):
            caller = await idle.get()
            await caller.ask(self._question, scheduled)
            idle.put_nowait(caller)

        scheduled = begun
        while scheduled < until:
            await asyncio.sleep(max(0, scheduled - SPIN_S - time.monotonic()))
            while time.monotonic() < scheduled:  # noqa: ASYNC110 - a clock sets no event
                await asyncio.sleep(0)
            group.create_task(ask(scheduled))
            scheduled += apart_s


def _percentiles(samples):
    """Give the 50th and the 99th percentile; None where there is no sample."""
    ordered = sorted(samples)
    if not ordered:
        return {"p50": None, "p99": None}
    return {f"p{percent}": ordered[len(ordered) * percent // 100] for percent in (50, 99)}


def _figures(job):
    try:
        return uvloop.run(Job(job).run())
    except ExceptionGroup as group:  # the first caller's trouble has ended the others
        return {"error": str(group.exceptions[0])}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_figures(json.loads(line))), flush=True)  # noqa: T201 - the answer
