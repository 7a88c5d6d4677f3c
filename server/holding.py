"""A request's hold, from before it leaves until it is settled: placed, kept ahead, cut short."""

import asyncio
import logging
import time
from collections.abc import Sequence

from server import clock, rows
from server.billing import admission
from server.billing.holds import Demand, Pool, Refusal
from server.billing.pricing import Tokens
from server.billing.scales import Units
from server.calls import Call, Plan, Rules
from server.errors import (
    AnswerTooLong,
    GatewayError,
    InsufficientBalance,
    Internal,
    QuotaExceeded,
    StoreUnavailable,
)
from server.protocols import body
from server.protocols.by_protocol import ESTIMATE
from server.protocols.usage import Usage
from server.store.db import Store
from server.terms import estimate, terms_of
from server.upstream.relay import Relay
from server.usage.record import Closing, Outcome, Progress, Tried

HOLD_WAIT_S = 2.0  # how long a request waits for others to give back
LOOK_EVERY_S = 0.5
CHECKPOINT_EVERY_S = 5.0
BYTES_PER_TOKEN = 4  # what the meter counts as one token at least

_log = logging.getLogger(__name__)


class Holds:
    """The holds of all running requests: one timer looks after those that grow."""

    def __init__(self, store: Store, instance_id: int) -> None:
        self.store = store
        self.instance_id = instance_id
        self._growing: set[Hold] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._freed: dict[int, asyncio.Future[None]] = {}

    def watch(self, hold: "Hold") -> None:
        """Look at `hold` now and then, until it is forgotten."""
        self._growing.add(hold)
        if self._timer is None:
            self._look_again()

    def forget(self, hold: "Hold") -> None:
        self._growing.discard(hold)

    async def wait_freed(self, tenant_id: int, wait_s: float) -> None:
        """Wait until a request of the tenant gives something back, or for `wait_s`."""
        freed = self._freed.get(tenant_id)
        if freed is None:
            freed = self._freed[tenant_id] = asyncio.get_running_loop().create_future()
        await asyncio.wait([freed], timeout=max(0.0, wait_s))

    def freed(self, tenant_id: int) -> None:
        """Wake the requests that wait for something of the tenant's."""
        waiting = self._freed.pop(tenant_id, None)
        if waiting is not None:
            waiting.set_result(None)

    def _look_again(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._timer = None
        for hold in list(self._growing):
            hold.look()
        if self._growing:
            self._look_again()


class Hold:
    """The hold of one request.

    `place` before it leaves; `follow` its answer; `settle` it once, however it ends. A stream's
    hold begins with a slice of output, becomes exact with the provider's first usage, and is
    grown before it is used up. Where there is nothing left to grow into, the stream is ended as
    if the model had reached its token limit. What exceeds a hold is charged in truth.
    """

    def __init__(self, holds: Holds, call: Call, plan: Plan, rules: Rules) -> None:
        self._holds = holds
        self._call = call
        self._plan, self._rules = plan, rules
        now = clock.now()
        self._terms = terms_of(call, plan, rules, now)
        self._grant = admission.FREE
        self.opening = rows.opening(call, plan, holds.instance_id, self._terms.input_tokens, now)
        self.placed_at: float | None = None  # on `time.monotonic`'s clock
        self._relay: Relay | None = None
        self._units: Units = _no_units
        self._known: Tokens | None = None
        self._seen = self._unseen = 0
        self._job: asyncio.Task[None] | None = None
        self._failure: StoreUnavailable | None = None  # of the last try to fit the hold

    def estimated_input(self) -> int:
        """Give the input's estimate: what is held for it, but where that is a bound."""
        terms = self._terms
        return estimate(self._plan) if terms.is_strict else terms.input_tokens

    async def place(self) -> bytes:
        """Hold what the request needs, and give the body to send: its limit may be lower.

        Raises:
            InsufficientBalance, QuotaExceeded, SubscriptionInactive, InvalidApiKey, KeyChanged
        """
        terms, scale = self._terms, self._terms.scale
        if scale is not None:
            self._units = scale.upfront(terms.input_tokens)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (0.0 if terms.is_strict else HOLD_WAIT_S)
        while True:
            left_s = deadline - loop.time()
            demand = self._first_demand(is_last=left_s <= 0)
            try:
                self._grant = await self._holds.store.write(
                    admission.admit, self.opening, terms.pool, demand
                )
                self.placed_at = time.monotonic()
                return self._payload()
            except (InsufficientBalance, QuotaExceeded) as refusal:
                if left_s <= 0 or (terms.grows and not refusal.held):
                    raise
                if not refusal.held:
                    deadline = loop.time()  # nobody gives anything back: take what there is
                    continue
            await self._holds.wait_freed(self._call.caller.tenant_id, left_s)

    async def move(self, plan: Plan) -> bytes:
        """Hold what a paused request needs at another target, and give the body to send there.

        Nothing has changed where it raises: InsufficientBalance, QuotaExceeded,
        SubscriptionInactive.
        """
        terms = terms_of(self._call, plan, self._rules, clock.now())
        units = _no_units if terms.scale is None else terms.scale.upfront(terms.input_tokens)
        opening = rows.moved(self.opening, plan, terms.input_tokens)
        most = terms.first_output if terms.grows else terms.most_output
        demand = Demand(units, most, min(terms.least_output, most))
        self._grant = await self._holds.store.write(
            admission.move, opening, terms.pool, demand, self._grant
        )
        self._plan, self._terms, self._units, self.opening = plan, terms, units, opening
        return self._payload()

    async def pause(self) -> None:
        """Look no more until the next `follow`: what the last attempt came to is nothing."""
        self._holds.forget(self)
        # At once: the job may be about to find the hold used up, and to cut the next attempt.
        self._known, self._seen, self._unseen = None, 0, 0
        if self._job is not None:
            await asyncio.wait([self._job])
            self._job = None

    def follow(self, relay: Relay) -> None:
        """Keep ahead of what `relay` delivers, where the hold is one that grows."""
        if self._terms.pool is None or not self._plan.streamed:
            return
        self._relay = relay
        self._looked_at = self._kept_at = asyncio.get_running_loop().time()
        self._alert()
        self._holds.watch(self)

    def settle(
        self,
        relay: Relay,
        tried: Sequence[Tried],
        *,
        outcome: Outcome,
        error: GatewayError | None,
        begun: float,
    ) -> tuple["asyncio.Future[bool]", Closing]:
        """Queue the settlement, and give it; it ends the hold and takes what the request cost."""
        self._holds.forget(self)
        if self._job is not None:
            self._job.cancel()
        closing = rows.closing(
            self._call,
            self._plan,
            relay,
            self._terms.scale,
            outcome=outcome,
            error=error,
            begun=begun,
            tried=tried,
        )
        settled = self._holds.store.enqueue(
            admission.settle, self._call.request_id, closing, clock.now()
        )
        settled.add_done_callback(lambda _: self._holds.freed(self._call.caller.tenant_id))
        return settled, closing

    def look(self) -> None:
        """Compare the hold with what came since the last look; grow, shrink or keep it."""
        relay, terms = self._relay, self._terms
        if relay is None or self._job is not None:
            return
        now, seen = asyncio.get_running_loop().time(), relay.delivered_tokens
        if seen == self._seen and relay.attempt.was_sent:  # it may think unseen: billed too
            self._unseen += round((now - self._looked_at) * terms.assumed_tokens_per_s)
        is_news = self._learn_input()
        if seen > terms.runaway_output:
            self._cut(AnswerTooLong("The provider's answer is far longer than was asked for."))
        is_due = now - self._kept_at >= CHECKPOINT_EVERY_S and seen != self._seen
        self._seen, self._looked_at = seen, now
        if is_news or is_due or self._is_short:
            self._kept_at = now
            self._job = asyncio.create_task(self._adjust())
            self._job.add_done_callback(self._job_ended)
            if self._is_used_up:
                relay.hold_back(is_on=True)
        self._alert()

    # inside

    @property
    def _following(self) -> Relay:
        assert self._relay is not None  # noqa: S101 - looked at only once it is followed
        return self._relay

    @property
    def _pool(self) -> Pool:
        assert self._terms.pool is not None  # noqa: S101 - likewise
        return self._terms.pool

    @property
    def _spent(self) -> int:
        return min(self._terms.most_output, self._seen + self._unseen)

    @property
    def _is_used_up(self) -> bool:
        terms, covered = self._terms, self._grant.output_tokens
        return terms.grows and self._spent >= covered and covered < terms.most_output

    @property
    def _is_short(self) -> bool:
        """Tell whether less than half a slice is left, and more is to be had."""
        terms, covered = self._terms, self._grant.output_tokens
        left = covered - self._spent
        return terms.grows and covered < terms.most_output and left < terms.slice_tokens // 2

    def _first_demand(self, *, is_last: bool) -> Demand:
        terms = self._terms
        if terms.grows:
            wanted = terms.first_output
            return Demand(self._units, wanted, min(terms.least_output, wanted))
        # A limit lowered now might not have to be lowered in a second.
        is_final = is_last or terms.is_strict
        least = terms.least_output if is_final else terms.most_output
        return Demand(self._units, terms.most_output, min(least, terms.most_output))

    def _payload(self) -> bytes:
        plan, terms = self._plan, self._terms
        granted = self._grant.output_tokens
        lowered = not terms.grows and granted < terms.most_output
        if terms.pool is None or not (lowered or terms.is_strict):
            return plan.payload
        choices = plan.request.choices
        return body.join(body.with_output_limit(plan.fields, terms.limit_field, granted // choices))

    def _learn_input(self) -> bool:
        """Take over the provider's first exact count of the input."""
        relay = self._relay
        # Compatible servers may begin with zeros, and tell the truth at the end.
        if self._known is not None or relay is None or not relay.meter.usage.total_input_tokens:
            return False
        usage = relay.meter.usage
        self._known = Tokens(
            input=usage.input_tokens or 0,
            cache_read=usage.cache_read_input_tokens or 0,
            cache_write_5m=usage.cache_write_5m_tokens or 0,
            cache_write_1h=usage.cache_write_1h_tokens or 0,
            output=0,
        )
        if self._terms.scale is not None:
            self._units = self._terms.scale.exact(self._known)
        return True

    async def _adjust(self) -> None:
        """Fit the hold; where it is used up wait for others, and if that is vain end the stream."""
        deadline = asyncio.get_running_loop().time() + HOLD_WAIT_S
        has_all = await self._fit()
        while self._is_used_up:
            self._following.hold_back(is_on=True)
            if not has_all and not await self._waited(deadline):
                return
            has_all = await self._fit()
        self._following.hold_back(is_on=False)
        self._job = None
        self._alert()

    async def _waited(self, deadline: float) -> bool:
        """Wait for others to give something back; where that is vain, end the stream."""
        refusal = await self._refusal()
        if refusal is None or not self._is_used_up:  # somebody gave back, or `pause`
            return True
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0 or not self._is_worth_waiting(refusal):
            self._cut(refusal)
            return False
        # Nobody says when the store works again.
        wait_s = left_s if self._failure is None else min(left_s, LOOK_EVERY_S)
        await self._holds.wait_freed(self._call.caller.tenant_id, wait_s)
        return True

    def _cut(self, refusal: GatewayError) -> None:
        usage = self._following.meter.usage
        if usage.input_tokens is None:  # Chat tells it at the end alone
            estimate = ESTIMATE[self._plan.protocol](self._plan.fields)
            usage = Usage(input_tokens=estimate)
        self._following.cut(usage, self._seen, refusal)

    async def _fit(self) -> bool:
        """Hold what the request has come to and a slice more; False if not all of it could be."""
        terms, before = self._terms, self._grant
        covered = wanted = before.output_tokens
        if terms.grows:
            wanted = max(covered, min(terms.most_output, self._spent + terms.slice_tokens))
        demand = Demand(self._units, wanted, wanted)
        self._failure = None
        try:
            self._grant = await self._holds.store.write(
                admission.adjust,
                self._call.request_id,
                self._pool,
                demand,
                before,
                self._progress(),
            )
        except StoreUnavailable as err:  # what is held already still pays for something
            self._failure = err
        if self._grant.held < before.held:
            self._holds.freed(self._call.caller.tenant_id)
        self._seen = max(self._seen, self._following.delivered_tokens)
        return self._grant.output_tokens >= wanted

    def _progress(self) -> Progress:
        known = self._known or Tokens(self._terms.input_tokens, 0, 0, 0, 0)
        return Progress(
            known.input, known.cache_read, known.cache_write_5m, known.cache_write_1h, self._seen
        )

    async def _refusal(self) -> Refusal | StoreUnavailable | None:
        """Say why the stream cannot go on; None where by now it can."""
        if self._failure is not None:  # there may be enough; nobody is told that there is not
            return self._failure
        wanted = self._units(self._spent + 1)
        try:
            return await self._holds.store.read(
                admission.why_not, self._call.request_id, self._pool, self._grant, wanted
            )
        except StoreUnavailable as err:
            return err

    def _is_worth_waiting(self, refusal: Refusal | StoreUnavailable) -> bool:
        if isinstance(refusal, InsufficientBalance | QuotaExceeded):
            return refusal.held > self._grant.held
        return isinstance(refusal, StoreUnavailable)

    def _alert(self) -> None:
        """Be called when what is delivered may have used up what may be used before a look."""
        terms, covered = self._terms, self._grant.output_tokens
        tokens = terms.runaway_output - self._seen
        if terms.grows and covered < terms.most_output:
            left = covered - self._seen
            until_short = left - terms.slice_tokens // 2
            tokens = until_short if until_short > 0 else max(1, left)
        self._following.alert_after(tokens * BYTES_PER_TOKEN, self._alerted)

    def _job_ended(self, job: asyncio.Task[None]) -> None:
        if not job.cancelled() and (bug := job.exception()) is not None:
            _log.error("a hold was not fitted (%s)", self._call.request_id, exc_info=bug)
            self._cut(Internal("The gateway failed; its log has the details."))

    def _alerted(self) -> None:
        if self._job is None:
            self.look()
        else:
            self._following.hold_back(is_on=True)  # until the hold has been grown


def _no_units(_output_tokens: int) -> int:
    return 0
