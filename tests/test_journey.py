"""The attempts of one request, in virtual time: only the providers are played."""

import asyncio
import json
from contextlib import closing
from operator import itemgetter

import pytest
from support import money
from support.providers import config_of, keys_of, target
from support.relays import BEGIN, HEAD, MESSAGES
from support.virtual_time import VirtualTimeLoop, run

from server.answering import begin_attempt, relay_of
from server.billing import prices
from server.calls import Call, Rules
from server.config.schema import UsageLimits
from server.errors import InsufficientBalance, InvalidRequest, UpstreamError, UpstreamOverloaded
from server.holding import Hold, Holds
from server.journey import Journey
from server.limits.bounds import Bound
from server.protocols import Protocol
from server.routing.breaker import State
from server.routing.router import Router
from server.store.db import open_database
from server.store.migrate import migrate
from server.store.models import Tenant
from server.tenants.keys import Billing, Caller, Scope
from server.upstream.connection import Head
from server.usage.record import Outcome

ANTHROPIC = {"protocol": "anthropic", "base_url": "https://there.example"}
PRICE = {"input": "4.00", "output": "20.00"}
DEAR = {"input": "40.00", "output": "200.00"}
ASK = {"model": "smart", "max_tokens": 100, "stream": True}
BODY = json.dumps({**ASK, "messages": [{"role": "user", "content": "hi"}]}).encode()
JSON = [(b"content-type", b"application/json")]


class Wire:
    """A connection that never has to wait."""

    def pause(self):
        """Nothing comes by itself."""

    resume = abort = pause


class Providers:
    """Play what providers answer, in turn; `asked` tells when, where, and with which key."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = []

    async def forward(self, dispatch, attempt):
        at = asyncio.get_running_loop().time() - VirtualTimeLoop.START
        self.asked.append((round(at, 6), dispatch.target.upstream, dispatch.key))
        attempt.attach(Wire())
        try:
            return await self._answers.pop(0)(attempt)
        finally:
            attempt.detach()

    @property
    def where(self):
        return [(upstream, key) for _, upstream, key in self.asked]


def status(code, message="its own words", headers=()):
    """Answer with an error."""

    async def play(attempt):
        attempt.on_head(Head(code, [*JSON, *headers]))
        attempt.on_data(json.dumps({"error": {"message": message}}).encode())
        attempt.on_end(None)
        return await attempt.over

    return play


def stream(events=MESSAGES, error=None):
    """Answer with a stream, which may break off."""

    async def play(attempt):
        attempt.on_head(HEAD)
        attempt.on_data(events)
        attempt.on_end(error)
        return await attempt.over

    return play


def slow(events=MESSAGES, *, after_s):
    async def play(attempt):
        await asyncio.sleep(after_s)
        return await stream(events)(attempt)

    return play


async def no_connection(_attempt):
    return UpstreamError("The provider cannot be reached.")


def limited(wait_s):
    return status(429, "slow down", [(b"retry-after", str(wait_s).encode())])


class Here:
    """A store that does at once what a store does: the real jobs, on a real database."""

    async def write(self, call, *args, **kwargs):
        return money.run(call, *args, **kwargs)

    read = write

    def enqueue(self, call, *args, **kwargs):
        done = asyncio.get_running_loop().create_future()
        done.set_result(money.run(call, *args, **kwargs))
        return done


class House:
    """A gateway's parts around the journey: router, rules, holds."""

    def __init__(self, config, names, answers):
        self._house = money.house()
        Tenant.update(balance_micros=1_000_000).execute()
        self.rules = Rules.of(config, {}, money.run(prices.in_force, config, money.NOW))
        self.router = Router(config, keys_of(config, **names))
        self.providers = Providers(*answers)
        self._holds = Holds(Here(), self._house.instance_id)

    async def serve(self, raw=BODY, bounds=()):
        """Serve a request as a flight does; give what became of it."""
        key = self._house.keys[Billing.PAY_PER_TOKEN]
        caller = Caller(
            key, "key_1", self._house.tenant_id, None, Billing.PAY_PER_TOKEN, Scope.MANAGE, None
        )
        number = f"req_{next(self._house.numbers)}"
        call = Call(caller, Protocol.ANTHROPIC, None, {}, raw, number, bounds=bounds)
        journey = Journey(call, self.rules, self.router, self.providers)
        return await Served(self, call, journey, self._holds).run()

    def states(self):
        now = asyncio.get_running_loop().time()
        return {str(part): breaker.state(now) for part, breaker in self.router.breakers()}

    @property
    def held_micros(self):
        return money.balance(self._house.tenant_id)[1]


