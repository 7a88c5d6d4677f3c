"""A queue in which members take turns, before what serves only so many at once."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from math import ceil

from server.errors import UpstreamOverloaded


class FairQueue:
    """Lets `most` in at once; those who wait, each `wait_s` at most, take turns by `who`.

    Round robin over members, first come first served within one: a single request waits for one
    turn of each other member at most, however many requests those have. Whoever was let in must
    `leave`; nobody who was not may. Used on one event loop.
    """

    def __init__(self, most: int, wait_s: float) -> None:
        self._most = most
        self._wait_s = wait_s
        self._inside = 0
        # Only ever filled while all places are taken, so a newcomer overtakes nobody.
        self._lines: OrderedDict[Hashable, OrderedDict[asyncio.Future[bool], None]] = OrderedDict()

    @property
    def inside(self) -> int:
        """How many are in, those included whose task has yet to hear of it."""
        return self._inside

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(len(line) for line in self._lines.values())

    async def enter(self, who: Hashable) -> None:
        """Wait for a place; one that was given and is not taken up goes on to the next.

        Raises:
            UpstreamOverloaded: no place came free within `wait_s`.
        """
        if self._inside < self._most:
            self._inside += 1
        elif not await self._is_let_in(who):
            raise UpstreamOverloaded(
                "Too many requests are under way to this provider; try again.",
                retry_after_s=max(1, ceil(self._wait_s)),
            )

    def leave(self) -> None:
        """Give a place back: to the next in turn, if anyone waits."""
        self._inside -= 1
        self._let_in()

    def resize(self, most: int, wait_s: float) -> None:
        """Change the bounds: more are let in at once, fewer as places are given back.

        Those who wait already do so for as long as they were to.
        """
        self._most = most
        self._wait_s = wait_s
        self._let_in()

    async def _is_let_in(self, who: Hashable) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._lines.setdefault(who, OrderedDict())[waiter] = None
        timer = loop.call_later(self._wait_s, _give_up, waiter)
        is_in = False
        try:
            is_in = await waiter
        finally:
            timer.cancel()
            if not is_in:
                self._withdraw(who, waiter)
        return is_in

    def _withdraw(self, who: Hashable, waiter: asyncio.Future[bool]) -> None:
        line = self._lines.get(who)
        if line is not None and waiter in line:
            del line[waiter]
            if not line:
                del self._lines[who]
        elif waiter.done() and not waiter.cancelled() and waiter.result():
            # Cancelled between being let in and hearing of it: the place would be lost.
            self.leave()

    def _let_in(self) -> None:
        while self._lines and self._inside < self._most:
            who, line = next(iter(self._lines.items()))
            waiter, _ = line.popitem(last=False)
            # One that was cancelled or gave up, and has yet to hear of it, takes nobody's turn.
            if not waiter.done():
                waiter.set_result(True)
                self._inside += 1
                self._lines.move_to_end(who)
            if not line:
                del self._lines[who]


def _give_up(waiter: asyncio.Future[bool]) -> None:
    # It may have been let in just before, in the same step of the loop.
    if not waiter.done():
        waiter.set_result(False)
