"""Cancellation at every step of a flight, its pump and its hold: one settlement, nothing held."""

import asyncio
import json
import types

import pytest
import uvloop
from support.gateways import started
from support.priced import check_books
from support.raw_upstream import until

from server import clock
from server.calls import Call
from server.protocols import Protocol
from server.tenants import keys
from server.upstream.demo import DemoOptions

ASK = {"max_tokens": 30, "messages": [{"role": "user", "content": "hello"}]}
MOST_STEPS = 300
CONFIG = """
upstreams:
  demo: {protocol: demo}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], price: {input: "4", output: "20"}}
  stuck: {targets: [{upstream: demo, model: "fault:stall:60"}], price: {input: "4", output: "20"}}
  free: {targets: [{upstream: demo, model: demo-smart}], free: true}
tiers: {team: {name: Team, price_cents: 0, quota_tokens: 100000000}}
billing: {hold_slice_tokens: 16, min_output_tokens: 1}  # so that a stream's hold is grown
"""
MONEY, QUOTA = keys.Billing.PAY_PER_TOKEN, keys.Billing.SUBSCRIPTION
FORMS = [
    (model, protocol, stream, MONEY)
    for model, protocol in (("smart", "anthropic"), ("smart", "openai"), ("stuck", "anthropic"))
    for stream in (False, True)
] + [("smart", "anthropic", True, QUOTA), ("free", "anthropic", True, MONEY)]
NAMES = {"Flight._run": "pump", "Hold._adjust": "hold", "_handle": "handler"}


class Steps:
    """Counts the steps of one kind of task, and strikes before the chosen one."""

    def __init__(self, watched, chosen, victim, times):
        self.watched, self.chosen, self.victim, self.times = watched, chosen, victim, times
        self.taken = 0
        self.struck = False
        self.tasks = {}

    def make_task(self, loop, coroutine, **options):
        name = NAMES.get(coroutine.__qualname__)
        if name == self.watched:
            coroutine = self._stepped(coroutine)
        task = asyncio.Task(coroutine, loop=loop, **options)
        if name is not None:
            self.tasks[name] = task
        return task

    def _before_step(self):
        self.taken += 1
        if self.taken == self.chosen and self.victim in self.tasks:
            self.struck = True
            task = self.tasks[self.victim]
            task.cancel()
            for turn in range(1, self.times):
                asyncio.get_running_loop().call_later(0.0002 * turn, task.cancel)

    @types.coroutine
    def _stepped(self, coroutine):
        error = None
        while True:
            self._before_step()
            try:
                awaited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            try:
                yield awaited
            except BaseException as exc:  # noqa: BLE001 - handed on to the coroutine
                error = exc


async def _handle(gateway, call, flights):
    """Do what a route does, without a client."""
    flight = gateway.serve(call)
    flights.append(flight)
    async with flight:
        if flight.relay.body is None:
            while await flight.relay.handoff.get():
                pass


async def _cut_everywhere(folder, *strike):
    """Strike before each step of each form in turn; give how often that was, and the rows."""
    options = DemoOptions(pace_words_per_s=3000)
    async with started(folder, CONFIG, demo_options=options) as running:
        _, subscribed = await running.mint(billing=QUOTA)
        secrets = {MONEY: running.secret, QUOTA: subscribed}
        strikes = {form: await _cut_form(running, secrets, *form, *strike) for form in FORMS}
        calls = [entry.as_json() for entry in running.running.demo.journal.entries]
        return strikes, await running.rows(), calls


async def _cut_form(running, secrets, model, protocol, stream, billing, watched, victim, times):
    gateway, store = running.gateway, running.services.store
    caller = store.point(keys.authenticate, [secrets[billing]], clock.now())
    raw = json.dumps({**ASK, "model": model, "stream": stream}).encode()
    loop, journal = asyncio.get_running_loop(), running.running.demo.journal
    for chosen in range(1, MOST_STEPS):
        steps, flights = Steps(watched, chosen, victim, times), []
        name = f"req_{model}_{protocol}_{stream}_{billing}_{chosen}"
        call = Call(caller, Protocol(protocol), "claudecode", {}, raw, name)
        loop.set_task_factory(steps.make_task)
        task = loop.create_task(_handle(gateway, call, flights))
        await asyncio.wait([task], timeout=0.2 if model == "stuck" else None)
        loop.set_task_factory(None)
        assert task.done() or not steps.struck or victim == "pump"
        task.cancel()
        await until(lambda: not gateway.pumps, 0.5)
        await store.write(lambda: None)  # what is queued is committed
        assert gateway.upstream.pool.busy_count == 0
        await until(lambda: journal.open == 0)
        _check_timers(flights[0])
        _check_nothing_is_left(gateway, running.folder, name)
        if not steps.struck:
            return chosen - 1
    raise AssertionError("it never came to an end")


def _check_timers(flight):
    """A relay that nobody reads would go on pinging for ever."""
    timer = getattr(getattr(flight, "relay", None), "_timer", None)
    assert timer is None or timer.cancelled()


def _check_nothing_is_left(gateway, folder, request_id):
    """Whatever the moment: one row, settled; one charge if it used something; nothing held."""
    row = check_books(folder)[-1]
    assert not gateway.holds._growing
    if row["request_id"] != request_id:
        return  # the strike came before anything was held
    used = row["input_tokens"] + row["output_tokens"]
    spent = row["cost_micros"] + row["quota_tokens"]
    assert (spent > 0) == (used > 0 and row["model"] != "free")


@pytest.mark.parametrize(
    ("watched", "victim", "times"),
    [
        ("handler", "handler", 1),
        ("handler", "handler", 3),
        ("pump", "handler", 3),
        ("pump", "pump", 1),
        ("hold", "handler", 3),
        ("hold", "pump", 1),
    ],
)
def test_a_strike_before_any_step_settles_once(tmp_path, watched, victim, times):
    """`stuck` is a provider that falls silent in mid answer: only the strike can end that."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        strikes, rows, calls = runner.run(_cut_everywhere(tmp_path, watched, victim, times))

    assert min(_expected(strikes, watched)) >= 2
    served = {call["request_id"]: call for call in calls}
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert set(served) <= set(by_id)
    assert {row["state"] for row in rows} == {"settled"}
    assert {row["outcome"] for row in rows} <= {"cancelled", "completed"}
    read = {
        name: row["input_tokens"] + row["cache_read_input_tokens"] for name, row in by_id.items()
    }
    assert all(read[name] > 0 for name in served)
    # The first strikes come before the request has left: that costs nothing.
    assert 0 in [read[name] for name in set(by_id) - set(served)] or watched != "pump"
    for row in rows:
        if row["outcome"] == "completed":
            assert row["output_tokens"] == served[row["request_id"]]["usage"]["output_tokens"]
    assert " ERROR " not in (tmp_path / "gateway.log").read_text()


def _expected(strikes, watched):
    """Give how often each form was struck whose tasks are watched: only a stream's hold grows."""
    if watched != "hold":
        return strikes.values()
    grows = [form for form in FORMS if form[0] == "smart" and form[2]]
    return [strikes[form] for form in grows]