class Served:
    """What became of a request."""

    def __init__(self, house, call, journey, holds):
        self.house, self.call, self.journey = house, call, journey
        self.hold = Hold(holds, call, journey.plan, house.rules)
        self.relay = relay_of(call, journey.plan, house.rules.config, ping_after_s=15)
        begin_attempt(self.relay, call, journey.plan, self.hold.estimated_input)
        self.error, self.text = None, b""

    async def run(self):
        outcome = Outcome.CANCELLED
        try:
            payload = await self.hold.place()
            self.hold.follow(self.relay)
            self.error = await self.journey.run(payload, self.hold, self.relay)
            outcome = Outcome.COMPLETED if self.error is None else Outcome.UPSTREAM_ERROR
        finally:
            self.hold.settle(self.relay, self.tried, outcome=outcome, error=self.error, begun=0.0)
            self.relay.release(self.error)
        if self.error is None:
            while piece := await self.relay.handoff.get():
                self.text += piece
        return self

    @property
    def tried(self):
        return self.journey.tried

    @property
    def told(self):
        return [(each.upstream, each.key, each.error) for each in self.tried]

    @property
    def row(self):
        return money.stored(self.call.request_id)


ONE = [target("one")]
ELSEWHERE = [target("two", "f")]
TWO = [target("one"), target("two", order=2)]


@pytest.fixture
def playing(tmp_path):
    """Give what plays a scenario, `async def scenario(house)`, with these providers' answers."""
    migrate(tmp_path / "gateway.db")
    with closing(open_database(tmp_path / "gateway.db")):

        def play(scenario, *answers, models=None, names=None, upstreams=None, mode=None, **routing):
            given = models or {"smart": TWO}
            sections = {
                name: each if isinstance(each, dict) else {"targets": each, "price": PRICE}
                for name, each in given.items()
            }
            known = {"one": ANTHROPIC, "two": ANTHROPIC, **(upstreams or {})}
            limits = {"mode": mode or "enforce"}
            config = config_of(sections, known, routing=routing, limits=limits)

            async def whole():
                return await scenario(House(config, names or {}, answers))

            return run(whole())

        yield play


def serve(house):
    return house.serve()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (no_connection, "upstream_error"),
        (status(500), "upstream_error"),
        (status(503), "overloaded"),
        (status(401), "upstream_error"),
        (status(404), "upstream_error"),
        (limited(30), "rate_limited"),
        (limited(3), "rate_limited"),
        (stream(b"", UpstreamError("reset")), "upstream_error"),
        (stream(MESSAGES.split(b"\n\n")[0] + b"\n\n", UpstreamError("reset")), "upstream_error"),
    ],
)
def test_what_fails_before_content_is_served_elsewhere_and_nobody_learns_of_it(
    playing, failure, reason
):
    async def scenario(house):
        done = await house.serve()
        return done, house.providers.asked, house.held_micros

    done, asked, held = playing(scenario, failure, stream())

    assert (done.error, done.text, held) == (None, MESSAGES, 0)
    assert asked == [(0.0, "one", 0), (0.0, "two", 0)]
    assert done.told == [("one", 1, reason), ("two", 1, None)]
    row = done.row
    assert (row.upstream, row.outcome) == ("two", "completed")
    assert [each.get("error") for each in json.loads(row.attempts)] == [reason, None]
    assert row.cost_micros > 0


def test_a_request_that_is_served_at_once_was_tried_once(playing):
    done = playing(serve, stream())

    assert (done.text, done.told, done.row.attempts) == (MESSAGES, [("one", 1, None)], None)


