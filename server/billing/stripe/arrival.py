"""A person comes back from Checkout: make sure that what they bought is here, and say so."""

import asyncio
from datetime import datetime, timedelta

from server.billing.money import dollars
from server.billing.stripe import converge, sessions
from server.billing.stripe.account import Account
from server.billing.stripe.payments import MICROS_PER_CENT
from server.errors import GatewayError
from server.store.models import Checkout, CheckoutSession, Topup

PATIENCE_S = 5.0
NOT_SOONER = timedelta(seconds=3)

UNKNOWN = ("Welcome back", "You can close this page and go on with your work.")
_SAYS = {
    "complete": ("Thank you", "The subscription is active. You can close this page."),
    "open": ("Not paid yet", "Nothing was paid so far. The page of Stripe still takes it."),
    "processing": ("On its way", "The payment is being processed; it is added once it arrives."),
    "failed": ("Not paid", "The payment failed, and nothing was taken. Please try again."),
    "expired": ("Expired", "The time to pay has run out, and nothing was taken."),
}
_LATER = ("Thank you", "What you bought is being looked at, and will be there in a moment.")


async def arrive(account: Account, session_id: str, now: datetime) -> tuple[str, str]:
    """Compare the session, if it is one of ours, and give a title and a sentence.

    Whoever asks for other sessions costs a look-up here and no call to Stripe.

    Raises:
        StoreUnavailable: the database cannot be used.
    """
    row = await account.store.read(sessions.by_session, session_id)
    if row is None:
        return UNKNOWN
    if await account.store.write(_claim, type(row), row.id, now):
        try:
            async with asyncio.timeout(PATIENCE_S):
                await converge.look_at(account, "checkout.session", session_id)
        except (GatewayError, TimeoutError):
            account.told.set()  # the webhook, or the next comparison, brings it
            return _LATER
        row = await account.store.read(sessions.by_session, session_id)
    return _say(row)


def _claim(model: type[CheckoutSession], row_id: int, now: datetime) -> bool:
    """Tell whether to ask Stripe: not for what has ended, nor again within seconds."""
    is_rested = model.checked_at.is_null() | (model.checked_at < now - NOT_SOONER)
    rows = model.update(checked_at=now).where(
        model.id == row_id, model.state.in_(sessions.OPEN), is_rested
    )
    return bool(rows.execute())


def _say(row: Topup | Checkout | None) -> tuple[str, str]:
    if isinstance(row, Topup) and row.state == "paid":
        amount = dollars(row.amount_cents * MICROS_PER_CENT)
        return "Thank you", f"{amount} is on your balance. You can close this page."
    return _LATER if row is None else _SAYS.get(row.state, _LATER)
