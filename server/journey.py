"""The attempts of one request: from place to place, until one answers or it is in vain."""

import asyncio
import random
import time
from functools import partial
from operator import attrgetter

from server import rows
from server.answering import begin_attempt, headers_for
from server.calls import Call, Plan, Rules
from server.conversations import conversation_of
from server.errors import GatewayError, InvalidRequest, UpstreamOverloaded
from server.holding import Hold
from server.limits.limiter import allows
from server.planning import ask, plan
from server.routing.places import Leave, Place
from server.routing.router import Router
from server.routing.verdict import Blame, judge
from server.upstream.attempt import Attempt
from server.upstream.client import Dispatch, UpstreamClient
from server.upstream.relay import Relay
from server.usage.record import Tried

USUAL_REST_S = 5.0  # where a provider limits a rate and does not say for how long

_TARGET = attrgetter("model", "target")


class Journey:
    """Takes a request to the first place that answers; `plan` is the latest attempt's.

    Another place is asked only as long as no content has come: then the client never learns of
    the failure, and pays for the answer alone. Making one raises a GatewayError where the request
    cannot be served.
    """

    def __init__(self, call: Call, rules: Rules, router: Router, upstream: UpstreamClient) -> None:
        self._call, self._rules, self._router, self._upstream = call, rules, router, upstream
        self._loop = asyncio.get_running_loop()
        self._asked = asked = ask(call.raw, call.protocol, call.tool, rules)
        now, model = self._loop.time(), asked.model
        belongs_to = partial(conversation_of, call, asked.request, model)
        self._itinerary = router.itinerary(model, asked.request.protocol, belongs_to, now)
        self._place = self._set_out(now)
        self.tried: list[Tried] = []

    async def run(self, payload: bytes, hold: Hold, relay: Relay) -> GatewayError | None:
        """Forward the request and follow its answer to the end; give what went wrong, if anything.

        The first attempt of `relay` has begun. Each place gives back its leave, and what became
        of it is noted in `tried`.
        """
        error = await self._visit(payload, relay)
        while error is not None and not self._is_in_vain(relay):
            place = self._itinerary.choose(self._loop.time())
            if place is None:
                break
            begin_attempt(relay, self._call, self.plan, hold.estimated_input)
            # The client may leave meanwhile, and nothing is owed.
            await hold.pause()
            await asyncio.sleep(self._itinerary.pause_s(place, self._loop.time(), random.random))
            if place.target is not self._place.target:
                moved = await self._move(place, hold, relay)
                if moved is None:
                    self._itinerary.skip(place, alike=_TARGET)
                    continue
                payload = moved
            else:
                hold.follow(relay)
            self._place = place
            error = await self._visit(payload, relay)
        return error

    @staticmethod
    def _is_in_vain(relay: Relay) -> bool:
        """Tell whether another answer could not be given: some came, or the client has gone."""
        return relay.attempt.has_content or relay.handoff.is_discarding

    def _set_out(self, now: float) -> Place:
        """Choose the first place, and plan for it; one that cannot take the request is left out."""
        refused: InvalidRequest | None = None
        while (place := self._itinerary.choose(now)) is not None:
            if self._may_use(place):
                try:
                    self.plan, self._headers = self._planned(place)
                except InvalidRequest as err:
                    refused = refused or err
                else:
                    return place
            self._itinerary.skip(place, alike=_TARGET)
        if refused is None or any(map(self._would_take, self._itinerary.left)):
            raise self._itinerary.refusal(now)
        raise refused

    def _may_use(self, place: Place) -> bool:
        """Tell whether the caller's limits allow a fallback; the model itself met them, or will."""
        if place.model == self._asked.model or self._rules.config.limits.mode == "shadow":
            return True
        return allows(self._call.bounds, place.model)

    def _planned(self, place: Place) -> tuple[Plan, dict[str, str]]:
        """Make what leaves for a place, and its headers; InvalidRequest where it cannot take it."""
        made = plan(self._asked, place.model, place.target, self._rules)
        return made, headers_for(self._call, made)

    def _would_take(self, place: Place) -> bool:
        try:
            self._planned(place)
        except InvalidRequest:
            return False
        return self._may_use(place)

    async def _move(self, place: Place, hold: Hold, relay: Relay) -> bytes | None:
        """Get ready for another target; None where it cannot take the request, or is too dear."""
        if not self._may_use(place):
            return None
        try:
            made, headers = self._planned(place)
            payload = await hold.move(made)
        except GatewayError:
            return None
        self.plan, self._headers = made, headers
        begin_attempt(relay, self._call, made, hold.estimated_input)
        hold.follow(relay)
        return payload

    async def _visit(self, payload: bytes, relay: Relay) -> GatewayError | None:
        """Try the place at hand, in turn where its upstream takes only so many at once."""
        queue = self._router.queue(self._place.target.upstream)
        if queue is None:
            return await self._try(payload, relay.attempt)
        try:
            await queue.enter(self._call.caller.key_id)
        except UpstreamOverloaded as err:  # no fault of the upstream's
            self._itinerary.skip(self._place, alike=attrgetter("target.upstream"))
            return err
        try:
            return await self._try(payload, relay.attempt)
        finally:
            queue.leave()

    async def _try(self, payload: bytes, attempt: Attempt) -> GatewayError | None:
        place, begun = self._place, time.monotonic()
        leave = place.begin(self._loop.time())
        if leave is None:  # it began to fail while this request waited
            self._itinerary.skip(place)
            return self._itinerary.refusal(self._loop.time())
        attempt.on_content = lambda: self._answers(place, leave)
        is_over, error = False, None
        try:
            error = await self._upstream.forward(self._dispatch(payload), attempt)
            is_over = True
        finally:
            if not is_over:
                leave.abandoned(self._loop.time())
            self._note(place, begun, error)
        self._note_health(error, attempt, leave)
        return error

    def _dispatch(self, payload: bytes) -> Dispatch:
        target, plan = self._place.target, self.plan
        made, key = self._call.request_id, self._place.key
        return Dispatch(target, plan.protocol, self._headers, payload, made, key)

    def _note(self, place: Place, begun: float, error: GatewayError | None) -> None:
        ms = round((time.monotonic() - begun) * 1000)
        target, reason = place.target, None if error is None else error.reason
        self.tried.append(Tried(target.upstream, target.model, place.key + 1, ms, reason))

    def _answers(self, place: Place, leave: Leave) -> None:
        leave.answers()
        self._itinerary.went(place, self._loop.time())

    def _note_health(self, error: GatewayError | None, attempt: Attempt, leave: Leave) -> None:
        # An error in the midst of a stream goes to the client as it is, and is one all the same.
        if (problem := error or attempt.told_error) is not None:
            self._failed(problem, attempt, leave)
            return
        leave.served(self._loop.time())
        self._answers(self._place, leave)

    def _failed(self, error: GatewayError, attempt: Attempt, leave: Leave) -> None:
        now, head = self._loop.time(), attempt.head
        verdict = judge(error, None if head is None else head.status)
        wait_s = USUAL_REST_S if verdict.blame is Blame.RATE else 0.0
        if error.retry_after_s is not None:
            wait_s = float(error.retry_after_s)
        error.headers = rows.upstream_headers(attempt)
        if head is None and verdict.blame is Blame.NOBODY:  # ended by us: it has shown nothing
            leave.abandoned(now)
        else:
            leave.failed(verdict, now, reason=error.reason, retry_after_s=wait_s)
        self._itinerary.failed(self._place, verdict, now, wait_s)
