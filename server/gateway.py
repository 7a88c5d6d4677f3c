"""The conductor: a request's way from the caller's bytes to a settled row, top to bottom."""

import asyncio
import logging
import time
from types import TracebackType
from typing import Self

from server import rows
from server.answering import begin_attempt, error_event, relay_of
from server.billing import admission
from server.calls import Call, Plan, Rules
from server.counts import counted
from server.errors import GatewayError, Internal, KeyChanged, restarting
from server.holding import Hold, Holds
from server.journey import Journey
from server.limits.limiter import Limiter
from server.observing.record import Feed
from server.routing.router import Router
from server.store.db import Store
from server.upstream.client import UpstreamClient
from server.upstream.relay import PING_AFTER_S
from server.usage.record import Closing, Outcome

SETTLE_WAIT_S = 1.0  # how long the last bytes wait for a commit that does not come
CUT_WAIT_S = 5.0  # more than a pump needs to end once it was cancelled

_log = logging.getLogger(__name__)


class Gateway:
    """Serves inference requests, and knows every one that is on its way."""

    def __init__(
        self, store: Store, upstream: UpstreamClient, rules: Rules, instance_id: int, feed: Feed
    ) -> None:
        self.upstream = upstream
        self.feed = feed
        self.rules = rules
        self.router = Router(rules.config, upstream.keys)
        self.holds = Holds(store, instance_id)
        self.limiter = Limiter(time.monotonic_ns)
        self.ping_after_s = PING_AFTER_S
        self.pumps: set[asyncio.Task[None]] = set()

    def adopt(self, rules: Rules, upstream: UpstreamClient) -> None:
        """Serve what comes from now on by these; a request keeps those that it began with."""
        self.rules, self.upstream = rules, upstream
        self.router.adopt(rules.config, upstream.keys)

    def serve(self, call: Call) -> "Flight":
        """Serve one request: `async with gateway.serve(call) as flight`.

        Entering raises a GatewayError as long as nothing has been answered.
        """
        return Flight(self, call)

    async def drain(self, patience_s: float, *, cut_wait_s: float = CUT_WAIT_S) -> None:
        """Wait for the requests on their way, then cut them; every settlement is queued.

        A pump that does not end although it was cut would be a bug, and its row is left to the
        next start: no bug keeps the process from its end.
        """
        if self.pumps:
            await asyncio.wait(self.pumps, timeout=patience_s)
        for pump in self.pumps:
            pump.cancel()
        if self.pumps and (stuck := (await asyncio.wait(self.pumps, timeout=cut_wait_s))[1]):
            _log.error("%s did not end although cut", counted(len(stuck), "request"))


