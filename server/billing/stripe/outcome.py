"""What came of comparing something here with Stripe's."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Agrees now; not ours; or a person must look at it."""

    DONE = "done"
    IGNORED = "ignored"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, and why."""

    state: State
    reason: str | None = None


DONE = Outcome(State.DONE)


def ignored(reason: str) -> Outcome:
    """Say that something is not this gateway's to look at."""
    return Outcome(State.IGNORED, reason)


def quarantined(reason: str) -> Outcome:
    """Say why something moved no money and gave nothing."""
    return Outcome(State.QUARANTINED, reason)