def test_what_fails_behind_its_first_content_is_not_tried_again(playing):
    """A client is given no text twice."""

    async def scenario(house):
        done = await house.serve()
        return done, house.providers.where

    done, where = playing(scenario, stream(BEGIN["anthropic"], UpstreamError("reset")), stream())

    assert where == [("one", 0)]
    assert str(done.error) == "reset"
    assert done.relay.has_delivered


@pytest.mark.parametrize("wait_s", [1, 3, 8])
def test_a_limited_request_waits_exactly_as_long_as_the_provider_wants(playing, wait_s):
    async def scenario(house):
        done = await house.serve()
        return done, house.providers.asked

    done, asked = playing(scenario, limited(wait_s), stream(), models={"smart": ONE})

    assert asked == [(0.0, "one", 0), (float(wait_s), "one", 0)]
    assert done.text == MESSAGES


def test_a_provider_that_wants_a_long_wait_is_passed_on_at_once(playing):
    async def scenario(house):
        done = await house.serve()
        return done, house.providers.asked

    done, asked = playing(scenario, limited(9), models={"smart": ONE})

    assert asked == [(0.0, "one", 0)]
    assert (done.error.http_status, done.error.retry_after_s) == (429, 9)
    assert done.error.headers["retry-after"] == "9"


@pytest.mark.parametrize(("header", "waited"), [([], 5.0), ([(b"retry-after", b"0")], 0.5)])
def test_a_limit_that_tells_no_time_is_waited_for_a_usual_one(playing, header, waited):
    async def scenario(house):
        await house.serve()
        return house.providers.asked

    (_, (at, *_)) = playing(scenario, status(429, headers=header), stream(), models={"smart": ONE})

    assert waited / 2 <= at <= waited


def test_backing_off_doubles_with_chance_and_ends_with_the_attempts(playing):
    async def scenario(house):
        done = await house.serve()
        return done, house.providers.asked

    failures = [status(500)] * 3
    done, asked = playing(scenario, *failures, models={"smart": ONE})

    first, second, third = map(itemgetter(0), asked)
    assert 0.25 <= second - first <= 0.5 <= third - second <= 1.0
    assert done.error.status == 502
    assert len(done.tried) == 3


@pytest.mark.parametrize("code", [400, 413])
def test_a_clients_own_mistake_is_passed_on_at_once(playing, code):
    async def scenario(house):
        done = await house.serve()
        return done, house.providers.asked, set(house.states().values())

    done, asked, states = playing(scenario, status(code, "prompt is too long: 9 > 8"))

    assert asked == [(0.0, "one", 0)]
    assert (done.error.http_status, str(done.error)) == (code, "prompt is too long: 9 > 8")
    assert states == {State.CLOSED}
    assert done.row.cost_micros == 0


@pytest.mark.parametrize("code", [401, 402])
def test_a_refused_key_gives_way_to_another_and_is_not_asked_by_the_next(playing, code):
    async def scenario(house):
        first, second = await house.serve(), await house.serve()
        return first, second, house.providers.asked

    names = {"one": ["k1", "k2"]}
    first, second, asked = playing(
        scenario, status(code), stream(), stream(), models={"smart": ONE}, names=names
    )

    (_, _, refused), (at, _, other), (_, _, next_one) = asked
    assert at == 0.0
    assert {refused, other} == {0, 1}
    assert next_one == other
    assert (first.text, second.text) == (MESSAGES, MESSAGES)
    assert second.told == [("one", other + 1, None)]


def test_what_one_key_is_forbidden_another_may_be_allowed(playing):
    """Half of the conversations would never be served else; but no key is held off for it."""

    class OneMayNot(Providers):
        async def forward(self, dispatch, attempt):
            self._answers.append(status(403) if dispatch.key == 0 else stream())
            return await super().forward(dispatch, attempt)

    async def scenario(house):
        house.providers = OneMayNot()
        bodies = [BODY.replace(b"hi", b"hi %d" % number) for number in range(8)]
        served = [await house.serve(body) for body in bodies]
        return served, house.providers.where, set(house.states().values())

    names = {"one": ["k1", "k2"]}
    served, where, states = playing(scenario, models={"smart": ONE}, names=names)

    assert [each.text for each in served] == [MESSAGES] * 8
    assert 0 < where.count(("one", 0)) < 8
    assert states == {State.CLOSED}


