"""A token bucket in whole numbers: a minute's worth at once, then as it flows back.

What is out is kept as tokens times the nanoseconds of a minute, of which as many flow back in a
nanosecond as the limit has tokens: nothing is ever rounded but a wait, once and up.
"""

MINUTE_NS = 60 * 10**9
SECOND_NS = 10**9


class Taken:
    """What is out for a request that runs; `low` is the least that was out at once since then."""

    __slots__ = ("low", "tokens")

    def __init__(self, tokens: int, low: int) -> None:
        self.tokens = tokens
        self.low = low


class Bucket:
    """What is out of one limit; times are of a clock that never goes back."""

    __slots__ = ("_at_ns", "_limit", "_open", "_out")

    def __init__(self) -> None:
        self._limit = self._out = self._at_ns = 0
        self._open: dict[Taken, None] = {}  # in the order in which they began

    def wait_s(self, tokens: int, limit: int, now_ns: int) -> int:
        """Tell after how many whole seconds `tokens` can be had; 0 is now.

        More than a whole bucket can be had when it is full, and leaves a debt. What flowed back
        so far did so at the limit before, which may have been changed.
        """
        self._flow_back(now_ns)
        if limit < self._limit:
            self._shrink(limit)
        self._limit = limit
        missing = self._out - (limit - min(tokens, limit)) * MINUTE_NS
        return max(0, -(-missing // (limit * SECOND_NS)))

    def spend(self, tokens: int, now_ns: int) -> None:
        """Take tokens for good."""
        self._flow_back(now_ns)
        self._out += tokens * MINUTE_NS

    def give_back(self, tokens: int, now_ns: int) -> None:
        """Give back what was spent a moment ago."""
        self._flow_back(now_ns)
        self._out = max(0, self._out - tokens * MINUTE_NS)

    def take(self, tokens: int, now_ns: int) -> Taken:
        """Take tokens for a request that begins, to be settled."""
        self.spend(tokens, now_ns)
        taken = Taken(tokens, self._out)
        self._open[taken] = None
        return taken

    def settle(self, taken: Taken, tokens: int, now_ns: int) -> None:
        """Correct what was taken for a request to the tokens that it came to, once.

        What was too much is given back as if it had never been taken: but for that of it which
        has flowed back while nothing else was out. What was too little is taken now.
        """
        self._flow_back(now_ns)
        given = min(max(0, taken.tokens - tokens) * MINUTE_NS, taken.low)
        self._out += max(0, tokens - taken.tokens) * MINUTE_NS - given
        began_before = True
        for other in self._open:
            if other is taken:
                began_before = False
            elif began_before:
                other.low = min(other.low, taken.low - given)
            else:  # all that is given was out beside it, whenever one looked
                other.low -= given
        del self._open[taken]

    def is_as_new(self, now_ns: int) -> bool:
        """Tell whether nothing is out, and nothing will come back."""
        self._flow_back(now_ns)
        return not self._out and not self._open

    def _shrink(self, limit: int) -> None:
        """Scale what is out to a lower limit, so that it is back when it would have been.

        Unscaled, a minute's worth of the former limit could lock its owner out for hours.
        """
        former = self._limit
        self._out = -(-self._out * limit // former)
        for taken in self._open:
            taken.low = -(-taken.low * limit // former)

    def _flow_back(self, now_ns: int) -> None:
        self._out = max(0, self._out - (now_ns - self._at_ns) * self._limit)
        self._at_ns = now_ns
        # Who began later has seen less of the past, so its low is never the lower one.
        for taken in reversed(self._open):
            if taken.low <= self._out:
                break
            taken.low = self._out
