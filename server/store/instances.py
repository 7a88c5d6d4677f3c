"""The processes that serve: one row each, so that what a killed one left open can be found."""

from datetime import datetime

from server.store import breakers
from server.store.models import Instance, Request


def begin(pid: int, host: str, version: str, now: datetime) -> int:
    """Record a process that starts to serve; return the id that its rows carry."""
    row = Instance.create(pid=pid, host=host, version=version, started_at=now)
    return int(row.id)


def end(instance_id: int, now: datetime) -> None:
    """Record that the process has settled everything and stops.

    Where it has not, because a settlement was lost, it stays without an end: the next start
    takes it for a killed one, and settles what is open. What it held off counts no more.
    """
    breakers.forget(instance_id)
    is_open = (Request.instance == instance_id) & (Request.state == "open")
    if not Request.select().where(is_open).exists():
        Instance.update(stopped_at=now).where(Instance.id == instance_id).execute()


def dead(current_id: int) -> list[int]:
    """List the instances that were killed: not the current one, and without an end.

    Call it only while holding the serve lock, which is what proves that they are dead.
    """
    rows = Instance.select(Instance.id).where(
        Instance.id != current_id, Instance.stopped_at.is_null()
    )
    return [row.id for row in rows.order_by(Instance.id)]