def fallback(price=PRICE, targets=ELSEWHERE):
    return {
        "smart": {"targets": ONE, "price": PRICE, "fallback": "fast"},
        "fast": {"targets": targets, "price": price},
    }


def test_a_fallback_is_billed_as_what_it_is(playing):
    async def scenario(house):
        held = []

        async def look(attempt):
            held.append(house.held_micros)
            return await stream()(attempt)

        house.providers = Providers(status(500), look)
        done = await house.serve()
        return done, held, house.held_micros, house.rules.prices["fast"].number

    done, (during,), after, number = playing(scenario, models=fallback(DEAR))

    row = done.row
    assert (row.model, row.upstream, row.upstream_model) == ("fast", "two", "f")
    assert row.price_id == number
    assert (row.requested_model, row.outcome, row.estimated) == ("smart", "completed", False)
    assert during > 100 * 200
    assert after == 0
    assert json.loads(done.journey.plan.payload)["model"] == "f"


def stays_with_the_first(playing, bounds=(), balance=1_000_000, **of_fallback):
    """Let a first target fail where its fallback is out of reach; it is tried again, to the end."""

    async def scenario(house):
        Tenant.update(balance_micros=balance).execute()
        done = await house.serve(bounds=bounds)
        return done, house.providers.where, house.held_micros

    answers = [status(500, "first"), status(503), status(500)]
    return playing(scenario, *answers, models=fallback(**of_fallback))


@pytest.mark.parametrize("targets", [ELSEWHERE, ONE], ids=["other", "same target"])
def test_a_fallback_that_is_too_dear_leaves_the_error_standing(playing, targets):
    done, where, held = stays_with_the_first(playing, price=DEAR, targets=targets, balance=5_000)

    assert where == [("one", 0)] * 3
    assert (done.error.status, done.row.model, done.row.cost_micros, held) == (502, "smart", 0, 0)
    assert done.row.error == "upstream_error"


def test_a_fallback_that_the_key_may_not_use_leaves_the_error_standing(playing):
    bound = Bound(("key", "key_1"), "this key", UsageLimits(models=("smart",)))
    done, where, held = stays_with_the_first(playing, bounds=(bound,))

    assert where == [("one", 0)] * 3
    assert (done.error.status, done.row.model, held) == (502, "smart", 0)


def test_a_fallback_that_the_key_may_not_use_is_no_first_place_either(playing):
    """It would be told that it may not use a model that it did not ask for."""
    bound = Bound(("key", "key_1"), "this key", UsageLimits(models=("smart",)))

    async def scenario(house):
        await house.serve(bounds=(bound,))
        await refused(house, 5, bounds=(bound,))
        return (await house.serve()).row.model

    models = fallback()
    assert playing(scenario, status(500), stream(), models=models, breaker_failures=1) == "fast"


def test_limits_that_are_not_enforced_keep_nobody_from_a_fallback(playing):
    bound = Bound(("key", "key_1"), "this key", UsageLimits(models=("smart",)))

    async def scenario(house):
        return (await house.serve(bounds=(bound,))).told

    told = playing(scenario, status(500), stream(), models=fallback(), mode="shadow")

    assert told == [("one", 1, "upstream_error"), ("two", 1, None)]


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SEARCHING = json.dumps({**ASK, "messages": [{"role": "user", "content": "hi"}], "tools": [SEARCH]})
NO_SEARCH = {
    "protocol": "openai",
    "base_url": "https://there.example/v1",
    "compat": {"server_tools": "refuse"},
}
PRICED_SEARCH = {**PRICE, "per_request": {"web_search": "0.01"}}


def searching(house):
    return house.serve(SEARCHING.encode())


