"""Plausible token counts: a token is four bytes, and repeated prefixes are read from a cache."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import msgspec

Ttl = Literal["5m", "1h"]
_AUTOMATIC_STEP_TOKENS = 1024  # OpenAI caches a prefix from 1,024 tokens on
_KEPT_PREFIXES = 20_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts that do not overlap, as a request row stores them."""

    input_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0  # part of output_tokens

    @property
    def prompt_tokens(self) -> int:
        """Everything that was read, cached or not."""
        written = self.cache_write_5m_tokens + self.cache_write_1h_tokens
        return self.input_tokens + self.cache_read_input_tokens + written


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the prompt in the order that caches see it; `ttl` if a breakpoint ends it."""

    content: Any
    ttl: Ttl | None = None


class PrefixCache:
    """Remembers hashes of prompt prefixes; the least recently used are forgotten."""

    def __init__(self, limit: int = _KEPT_PREFIXES) -> None:
        self._limit = limit
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def longest(self, prefixes: Sequence[bytes]) -> int:
        """Give the index of the last known prefix, or -1."""
        known = (at for at in range(len(prefixes) - 1, -1, -1) if prefixes[at] in self._known)
        return next(known, -1)

    def remember(self, prefixes: Iterable[bytes]) -> None:
        """Keep `prefixes` as the most recently used."""
        for prefix in prefixes:
            self._known[prefix] = None
            self._known.move_to_end(prefix)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)


def count_tokens(data: bytes | str) -> int:
    """Count one token per four bytes, rounded up."""
    return -(-len(data.encode() if isinstance(data, str) else data) // 4)


def measure_breakpoints(model: str, pieces: Sequence[Piece], cache: PrefixCache) -> Usage:
    """Count a Messages prompt: cached up to its last breakpoint, as far as it was seen before."""
    digest, size = blake2b(model.encode(), digest_size=16), 0
    prefixes: list[bytes] = []
    ends: list[int] = []
    for piece in pieces:
        data = msgspec.json.encode(piece.content)
        digest.update(data)
        size += len(data)
        prefixes.append(digest.digest())
        ends.append(-(-size // 4))
    marked = [at for at, piece in enumerate(pieces) if piece.ttl]
    total = ends[-1] if ends else 0
    if not marked:
        return Usage(input_tokens=total)
    found = cache.longest(prefixes[: marked[-1] + 1])
    cache.remember(prefixes[at] for at in marked)
    read = done = ends[found] if found >= 0 else 0
    written: dict[Ttl, int] = {"5m": 0, "1h": 0}
    for at in marked:
        ttl = pieces[at].ttl
        if ttl and ends[at] > done:
            written[ttl] += ends[at] - done
            done = ends[at]
    return Usage(
        input_tokens=total - done,
        cache_read_input_tokens=read,
        cache_write_5m_tokens=written["5m"],
        cache_write_1h_tokens=written["1h"],
    )


def measure_automatic(model: str, pieces: Sequence[Piece], cache: PrefixCache) -> Usage:
    """Count a Chat Completions prompt: cached in steps of 1,024 tokens, writes are free."""
    data = b"".join(msgspec.json.encode(piece.content) for piece in pieces)
    digest, step = blake2b(model.encode(), digest_size=16), _AUTOMATIC_STEP_TOKENS * 4
    prefixes: list[bytes] = []
    for start in range(0, len(data) - step + 1, step):
        digest.update(data[start : start + step])
        prefixes.append(digest.digest())
    read = (cache.longest(prefixes) + 1) * _AUTOMATIC_STEP_TOKENS
    cache.remember(prefixes)
    return Usage(input_tokens=count_tokens(data) - read, cache_read_input_tokens=read)


def hash_pieces(pieces: Iterable[Piece]) -> str:
    """Name a prefix in 16 hexadecimal digits."""
    digest = blake2b(digest_size=8)
    for piece in pieces:
        digest.update(msgspec.json.encode(piece.content))
    return digest.hexdigest()
