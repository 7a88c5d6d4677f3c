"""A text that nobody is to read by accident: it prints as `***`."""

from hmac import compare_digest
from typing import NoReturn, final

MASK = "***"


@final
class Secret:
    """A secret, or a reference to one; only `reveal` gives it.

    No log, traceback or f-string shows it, and no encoder (JSON, msgspec, pickle) takes it.
    Two are compared in constant time; a plain text equals none. An empty one is false.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the text, for the one place that needs it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (each.reveal().encode(errors="surrogatepass") for each in (self, other))
        return compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")
