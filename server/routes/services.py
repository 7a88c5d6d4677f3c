"""What the handlers are given: the parts of a running gateway."""

import os
import time
from asyncio import Timeout
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sanic import Request

from server.billing.stripe.account import Account
from server.config.load import Settings
from server.gateway import Gateway
from server.observing.watch import Watch
from server.store.db import Store
from server.tenants.keys import Caller


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may take: for a request's head, its body, an answer it does not read.

    `discard_s` is for the rest of a request that was refused before it was read, `tell_s` for
    reading why a gateway that stops has ended it.
    """

    head_s: float = 30.0
    body_s: float = 120.0
    discard_s: float = 10.0
    write_s: float = 120.0
    tell_s: float = 5.0


def new_request_ids() -> Iterator[str]:
    """Give one id after another: `req_`, the time in milliseconds, and 128 random bits, in hex.

    Ids of one time share the pages of their indexes: without the time each request would write
    two pages more, and ever colder ones as the database grows. Randomness is fetched for many at
    once: each fetch lets go of Python's lock, which the store's thread then takes, and would
    cost a request more than its id.
    """
    while True:
        pool = os.urandom(16 * 256).hex()
        for begin in range(0, len(pool), 32):
            yield f"req_{time.time_ns() // 1_000_000:012x}{pool[begin : begin + 32]}"


@dataclass(slots=True)
class Services:
    """The parts that handlers call, and whether the gateway is on its way out."""

    settings: Settings
    store: Store
    gateway: Gateway
    started_at: datetime
    watch: Watch
    deadlines: Deadlines = Deadlines()
    stripe: Account | None = None
    is_draining: bool = False
    request_ids: Iterator[str] = field(default_factory=new_request_ids)
    callers: dict[str, Caller] = field(default_factory=dict)  # digest of what was presented
    clients: dict[str, str] = field(default_factory=dict)  # a peer's address as it is shown
    open_streams: int = 0
    touched: dict[int, float] = field(default_factory=dict)  # key id -> when last noted as used
    arriving: set[Timeout] = field(default_factory=set)  # the deadlines of bodies on their way

    def begin_drain(self) -> None:
        """Refuse what comes from now on, and whose body has not come yet."""
        self.is_draining = True
        for deadline in self.arriving:
            if not deadline.expired():
                deadline.reschedule(0)

    @property
    def body_limit_bytes(self) -> int:
        """How large a request body may be."""
        return self.settings.config.server.max_body_mb * 1024 * 1024


def services_of(request: Request[Any, Any]) -> Services:
    """Give the parts of the gateway that got `request`."""
    services: Services = request.app.ctx.services
    return services
