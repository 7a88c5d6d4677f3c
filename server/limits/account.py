"""What requests under shared limits have out, and which limit has no room for one more."""

from collections.abc import Iterator

from server.config.schema import UsageLimits
from server.counts import counted
from server.errors import GatewayError, RateLimited
from server.limits.bounds import Bound
from server.limits.bucket import Bucket, Taken

MOMENT_S = 1  # to wait for the end of a running request, which nobody knows


class Hit:
    """A limit that a request ran into, by its name in the config, and what to tell of it."""

    __slots__ = ("limit", "refusal", "wait_s")

    def __init__(self, limit: str, refusal: GatewayError) -> None:
        self.limit = limit
        self.refusal = refusal
        self.wait_s = refusal.retry_after_s or 0


class Account:
    """The counters of one owner of limits."""

    __slots__ = ("_requests", "_running", "_tokens")

    def __init__(self) -> None:
        self._requests = Bucket()
        self._tokens = Bucket()
        self._running = 0

    def hits(self, bound: Bound, tokens: int, now_ns: int) -> Iterator[Hit]:
        """Find the limits that have no room for a request of so many tokens now."""
        limits = bound.limits
        most = limits.concurrent_requests
        if most is not None and self._running >= most:
            at_once = f"{counted(most, 'request')} at a time"
            yield _hit("concurrent_requests", at_once, bound, MOMENT_S)
        most = limits.requests_per_minute
        if most is not None and (wait_s := self._requests.wait_s(1, most, now_ns)):
            each = f"{counted(most, 'request')} per minute"
            yield _hit("requests_per_minute", each, bound, wait_s)
        most = limits.tokens_per_minute
        if most is not None and (wait_s := self._tokens.wait_s(tokens, most, now_ns)):
            each = f"{counted(most, 'token')} per minute"
            yield _hit("tokens_per_minute", each, bound, wait_s)

    def enter(self, limits: UsageLimits, tokens: int, now_ns: int) -> Taken | None:
        """Count a request that begins; `leave` takes what this gives."""
        self._running += 1
        if limits.requests_per_minute is not None:
            self._requests.spend(1, now_ns)
        return None if limits.tokens_per_minute is None else self._tokens.take(tokens, now_ns)

    def leave(self, taken: Taken | None, tokens: int, now_ns: int) -> None:
        """Count a request's end, and the tokens that it came to."""
        self._running -= 1
        if taken is not None:
            self._tokens.settle(taken, tokens, now_ns)

    def undo(self, taken: Taken | None, now_ns: int) -> None:
        """Count a request as if it had never begun."""
        self.leave(taken, 0, now_ns)
        self._requests.give_back(1, now_ns)

    def is_as_new(self, now_ns: int) -> bool:
        """Tell whether it can be forgotten."""
        buckets = (self._requests, self._tokens)
        return not self._running and all(each.is_as_new(now_ns) for each in buckets)


def _hit(limit: str, number: str, bound: Bound, wait_s: int) -> Hit:
    when = f"Try again in {wait_s} s."
    if limit == "concurrent_requests":
        when = "Try again when one of them has ended."
    message = f"The limit of {number} for {bound.whose} is reached. {when}"
    return Hit(limit, RateLimited(message, retry_after_s=wait_s))
