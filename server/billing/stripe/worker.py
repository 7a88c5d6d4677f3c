"""What runs beside the requests: the inbox as events come, the comparison every few minutes."""

import asyncio
import logging
from asyncio import Task, TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server import clock
from server.billing.stripe import inbox
from server.billing.stripe.account import Account
from server.billing.stripe.reconcile import reconcile
from server.counts import counted
from server.errors import GatewayError

RECONCILE_EVERY_S = 300.0
LONGEST_WAIT_S, SHORTEST_WAIT_S = 60.0, 1.0

_log = logging.getLogger(__name__)


@asynccontextmanager
async def working(account: Account | None, every_s: float) -> AsyncIterator[None]:
    """Do inside the block what `account`, if there is one, needs done."""
    if account is None:
        yield
        return
    task = asyncio.create_task(work(account, every_s))
    task.add_done_callback(_log_end)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def work(account: Account, every_s: float) -> None:
    """Look at events and compare with Stripe until cancelled; trouble is logged and outlived."""
    async with TaskGroup() as tasks:
        tasks.create_task(_empty_inbox(account))
        tasks.create_task(_reconcile(account, every_s))


async def _empty_inbox(account: Account) -> None:
    while True:
        account.told.clear()  # first: what comes while this looks is looked at next
        wait_s = LONGEST_WAIT_S
        try:
            await inbox.drain(account)
            due = await account.store.read(inbox.next_due)
            if due is not None:
                wait_s = (due - clock.now()).total_seconds()
        except GatewayError as err:
            _log.warning("the inbox has to wait: %s", err)
        await _wait(account.told, min(max(wait_s, SHORTEST_WAIT_S), LONGEST_WAIT_S))


async def _reconcile(account: Account, every_s: float) -> None:
    while True:
        try:
            compared = await reconcile(account)
        except GatewayError as err:
            _log.warning("could not compare everything with Stripe: %s", err)
        else:
            if compared.new_events:
                _log.warning("Stripe had not told of %s", counted(compared.new_events, "event"))
        account.told.set()
        await asyncio.sleep(every_s)


async def _wait(told: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        return


def _log_end(task: "Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("what runs beside the requests has ended", exc_info=task.exception())
