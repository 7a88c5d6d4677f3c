"""An event loop on which waiting takes no time: when nothing is ready, the next timer is due."""

import asyncio
import selectors


class Deadlock(Exception):
    """Nothing is ready and no timer runs, so nothing can ever happen again."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` begins at `START` and jumps to the next timer as soon as all wait.

    Only the loop's clock is virtual: not `time.monotonic`, and no answer from another thread or
    process is waited for. Sockets that have something to say at once are heard.
    """

    START = 1_000.0

    def __init__(self):
        self._now = self.START
        super().__init__(_Jumping(self._jump))
        # asyncio's own, a nanosecond, is lost in a float of some months: a timer is never due.
        self._clock_resolution = 1e-6

    def time(self):
        return self._now

    def _jump(self, timeout):
        if timeout is None:
            tasks = (repr(each) for each in asyncio.all_tasks(self))
            raise Deadlock("\n".join(["nothing can ever happen again; pending:", *sorted(tasks)]))
        self._now += timeout


class _Jumping(selectors.DefaultSelector):
    """Looks for what is ready, and asks for a jump instead of waiting for it."""

    def __init__(self, jump):
        super().__init__()
        self._jump = jump

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._jump(timeout)
        return ready


def run(coroutine):
    """Run a coroutine in virtual time and give its result; raises Deadlock where it would hang."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(coroutine)