class Flight:
    """One request from admission to settlement.

    A task of its own, the pump, owns the provider's side and the settlement: neither a client
    that hangs up nor a second cancellation can come between a request and its row.
    """

    def __init__(self, gateway: Gateway, call: Call) -> None:
        self._gateway = gateway
        self._call = call
        self._rules, self._upstream = gateway.rules, gateway.upstream
        self._loop, self._begun = asyncio.get_running_loop(), time.monotonic()
        self._outcome = Outcome.CANCELLED  # until it is known better
        self._is_left = False
        self.is_held = False  # from then on there may be a row, which ends it

    async def __aenter__(self) -> Self:
        call, gateway, rules = self._call, self._gateway, self._rules
        admission.check_route(call.caller, call.tool, rules.config)
        self._journey = Journey(call, rules, gateway.router, self._upstream)
        self._hold = Hold(gateway.holds, call, self.plan, rules)
        estimate, model = self._hold.estimated_input, self.plan.model
        # The last that can refuse before there is a pump, whose end ends it.
        self._pass = gateway.limiter.admit(call.bounds, model, estimate, rules.config)
        self.relay = relay_of(call, self.plan, rules.config, ping_after_s=gateway.ping_after_s)
        begin_attempt(self.relay, call, self.plan, estimate)
        self._pump = self._loop.create_task(self._run())
        gateway.pumps.add(self._pump)
        self._pump.add_done_callback(self._pump_ended)
        try:
            await self.relay.started
        except asyncio.CancelledError:
            self._leave()
            raise
        self.relay.raise_early_error()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    @property
    def plan(self) -> Plan:
        """Give what left for the latest provider that was asked."""
        return self._journey.plan

    def error_event(self, err: GatewayError) -> bytes:
        """Give `err` as the event that ends a stream which has begun."""
        return error_event(err, self._call, self.plan)

    async def _run(self) -> None:
        error: GatewayError | None = None
        try:
            # Said before the job is queued: the writer runs jobs in order, so the settlement
            # finds the row even if this task is cancelled while the row is still queued.
            self.is_held = True
            payload = await self._hold.place()
            self._hold.follow(self.relay)
            error = await self._journey.run(payload, self._hold, self.relay)
            self._outcome = Outcome.CANCELLED if self._is_left else Outcome.COMPLETED
            if self.relay.was_cut:
                self._outcome = Outcome.CUT
            elif error is not None:
                self._outcome = Outcome.UPSTREAM_ERROR
        except GatewayError as refusal:
            self.is_held = False
            error = refusal
        except asyncio.CancelledError:
            error = None if self._is_left else restarting()  # only `drain` cuts who waits still
            raise
        finally:
            self._settle(error)

    def _settle(self, error: GatewayError | None) -> None:
        """Queue the settlement; the client gets its last bytes once that is committed."""
        relay = self.relay
        if not self.is_held:
            if isinstance(error, KeyChanged):
                self._pass.undo()  # its handler tries again before this pump has ended
            relay.release(error)
            return
        if relay.meter.error is not None:
            self._outcome = Outcome.UPSTREAM_ERROR
        elif self._outcome is Outcome.CANCELLED and not self._is_left:
            error = error or _bug()
        settled, closing = self._hold.settle(
            relay, self._journey.tried, outcome=self._outcome, error=error, begun=self._begun
        )
        self._pass.end(closing.total_tokens)
        patience = self._loop.call_later(SETTLE_WAIT_S, relay.release, error)
        settled.add_done_callback(lambda done: self._settled(done, closing, error, patience))

    def _settled(
        self,
        done: asyncio.Future[bool],
        closing: Closing,
        error: GatewayError | None,
        patience: asyncio.TimerHandle,
    ) -> None:
        patience.cancel()
        problem = None if done.cancelled() else done.exception()
        if problem is not None:
            _log.error("a settlement was lost: %s", problem)
        self.relay.release(error)
        # Without a row it never left: it was refused after its client had gone.
        if done.cancelled() or problem is not None or done.result():
            self._tell(closing)

    def _tell(self, closing: Closing) -> None:
        hold, journey, call = self._hold, self._journey, self._call
        would_block = self._pass.would_block or call.would_block
        known = rows.Told(self._begun, hold.placed_at, len(journey.tried), would_block)
        parts = (call, journey.plan, self.relay, hold.opening, closing)
        self._gateway.feed.tell(rows.served(*parts, told=known))

    def _leave(self) -> None:
        """Do once what the policy says for a client that has gone; a finished pump is over."""
        if self._is_left or self._pump.done():
            return
        self._is_left = True
        if self._rules.config.billing.on_disconnect == "drain" and self.relay.attempt.was_sent:
            self.relay.discard()
        else:
            self._pump.cancel()

    def _pump_ended(self, pump: asyncio.Task[None]) -> None:
        self._gateway.pumps.discard(pump)
        self._pass.end(0)  # unless it was settled
        if not pump.cancelled() and (bug := pump.exception()) is not None:
            _log.error("a pump failed (%s)", self._call.request_id, exc_info=bug)
            self.relay.release(_bug())


def _bug() -> Internal:
    return Internal("The gateway failed; its log has the details.")
