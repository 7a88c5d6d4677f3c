"""Where conversations go: each stays in one place, and together they spread by weight.

A provider's prompt cache lives where the conversation was served, so moving one throws its
cache away.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from math import log
from typing import Protocol, TypeVar


class Weighted(Protocol):
    """A place where a conversation may be served: a target with one of its upstream's keys.

    A place of weight 0 is chosen when all others are gone. Idents differ, and hold no NUL.
    """

    @property
    def ident(self) -> str:
        """The name by which the place is remembered."""

    @property
    def weight(self) -> int:
        """Its share, as against the weights of the others."""


Place = TypeVar("Place", bound=Weighted)

# How far above its share a place may go, so that most conversations go by rank, and find their
# way back after a restart: the shares are those of this many conversations more than there are,
_MORE = 4
# or, of many, of this part of the smallest share. It is what the smallest can come to lack.
_MORE_OF_SMALLEST = 0.05
_LONG = 32  # bytes from which a conversation's name is remembered by a digest


def ranked(conversation: bytes, candidates: Sequence[Place]) -> list[Place]:
    """Order the candidates for a conversation, the best first, by weighted rendezvous hashing.

    The order of any two is the same for ever, whoever else is there. Of many conversations
    each candidate is the first for its weight's part.
    """
    if len(candidates) == 1:
        return list(candidates)
    return sorted(candidates, key=lambda each: _score(conversation, each))


def _score(conversation: bytes, place: Weighted) -> tuple[bool, float]:
    """Give a number that is smaller the earlier the place comes: exponential, as races are."""
    digest = blake2b(place.ident.encode() + b"\0" + conversation, digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return place.weight == 0, -log(uniform) / (place.weight or 1)


class Pins:
    """Remember where conversations went, at most `most` of them, each for `keep_s` of silence.

    A conversation stays where it went last while that is among the candidates, also when its
    first place is back. A new one goes by rank, but not where more than a fair share is already:
    so a thousand spread within a tenth of the weights, whatever their names hash to.

    Models with other candidates are other conversations: put the model into the name.
    `now` is in seconds on any monotonic clock.
    """

    def __init__(self, *, most: int = 20_000, keep_s: float = 3600.0) -> None:
        self._most = most
        self.keep_s = keep_s
        self._pins: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._pins)

    def choose(self, conversation: bytes, candidates: Sequence[Place], now: float) -> list[Place]:
        """Order the candidates for a conversation, the best first; a new one is counted there."""
        self._forget(now)
        order = ranked(conversation, candidates)
        name = _name(conversation)
        pin = self._pins.get(name)
        if pin is not None and any(each.ident == pin[0] for each in order):
            self._pin(name, pin[0], now)
            order.sort(key=lambda each: each.ident != pin[0])
            return order
        full = self._full(candidates)
        order.sort(key=lambda each: (each.weight == 0, each.ident in full))
        # Where a known one goes for want of its place is for `went` to say: it may be back soon.
        if pin is None and order:
            self._pin(name, order[0].ident, now)
            self._forget(now)
        return order

    def went(self, conversation: bytes, ident: str, now: float) -> None:
        """Note where a conversation was served: there it stays."""
        self._pin(_name(conversation), ident, now)
        self._forget(now)

    def _pin(self, name: bytes, ident: str, now: float) -> None:
        self._unpin(self._pins.pop(name, None))
        self._pins[name] = ident, now
        self._counts[ident] += 1

    def _unpin(self, pin: tuple[str, float] | None) -> None:
        if pin is not None:
            self._counts[pin[0]] -= 1
            if not self._counts[pin[0]]:
                del self._counts[pin[0]]

    def _forget(self, now: float) -> None:
        """Drop what was silent for too long, or is too many: the longest silent first."""
        while self._pins:
            oldest = next(iter(self._pins.values()))
            if len(self._pins) <= self._most and now < oldest[1] + self.keep_s:
                return
            self._unpin(self._pins.popitem(last=False)[1])

    def _full(self, candidates: Sequence[Weighted]) -> set[str]:
        """Name the candidates that have more than their share of the conversations known."""
        weighted = [each for each in candidates if each.weight]
        if len(weighted) < 2:
            return set()
        total = sum(each.weight for each in weighted)
        known = sum(self._counts[each.ident] for each in weighted)
        smallest = min(each.weight for each in weighted) / total
        counted = known + 1 + max(_MORE, _MORE_OF_SMALLEST * smallest * known)
        return {e.ident for e in weighted if self._counts[e.ident] >= counted * e.weight / total}


def _name(conversation: bytes) -> bytes:
    if len(conversation) < _LONG:
        return conversation
    return blake2b(conversation, digest_size=16).digest()
