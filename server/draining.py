"""Take a gateway's clients down: each has its whole answer, is told to come back, or is cut."""

import asyncio
import logging
from collections.abc import Collection

from server.counts import counted
from server.routes.connection import Connection
from server.routes.services import Services

LAST_WAIT_S = 0.5  # for handlers that had to be cancelled

_log = logging.getLogger(__name__)


async def drain(connections: Collection[Connection], services: Services) -> None:
    """Let what is under way end within `server.drain_s`, tell the rest, let go of everybody.

    Returns as soon as the last answer is out: idle connections, heads that drip in, and whoever
    comes meanwhile are not waited for. The listener is to stay open until then: a load balancer
    asks `/readyz` on a new connection and could never see its 503 otherwise, and a client is
    better told to come back than refused a connection. Such connections are closed behind
    their one answer, which is a refusal but for `/healthz` and `/readyz`.
    """
    services.begin_drain()
    gone = {each.gone() for each in list(connections) if each.end_soon()}
    gateway, drain_s = services.gateway, services.settings.config.server.drain_s
    await _are_left({*gone, *gateway.pumps}, drain_s)
    if gateway.pumps:
        _log.warning("cut what did not end in time: %s", counted(len(gateway.pumps), "request"))
        await gateway.drain(0)
    if await _are_left(gone, services.deadlines.tell_s):
        for each in list(connections):
            each.cut()
        await _are_left(gone, LAST_WAIT_S)
    for each in list(connections):
        each.close(0)


async def _are_left(futures: Collection[asyncio.Future[None]], wait_s: float) -> bool:
    """Wait for all `futures`; tell whether some are not done after `wait_s`."""
    waiting = [each for each in futures if not each.done()]
    return bool(waiting and (await asyncio.wait(waiting, timeout=wait_s))[1])
