"""Look at one thing at Stripe, and make what is here agree with it."""

import logging

from server import clock
from server.billing.stripe import payments, sessions, subscribed
from server.billing.stripe.account import Account
from server.billing.stripe.client import Fields, Refused
from server.billing.stripe.outcome import DONE, Outcome, State, ignored, quarantined
from server.store import problems
from server.store.models import Checkout, Payment, Topup

# What reading an object that is not as it should be ends in; a broken constraint as well, for
# a database that does not work just now is `StoreUnavailable`.
_ODD = (LookupError, TypeError, ValueError, OverflowError, *problems.DATABASE_ERRORS)

_log = logging.getLogger(__name__)


async def look_at(account: Account, kind: str, object_id: str) -> Outcome:
    """Compare a `checkout.session`, a `payment_intent` or a `customer`.

    What Stripe refuses to show, or shows in a shape that makes no sense, moves nothing and is
    put into quarantine with the reason.

    Raises:
        UpstreamError, Unavailable, Internal: Stripe or the store does not work just now.
    """
    try:
        outcome = await _look(account, kind, object_id)
    except Refused as err:
        outcome = quarantined(f"Stripe refused to show it ({err.why})")
    except _ODD as exc:
        outcome = quarantined(f"Stripe showed something odd ({type(exc).__name__}: {exc})")
    if outcome.state is State.QUARANTINED:
        _log.error("quarantined: %s %s: %s", kind, object_id, outcome.reason)
    return outcome


async def _look(account: Account, kind: str, object_id: str) -> Outcome:
    match kind:
        case "checkout.session":
            return await _session(account, object_id)
        case "payment_intent":
            return await _intent(account, object_id)
        case _:
            return await subscribed.sync(account, object_id)


async def _session(account: Account, session_id: str) -> Outcome:
    row = await account.store.read(sessions.by_session, session_id)
    if row is None:
        session = await account.client.session(session_id)
        row = await _claimed_by(account, session)
        if row is None or row.session_id != session_id:
            return _stranger(session)
    match row:
        case Topup():
            return await payments.converge(account, row)
        case Checkout():
            return await _checkout(account, row)


async def _intent(account: Account, intent_id: str) -> Outcome:
    topup = await account.store.read(_topup_of, intent_id)
    if topup is None:
        intent = await account.client.payment_intent(intent_id)
        row = await _claimed_by(account, intent)
        if not isinstance(row, Topup):
            return _stranger(intent)
        topup = row
    outcome = await payments.converge(account, topup)
    known = await account.store.read(_topup_of, intent_id)
    if outcome == DONE and known is None:
        return ignored("not the payment of its top-up, or not paid yet")
    return outcome


async def _checkout(account: Account, checkout: Checkout) -> Outcome:
    session = await account.client.session(sessions.id_of(checkout))
    await account.store.write(
        sessions.mark, Checkout, checkout.id, str(session["status"]), now=clock.now()
    )
    if session["status"] != "complete":
        return DONE
    return await subscribed.sync(account, session["customer"])


async def _claimed_by(account: Account, found: Fields) -> Topup | Checkout | None:
    """Give the row that an object was made for by its own word, with its session.

    A crash can lose the answer that had the session's id; asking again under the row's key
    gives it.
    """
    public_id = (found["metadata"] or {}).get("row")
    row = await account.store.read(sessions.by_public_id, str(public_id))
    return None if row is None else await sessions.obtain(account, row)


def _stranger(found: Fields) -> Outcome:
    """Judge what no row here was made for: others may sell through the same account."""
    metadata = found["metadata"] or {}
    if metadata.get("kind") in {"topup", "checkout"} and "row" in metadata:
        return quarantined("it names a purchase that is not known here")
    return ignored("not made by this gateway")


def _topup_of(intent_id: str) -> Topup | None:
    payment = Payment.get_or_none(Payment.ref == intent_id)
    return None if payment is None else Topup.get_by_id(payment.topup_id)
