"""The one way to Stripe: explicit retries, short timeouts, plain dicts, translated errors.

The SDK takes 75 ms and 8 MB to load, so it is imported when a client is made and not before.
"""

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from server.errors import Internal, Unavailable, UpstreamError
from server.secret import Secret

if TYPE_CHECKING:
    import stripe
    from stripe.params import CustomerCreateParams
    from stripe.params.checkout import SessionCreateParams

Fields: TypeAlias = dict[str, Any]

RETRIES = 2
TIMEOUT_S, CONNECT_S = 10, 5
PAGE = 100

_log = logging.getLogger(__name__)


class Refused(Internal):
    """Stripe understood a call, and refused it: our mistake, or about something that is gone.

    `why` is Stripe's own code.
    """

    why: str = ""

    @property
    def is_missing(self) -> bool:
        """Whether what was asked about is not there."""
        return self.why == "resource_missing"


class Client:
    """The calls that the gateway makes. Each may raise as `translated` does."""

    def __init__(self, key: Secret, api_base: str | None = None) -> None:
        import httpx
        import stripe

        # Otherwise the SDK writes an id of this machine into the home folder and sends it.
        stripe.enable_telemetry = False
        self._http = stripe.HTTPXClient(timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_S))
        self._v1 = stripe.StripeClient(
            key.reveal(),
            base_addresses={} if api_base is None else {"api": api_base},
            http_client=self._http,
            max_network_retries=RETRIES,  # the SDK's own default is none
        ).v1

    async def close(self) -> None:
        """Close its connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the SDK types its calls only

    async def create_customer(self, params: Fields, *, key: str) -> Fields:
        """Make a customer; the same `key` gives the same one."""
        with translated():
            wanted = cast("CustomerCreateParams", params)
            return _plain(await self._v1.customers.create_async(wanted, {"idempotency_key": key}))

    async def create_session(self, params: Fields, *, key: str) -> Fields:
        """Make a Checkout session; the same `key` gives the same one."""
        with translated():
            sessions, wanted = self._v1.checkout.sessions, cast("SessionCreateParams", params)
            return _plain(await sessions.create_async(wanted, {"idempotency_key": key}))

    async def create_portal(self, customer_id: str, return_url: str) -> Fields:
        """Make a portal session."""
        with translated():
            portal = self._v1.billing_portal.sessions
            return _plain(
                await portal.create_async({"customer": customer_id, "return_url": return_url})
            )

    async def expire_session(self, session_id: str) -> Fields:
        """End an open session, so that nobody can pay by it any more."""
        with translated():
            return _plain(await self._v1.checkout.sessions.expire_async(session_id))

    async def session(self, session_id: str) -> Fields:
        """Fetch a Checkout session."""
        with translated():
            return _plain(await self._v1.checkout.sessions.retrieve_async(session_id))

    async def payment_intent(self, intent_id: str) -> Fields:
        """Fetch a payment intent."""
        with translated():
            return _plain(await self._v1.payment_intents.retrieve_async(intent_id))

    async def customer(self, customer_id: str) -> Fields:
        """Fetch a customer; one that was deleted has `deleted` and little else."""
        with translated():
            return _plain(await self._v1.customers.retrieve_async(customer_id))

    async def refunds(self, intent_id: str) -> list[Fields]:
        """Fetch all refunds of a payment intent."""
        with translated():
            found = await self._v1.refunds.list_async({"payment_intent": intent_id, "limit": PAGE})
            return [_plain(each) async for each in found.auto_paging_iter()]

    async def disputes(self, intent_id: str) -> list[Fields]:
        """Fetch all disputes of a payment intent."""
        with translated():
            found = await self._v1.disputes.list_async({"payment_intent": intent_id, "limit": PAGE})
            return [_plain(each) async for each in found.auto_paging_iter()]

    async def subscriptions(self, customer_id: str) -> list[Fields]:
        """Fetch all subscriptions of a customer, ended ones too."""
        with translated():
            found = await self._v1.subscriptions.list_async(
                {"customer": customer_id, "status": "all", "limit": PAGE}
            )
            return [_plain(each) async for each in found.auto_paging_iter()]

    async def price_id(self, lookup_key: str) -> str | None:
        """Look up the price that is in use under `lookup_key`."""
        with translated():
            found = await self._v1.prices.list_async({"lookup_keys": [lookup_key], "active": True})
            return found.data[0].id if found.data else None

    async def events(self, since_s: int, types: Sequence[str]) -> AsyncIterator[Fields]:
        """Fetch the events of at most 20 `types` that happened since, newest first."""
        with translated():
            found = await self._v1.events.list_async(
                {"created": {"gte": since_s}, "types": list(types), "limit": PAGE}
            )
            async for each in found.auto_paging_iter():
                yield _plain(each)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the SDK raises into our errors; its words stay out of both answer and log.

    They may repeat a part of the key, or what a person typed.

    Raises:
        UpstreamError: Stripe cannot be reached, or fails.
        Unavailable: Stripe has had too many calls, or is still busy with the same one.
        Internal: the key is wrong or may not do this.
        Refused: anything else that Stripe refuses.
    """
    import stripe

    try:
        yield
    except stripe.RateLimitError as exc:
        _note(exc)
        raise Unavailable("Stripe is busy; try again shortly.", retry_after_s=5) from exc
    except (stripe.AuthenticationError, stripe.PermissionError) as exc:
        _note(exc)
        raise Internal("Stripe does not accept this gateway; its operator must mend that.") from exc
    except (stripe.APIConnectionError, stripe.APIError) as exc:
        _note(exc)
        if exc.http_status == 409:  # the same is being asked for at this moment
            raise Unavailable("Stripe is busy; try again shortly.", retry_after_s=5) from exc
        raise UpstreamError("Stripe cannot be reached just now; try again shortly.") from exc
    except stripe.StripeError as exc:
        _note(exc)
        refused = Refused("Stripe refused what the gateway asked; the gateway's log says why.")
        refused.why = str(exc.code or type(exc).__name__)
        raise refused from exc


def _note(error: "stripe.StripeError") -> None:
    _log.warning(
        "Stripe: %s (status %s, code %s, their request %s)",
        *(type(error).__name__, error.http_status, error.code, error.request_id),
    )


def _plain(found: "stripe.StripeObject") -> Fields:
    # A StripeObject is no mapping: it has no `get`, and its `items` may be a field.
    return found.to_dict()
