"""The audit log: who changed what, written in the transaction of the change itself.

A row is written by the function that makes the change, so that no caller can forget it. Rows are
never changed: the table's own triggers see to that. They name things by their ids and carry what
people called them; a secret, its hash or a prompt is never among the details.
"""

import os
import pwd
from collections.abc import Collection, Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from peewee import JOIN, fn

from server import clock
from server.store.models import Audit, Tenant
from server.store.statements import execute

# A person runs these: beside the program, a row names its user. Others act for themselves: a
# key, by its public id, and Stripe.
CLI, INIT, SERVE = "cli", "init", "serve"
STRIPE = "stripe"

APPEND = (
    "INSERT INTO audit (at, actor, tenant_id, action, target, details) VALUES (?, ?, ?, ?, ?, ?)"
)


class Action(StrEnum):
    """What was done."""

    CONFIG_INITIALISED = "config.initialised"
    CONFIG_RELOADED = "config.reloaded"
    PRESETS_RELOADED = "presets.reloaded"
    DB_MIGRATED = "db.migrated"
    PRICE_SET = "price.set"
    TENANT_CREATED = "tenant.created"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    KEY_ROTATED = "key.rotated"
    KEY_LIMITED = "key.limited"
    CREDITS_GRANTED = "credits.granted"
    CREDITS_ADJUSTED = "credits.adjusted"
    SUBSCRIPTION_SET = "subscription.set"
    SUBSCRIPTION_CANCELLED = "subscription.cancelled"
    TOPUP_OPENED = "topup.opened"
    CHECKOUT_OPENED = "checkout.opened"
    STRIPE_TOPUP = "stripe.topup"
    STRIPE_REFUND = "stripe.refund"
    STRIPE_DISPUTE = "stripe.dispute"
    STRIPE_CUSTOMER_ATTACHED = "stripe.customer_attached"
    STRIPE_CUSTOMER_DETACHED = "stripe.customer_detached"


def record(
    action: Action,
    target: str,
    *,
    actor: str,
    at: datetime,
    tenant_id: int | None = None,
    **details: object,
) -> None:
    """Append a row, inside the caller's transaction; a detail that is None is left out.

    `target` is the public id of what was changed, or what else it goes by.
    """
    execute(APPEND, row(action, target, actor=actor, at=at, tenant_id=tenant_id, **details))


def row(
    action: Action,
    target: str,
    *,
    actor: str,
    at: datetime,
    tenant_id: int | None = None,
    **details: object,
) -> tuple[object, ...]:
    """Give the values of `APPEND`, for who has no open database to `record` in."""
    known = {name: _plain(value) for name, value in details.items() if value is not None}
    text = msgspec.json.encode(known, order="sorted").decode()
    return clock.to_ms(at), _with_user(actor), tenant_id, action.value, target, text


def newest_first(
    *,
    since_ms: int | None = None,
    before_ms: int | None = None,
    actor: str | None = None,
    actions: Collection[Action] = (),
    tenant_id: int | None = None,
) -> Iterator[Audit]:
    """Read rows, one at a time; `actor` may leave out the user, no `actions` are all."""
    query = Audit.select(Audit, Tenant).join(Tenant, JOIN.LEFT_OUTER).order_by(Audit.id.desc())
    if since_ms is not None:
        query = query.where(Audit.at >= since_ms)
    if before_ms is not None:
        query = query.where(Audit.at < before_ms)
    if actor is not None:
        of_any_user = fn.substr(Audit.actor, 1, len(actor) + 1) == f"{actor}:"
        query = query.where((Audit.actor == actor) | of_any_user)
    if actions:
        query = query.where(Audit.action.in_([action.value for action in actions]))
    if tenant_id is not None:
        query = query.where(Audit.tenant == tenant_id)
    found: Iterator[Audit] = query.iterator()
    return found


def as_json(found: Audit) -> dict[str, Any]:
    """Show a row as the CLI's `--json` does."""
    return {
        "object": "audit_record",
        "id": found.id,
        "at": clock.rfc3339(found.at),
        "actor": found.actor,
        "tenant": None if found.tenant is None else found.tenant.public_id,
        "action": found.action,
        "target": found.target,
        "details": msgspec.json.decode(found.details),
    }


def _plain(value: object) -> object:
    return clock.rfc3339(value) if isinstance(value, datetime) else value


def _with_user(actor: str) -> str:
    """Add who runs this process; not from the environment, which says what it is told to."""
    if actor not in (CLI, INIT, SERVE):
        return actor
    try:
        return f"{actor}:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user need not have a name
        return actor
