"""What the process that serves holds off: written down for commands, which are others."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from server.store.models import Breaker, Instance


class HeldOff(NamedTuple):
    """A target (`key` is 0) or a key (`model` is empty) that fails.

    `state` is `open` until `until`, then `half_open`, as it is while one request tries it.
    """

    upstream: str
    model: str
    key: int
    state: str
    since: datetime
    until: datetime | None
    reason: str


def write_down(instance_id: int, found: Sequence[HeldOff]) -> None:
    """Say all that an instance holds off; what is not among it is asked again."""
    Breaker.delete().execute()
    rows = [{**each._asdict(), "instance": instance_id} for each in found]
    if rows:
        Breaker.insert_many(rows).execute()


def forget(instance_id: int) -> None:
    """Take away what an instance said: it has stopped, or is known to be dead."""
    Breaker.delete().where(Breaker.instance == instance_id).execute()


def held_off() -> list[HeldOff]:
    """List what is held off; while nobody holds the serve lock that is nothing."""
    rows = Breaker.select().join(Instance).where(Instance.stopped_at.is_null())
    return [HeldOff(*(getattr(row, name) for name in HeldOff._fields)) for row in rows]