def test_a_target_that_cannot_take_the_request_gives_way_to_one_that_can(playing):
    async def scenario(house):
        first, second = await searching(house), await house.serve()
        return first, second, house.providers.asked

    models = {
        "smart": {"targets": [target("chat"), target("one", order=2)], "price": PRICED_SEARCH}
    }
    first, second, asked = playing(
        scenario, stream(), status(400), models=models, upstreams={"chat": NO_SEARCH}
    )

    assert (first.text, first.told, first.row.upstream) == (MESSAGES, [("one", 1, None)], "one")
    assert json.loads(first.journey.plan.payload)["tools"] == [SEARCH]
    assert second.error.http_status == 400
    assert [where for _, where, _ in asked] == ["one", "chat"]


def test_a_request_without_a_price_is_served_by_a_fallback_that_has_one(playing):
    models = {
        "smart": {"targets": ONE, "price": PRICE, "fallback": "fast"},
        "fast": {"targets": ELSEWHERE, "price": PRICED_SEARCH},
    }
    done = playing(searching, stream(), models=models)

    assert (done.row.requested_model, done.row.model) == ("smart", "fast")


def test_the_first_refusal_is_told_where_no_target_can_take_the_request(playing):
    async def scenario(house):
        with pytest.raises(InvalidRequest, match="web_search") as refusal:
            await searching(house)
        return refusal.value, house.providers.asked

    models = {
        "smart": {"targets": [target("chat")], "price": PRICED_SEARCH, "fallback": "fast"},
        "fast": {"targets": ELSEWHERE, "price": PRICE},
    }
    refusal, asked = playing(scenario, models=models, upstreams={"chat": NO_SEARCH})

    assert (refusal.param, asked) == ("tools", [])


def only_one_left(playing, failing):
    """Ask for what the target that is left cannot take, while another one has been failing."""

    async def scenario(house):
        assert (await house.serve()).error.status == 502
        await searching(house)

    models = {
        "smart": {"targets": [target("one"), target("chat", order=2)], "price": PRICED_SEARCH}
    }
    upstreams = {"one": failing, "chat": NO_SEARCH}
    settings = {"breaker_failures": 1, "max_attempts": 1}
    playing(scenario, status(500), models=models, upstreams=upstreams, **settings)


def test_a_request_that_only_a_failing_target_could_take_is_to_come_again(playing):
    with pytest.raises(UpstreamOverloaded, match=r'of "smart" have .* again in 5 s'):
        only_one_left(playing, ANTHROPIC)


def test_a_request_that_a_failing_target_could_not_take_either_is_refused(playing):
    with pytest.raises(InvalidRequest, match="web_search"):
        only_one_left(playing, NO_SEARCH)


def test_a_hold_goes_on_growing_where_a_fallback_was_out_of_reach(playing):
    """It is looked after again: else a silent stream would think on at nobody's cost."""

    async def scenario(house):
        Tenant.update(balance_micros=5_000).execute()
        house.providers = Providers(status(500), slow(after_s=3))
        done = await asyncio.create_task(house.serve())
        return done.text, done.hold._unseen

    text, unseen = playing(scenario, models=fallback(DEAR))

    assert text == MESSAGES
    assert unseen > 200


def test_a_client_that_leaves_during_the_backoff_owes_nothing(playing):
    async def scenario(house):
        task = asyncio.create_task(house.serve())
        await asyncio.sleep(0.1)
        during = house.held_micros
        task.cancel()
        await asyncio.wait([task])
        row = money.stored("req_1")
        again = await house.serve()
        return during, row, house.held_micros, again.text

    during, row, held, text = playing(
        scenario, status(500), stream(), models={"smart": ONE}, names={"one": ["k1"]}
    )

    assert during > 0
    assert (row.outcome, row.cost_micros, row.output_tokens, held) == ("cancelled", 0, 0, 0)
    assert text == MESSAGES


