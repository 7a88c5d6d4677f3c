"""How late the event loop comes: what everything it serves has to wait for."""

import asyncio

from server.observing.exposition import Histogram

LOOK_EVERY_S = 1.0
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class LoopLag:
    """Asks to be called each second, and counts by how much later it was."""

    def __init__(self, every_s: float = LOOK_EVERY_S) -> None:
        self.histogram = Histogram(LAG_S)
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._ask()

    def close(self) -> None:
        self._timer.cancel()

    def _ask(self) -> None:
        self._due = self._loop.time() + self._every_s
        self._timer = self._loop.call_at(self._due, self._called)

    def _called(self) -> None:
        self.histogram.observe(max(0.0, self._loop.time() - self._due))
        self._ask()
