"""What the router holds off, written down whenever it changes."""

import asyncio
from datetime import datetime, timedelta

from server import clock
from server.routing.breaker import Breaker, State
from server.routing.places import Part
from server.routing.router import Router
from server.store import breakers
from server.store.breakers import HeldOff
from server.store.db import Store


class Notes:
    """Keeps the database's list of what is held off; no request waits for it.

    One write at most is under way: what changes meanwhile is in the next.
    """

    def __init__(self, router: Router, store: Store, instance_id: int) -> None:
        self._router, self._store, self._instance_id = router, store, instance_id
        self._writing: asyncio.Future[None] | None = None
        self._is_stale = False
        self._is_empty = True

    def note(self) -> None:
        """Write down what is held off now."""
        if self._writing is not None:
            self._is_stale = True
            return
        found = _held_off(self._router, asyncio.get_running_loop().time(), clock.now())
        if not found and self._is_empty:
            return
        self._is_empty = not found
        self._writing = self._store.enqueue(breakers.write_down, self._instance_id, found)
        self._writing.add_done_callback(self._written)

    def _written(self, done: asyncio.Future[None]) -> None:
        self._writing = None
        # At the end of the process the store may have closed, and the list counts no more.
        is_lost = done.cancelled() or done.exception() is not None
        if self._is_stale and not is_lost:
            self._is_stale = False
            self.note()


def _held_off(router: Router, now_s: float, now: datetime) -> list[HeldOff]:
    """List what is held off; `now_s` is on the router's clock, `now` on the wall."""
    return [
        _as_row(part, breaker, now_s, now)
        for part, breaker in router.breakers()
        if breaker.opened_at is not None
    ]


def _as_row(part: Part, breaker: Breaker, now_s: float, now: datetime) -> HeldOff:
    def at(time_s: float) -> datetime:
        return now + timedelta(seconds=time_s - now_s)

    state, retry_at = breaker.state(now_s), breaker.retry_at(now_s)
    return HeldOff(
        upstream=part.upstream,
        model=part.model or "",
        key=part.key or 0,
        state=state.value,
        since=at(breaker.opened_at or now_s),
        until=at(retry_at) if state is State.OPEN and retry_at is not None else None,
        reason=breaker.reason,
    )