def test_failures_open_the_breaker_and_one_at_a_time_tries_whether_it_may_close(playing):
    async def scenario(house):
        loop = asyncio.get_running_loop()
        for _ in range(5):
            assert (await house.serve()).error.status == 502
        opened = loop.time()
        for at, wait_s in ((0.0, 5), (2.5, 3), (4.9, 1)):
            await asyncio.sleep(opened + at - loop.time())
            await refused(house, wait_s)
        await asyncio.sleep(opened + 5 - loop.time())
        probe = asyncio.create_task(house.serve())
        await asyncio.sleep(1)
        await refused(house, 5)
        assert house.states()["one/m"] is State.HALF_OPEN
        served = await probe
        return served.text, house.states()["one/m"], (await house.serve()).text

    answers = [*[status(500)] * 5, slow(after_s=2), stream()]
    found = playing(scenario, *answers, models={"smart": ONE}, max_attempts=1)

    assert found == (MESSAGES, State.CLOSED, MESSAGES)


async def refused(house, wait_s, bounds=()):
    """Be refused without a wait, and without a provider that hears of it."""
    loop, asked = asyncio.get_running_loop(), len(house.providers.asked)
    before = loop.time()
    with pytest.raises(UpstreamOverloaded, match=f"tries again in {wait_s} s") as refusal:
        await house.serve(bounds=bounds)
    assert refusal.value.retry_after_s == wait_s
    assert (loop.time(), len(house.providers.asked)) == (before, asked)


async def probing(house):
    """Have five requests fail, and give the probe that follows, a second under way."""
    for _ in range(5):
        await house.serve()
    await asyncio.sleep(5)
    probe = asyncio.create_task(house.serve())
    await asyncio.sleep(1)
    return probe


def test_a_probe_whose_client_leaves_is_given_back(playing):
    async def scenario(house):
        probe = await probing(house)
        probe.cancel()
        await asyncio.wait([probe])
        return (await house.serve()).text, house.states()["one/m"]

    answers = [*[status(500)] * 5, slow(after_s=60), stream()]
    found = playing(scenario, *answers, models={"smart": ONE}, max_attempts=1)

    assert found == (MESSAGES, State.CLOSED)


def test_a_probe_that_was_cut_before_it_answered_shows_nothing(playing):
    """The balance ran out while the provider was silent: that is no sign of its health."""

    async def scenario(house):
        await house.serve()
        await asyncio.sleep(5)
        Tenant.update(balance_micros=9_000).execute()
        probe = await asyncio.create_task(house.serve(BODY.replace(b"100", b"20000")))
        return probe.error, house.states()["one/m"]

    async def silent(attempt):
        return await attempt.over

    error, state = playing(
        scenario, status(500), silent, models={"smart": ONE}, max_attempts=1, breaker_failures=1
    )

    assert isinstance(error, InsufficientBalance)
    assert state is State.HALF_OPEN


CUT = BEGIN["anthropic"]
TORN = CUT + b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'


@pytest.mark.parametrize(
    "failing", [stream(CUT, UpstreamError("reset")), stream(CUT), stream(TORN)]
)
def test_what_keeps_failing_behind_its_first_content_is_left_alone_too(playing, failing):
    """Nobody can be served elsewhere any more, but who comes later can."""

    async def scenario(house):
        for _ in range(7):
            await house.serve()
        return house.providers.where, house.states()["one/m"]

    where, state = playing(scenario, *[failing] * 5, stream(), stream())

    assert where == [("one", 0)] * 5 + [("two", 0)] * 2
    assert state is State.OPEN


def test_a_probe_whose_answer_has_begun_lets_others_follow(playing):
    """It may take minutes; what counts against its place is how it ends."""

    async def scenario(house):
        probe = await probing(house)
        during = house.states()["one/m"], (await house.serve()).text
        return during, (await probe).error is None, house.states()["one/m"]

    async def lasting(attempt):
        attempt.on_head(HEAD)
        attempt.on_data(CUT)
        await asyncio.sleep(60)
        attempt.on_end(UpstreamError("reset"))
        return await attempt.over

    answers = [*[status(500)] * 5, lasting, stream()]
    found = playing(scenario, *answers, models={"smart": ONE}, max_attempts=1)

    assert found == ((State.CLOSED, MESSAGES), False, State.CLOSED)


