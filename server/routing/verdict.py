"""What a provider's failure means for the next try, and for whom."""

from enum import StrEnum

from msgspec import Struct

from server.errors import (
    AnswerTooLong,
    GatewayError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)


class Blame(StrEnum):
    """What is to be spared for a while."""

    NOBODY = "nobody"
    TARGET = "target"  # its upstream, with this model
    KEY = "key"  # the upstream's key: one refusal is enough
    RATE = "rate"  # the key, until the provider wants it back


class Verdict(Struct, frozen=True):
    """Who is blamed for a failure, and whether it is worth trying again: here, or elsewhere.

    `may_rekey`: elsewhere may be the same target with another key.
    """

    blame: Blame
    may_repeat: bool
    may_move: bool
    may_rekey: bool = False


def judge(error: GatewayError, status: int | None) -> Verdict:
    """Judge a failed attempt; `status` is the answer's, None where none came.

    A client's own mistake is passed on: no provider would take it, and nobody is to blame.
    """
    if isinstance(error, UpstreamError) and error.upstream_status is not None:
        status = error.upstream_status  # a 200 may speak of another, a 400 of an empty account
    elif isinstance(error, AnswerTooLong) or not isinstance(error, _THEIRS):
        return _FINAL  # ours
    if status == 429:
        return _LIMITED
    if isinstance(error, UpstreamRefused):
        return _FINAL
    if status in _OF_THE_KEY:
        return _KEY_REFUSED
    if status is not None and 400 <= status < 500 and status != 408:
        return _FORBIDDEN if status == 403 else _ELSEWHERE
    return _FAILED


_THEIRS = (UpstreamError, UpstreamOverloaded, UpstreamTimeout)
_OF_THE_KEY = frozenset({401, 402})
_FINAL = Verdict(Blame.NOBODY, may_repeat=False, may_move=False)
_LIMITED = Verdict(Blame.RATE, may_repeat=True, may_move=True)
_KEY_REFUSED = Verdict(Blame.KEY, may_repeat=False, may_move=True)
# What this key may not do another may; but some providers say so of what a client wrote.
_FORBIDDEN = Verdict(Blame.NOBODY, may_repeat=False, may_move=True, may_rekey=True)
_ELSEWHERE = Verdict(Blame.NOBODY, may_repeat=False, may_move=True)
_FAILED = Verdict(Blame.TARGET, may_repeat=True, may_move=True)
