"""`gatewayctl credits sync`: compare with Stripe here and now, with the server up or down."""

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.session import Session, store_failures

if TYPE_CHECKING:  # takes longer to import than `--help` may take
    from server.billing.stripe.account import Account
    from server.config.load import Settings


def sync_command(ctx: typer.Context) -> None:
    """Compare everything; what a person must look at is told, and ends with 3."""
    session = Session.of(ctx)
    done = sync(session)
    stuck = done["quarantined"]
    for each in stuck:
        session.out.note(f"warning: {each['event']} ({each['type']}): {each['reason']}.")
    shown: dict[str, object] = done if session.out.as_json else {**done, "quarantined": len(stuck)}
    session.out.fields(shown)
    if stuck:
        raise CommandError(
            f"{len(stuck)} of Stripe's events could not be taken over.",
            status=ExitStatus.CHECK_FAILED,
            code="quarantined",
            hint="look at them in Stripe's dashboard; nothing was credited for them",
        )


def sync(session: Session) -> dict[str, Any]:
    """Bring the ledger and the subscriptions to what Stripe says, whatever was told before.

    Raises:
        CommandError: no Stripe key is configured, or Stripe does not work just now.
        GatewayError: Stripe or the database does not work just now.
    """
    settings = session.settings()
    # What goes wrong is told by the command, not by a log that it does not have.
    logging.getLogger("server").addHandler(logging.NullHandler())
    with store_failures():
        return asyncio.run(_sync(settings))


async def _sync(settings: "Settings") -> dict[str, Any]:
    from server.billing.stripe.account import opened
    from server.store.db import Store

    store = Store.open(settings.database_path)
    try:
        async with opened(settings, os.environ, store) as account:
            if account is None:
                raise CommandError(
                    "No Stripe key is configured.",
                    status=ExitStatus.USAGE,
                    code="billing_not_configured",
                    hint="set `stripe.secret_key` in the config, or the variable that it names",
                )
            return await _compare(account)
    finally:
        await store.close()


async def _compare(account: "Account") -> dict[str, Any]:
    from server import clock
    from server.billing.stripe import inbox, payments, reconcile

    store = account.store
    changes = await store.read(payments.changes)
    await store.write(inbox.retry_quarantined, clock.now())
    compared = await reconcile.reconcile(account, everything=True)
    if not await inbox.drain(account):
        raise CommandError(
            "Stripe stopped answering on the way; what was compared so far is kept.",
            status=ExitStatus.UNAVAILABLE,
            code="unavailable",
            hint="run it again in a while",
        )
    stuck = await store.read(inbox.in_quarantine)
    return {
        "object": "sync",
        "new_events": compared.new_events,
        "sessions": compared.sessions,
        "customers": compared.customers,
        "payments_changed": await store.read(payments.changes) - changes,
        "quarantined": [
            {"event": row.id, "type": row.type, "object_id": row.object_id, "reason": row.reason}
            for row in stuck
        ],
    }