def test_a_probe_that_fails_keeps_the_breaker_open_for_twice_as_long(playing):
    async def scenario(house):
        for _ in range(5):
            await house.serve()
        await asyncio.sleep(5)
        assert (await house.serve()).error.status == 502
        await refused(house, 10)

    playing(scenario, *[status(500)] * 6, models={"smart": ONE}, max_attempts=1)


def test_all_that_wait_in_vain_for_a_full_upstream_wait_once(playing):
    """Its other keys are the same queue."""

    async def scenario(house):
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(house.serve())
        await asyncio.sleep(0.1)
        begun = loop.time()
        second = await house.serve()
        first.cancel()
        return second, loop.time() - begun

    upstream = {**ANTHROPIC, "max_concurrent": 1, "max_wait_s": 2}
    done, waited = _with_queue(playing, scenario, upstream)

    assert (done.error.status, done.error.retry_after_s) == (529, 2)
    assert waited == pytest.approx(2.0)
    assert done.tried == []


def _with_queue(playing, scenario, upstream):
    async def queued(house):
        config = config_of(
            {"smart": {"targets": ONE, "price": PRICE}}, {"one": upstream, "two": ANTHROPIC}
        )
        house.router.adopt(config, keys_of(config, one=["k1", "k2", "k3"]))
        return await scenario(house)

    return playing(queued, slow(after_s=60), models={"smart": ONE}, names={"one": ["k1"]})


def test_who_waits_in_vain_for_a_full_upstream_is_served_by_another(playing):
    async def scenario(house):
        full = {**ANTHROPIC, "max_concurrent": 1, "max_wait_s": 2}
        config = config_of(
            {"smart": {"targets": TWO, "price": PRICE}}, {"one": full, "two": ANTHROPIC}
        )
        house.router.adopt(config, keys_of(config))
        first = asyncio.create_task(house.serve())
        await asyncio.sleep(0.1)
        second = await house.serve()
        first.cancel()
        return second, house.providers.asked

    done, asked = playing(scenario, slow(after_s=60), stream())

    assert asked == [(0.0, "one", 0), (2.1, "two", 0)]
    assert (done.text, done.told) == (MESSAGES, [("two", 1, None)])


@pytest.mark.parametrize("stays", [True, False])
def test_who_waits_before_a_bound_that_a_reload_takes_away_goes_at_once(playing, stays):
    async def scenario(house):
        full = {**ANTHROPIC, "max_concurrent": 1, "max_wait_s": 30}
        models = {"smart": {"targets": ONE, "price": PRICE}}
        house.router.adopt(config := config_of(models, {"one": full}), keys_of(config))
        first, *others = [asyncio.create_task(house.serve()) for _ in range(3)]
        await asyncio.sleep(10)
        elsewhere = {"smart": {"targets": [target("two")], "price": PRICE}}
        without = config_of(models, {"one": ANTHROPIC})
        if not stays:
            without = config_of(elsewhere, {"two": ANTHROPIC})
        house.router.adopt(without, keys_of(without))
        errors = [(await each).error for each in others]
        first.cancel()
        return errors, [at for at, *_ in house.providers.asked]

    answers = [slow(after_s=60), stream(), stream()]
    errors, asked = playing(scenario, *answers, models={"smart": ONE})

    assert (errors, asked) == ([None, None], [0.0, 10.0, 10.0])


def test_nothing_is_used_up_while_a_request_waits_for_its_turn(playing):
    """No model thinks meanwhile: who has little would be told that it is too little."""

    async def scenario(house):
        full = {**ANTHROPIC, "max_concurrent": 1, "max_wait_s": 40}
        config = config_of({"smart": {"targets": ONE, "price": PRICE}}, {"one": full})
        house.router.adopt(config, keys_of(config))
        Tenant.update(balance_micros=20_000).execute()
        first = asyncio.create_task(house.serve())
        await asyncio.sleep(0.1)
        second = await asyncio.create_task(house.serve(BODY.replace(b"100", b"20000")))
        return await first, second, second.hold._grant.output_tokens

    first, second, covered = playing(
        scenario, slow(after_s=30), stream(), models={"smart": ONE}, names={"one": ["k1"]}
    )

    assert covered < 1000
    assert (first.error, second.error) == (None, None)
    assert second.text.endswith(MESSAGES)


@pytest.mark.parametrize("failure", [status(500), limited(4)])
def test_what_a_failed_attempt_seemed_to_use_up_does_not_end_the_next(playing, failure):
    """It came to nothing, also where its hold was about to be found used up just then."""

    async def scenario(house):
        Tenant.update(balance_micros=20_000).execute()
        first = asyncio.create_task(house.serve())
        await asyncio.sleep(0.1)
        second = await asyncio.create_task(house.serve(BODY.replace(b"100", b"20000")))
        first.cancel()
        return second, second.hold._grant.output_tokens

    async def late_failure(attempt):
        await asyncio.sleep(9.5)
        return await failure(attempt)

    second, covered = playing(
        scenario, slow(after_s=60), late_failure, slow(after_s=2), models={"smart": ONE}
    )

    assert 850 < covered < 900
    assert second.error is None
    assert second.text.endswith(MESSAGES)


def test_what_began_to_fail_while_a_request_waited_is_not_asked(playing):
    async def scenario(house):
        config = config_of(
            {"smart": {"targets": ONE, "price": PRICE}},
            {"one": {**ANTHROPIC, "max_concurrent": 1}, "two": ANTHROPIC},
        )
        house.router.adopt(config, keys_of(config))
        first, second = await asyncio.gather(house.serve(), house.serve())
        return first, second, house.providers.asked

    async def late_refusal(attempt):
        await asyncio.sleep(1)
        return await status(401)(attempt)

    first, second, asked = playing(scenario, late_refusal, models={"smart": ONE})

    assert asked == [(0.0, "one", 0)]
    assert first.error.status == 502
    assert (second.error.status, second.error.retry_after_s) == (529, 5)


def test_a_conversation_stays_where_it_was_served_after_a_failure(playing):
    async def scenario(house):
        for _ in range(4):
            await house.serve()
        return house.providers.where

    alike = [target("one"), target("two")]
    first, *others = playing(scenario, status(500), *[stream()] * 4, models={"smart": alike})

    assert len(others) == 4
    assert set(others) == {("two" if first[0] == "one" else "one", 0)}


def test_a_client_that_was_given_a_ping_alone_is_served_elsewhere(playing):
    """The silence of one provider, then another's answer: a stream with a ping before it."""

    async def silent(attempt):
        await asyncio.sleep(19)
        return await status(500)(attempt)

    done = playing(serve, silent, stream())

    assert done.error is None
    assert done.text == b'event: ping\ndata: {"type":"ping"}\n\n' + MESSAGES
    assert done.told == [("one", 1, "upstream_error"), ("two", 1, None)]


def test_an_answer_that_came_too_late_to_fail_is_not_asked_for_again(playing):
    async def silent(attempt):
        await asyncio.sleep(20)
        return await status(500)(attempt)

    done = playing(serve, silent)

    assert (done.error.status, len(done.tried)) == (502, 1)


def test_a_whole_answer_is_asked_for_again_until_it_is_whole(playing):
    """Nothing of it has left, however much of it had come."""
    whole = json.dumps(
        {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 3, "output_tokens": 1},
        }
    ).encode()  # fmt: skip

    def plain(body, error=None):
        async def play(attempt):
            attempt.on_head(Head(200, JSON))
            attempt.on_data(body)
            attempt.on_end(error)
            return await attempt.over

        return play

    async def scenario(house):
        return await house.serve(BODY.replace(b'"stream": true', b'"stream": false'))

    done = playing(scenario, plain(whole[:50], UpstreamError("reset")), plain(whole))

    assert done.error is None
    assert done.relay.body == whole
    assert (done.row.input_tokens, done.row.output_tokens) == (3, 1)
    assert done.row.cost_micros == 3 * 4 + 20
