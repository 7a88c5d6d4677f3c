"""Settle what killed processes left open: once, before anything is served.

The rule: a request that was under way when its process was killed is charged what its row holds:
the provider's exact input and the output of the last checkpoint, where the answer had got that
far, else the estimated input. Never a blind release: the provider may have billed it all.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any, cast

import msgspec

from server.billing import admission, prices, pricing
from server.billing.allowance import Weights
from server.billing.pricing import Price, Tokens
from server.billing.scales import Bill, columns_of
from server.store.models import Request
from server.tenants.caller import Billing
from server.usage.record import Closing, Outcome

AT_ONCE = 500  # rows in one transaction: others write too


def settle_some(dead_instance_ids: Collection[int], weights: Weights, now: datetime) -> int:
    """Settle up to `AT_ONCE` requests of dead processes, as interrupted; count them.

    Call it until it gives 0, and only while holding the serve lock. How long such a request
    took is unknown.
    """
    wanted = (Request.state == "open") & Request.instance.in_(list(dead_instance_ids))
    found = Request.select().where(wanted).order_by(Request.id).limit(AT_ONCE)
    rows = cast("list[dict[str, Any]]", list(found.dicts()))
    known: dict[int, Price] = {}
    for row in rows:
        admission.settle(row["request_id"], _closing(row, weights, known), now)
    return len(rows)


def _closing(row: dict[str, Any], weights: Weights, known: dict[int, Price]) -> Closing:
    tokens = Tokens(
        input=row["input_tokens"],
        cache_read=row["cache_read_input_tokens"],
        cache_write_5m=row["cache_write_5m_tokens"],
        cache_write_1h=row["cache_write_1h_tokens"],
        output=row["output_tokens"],
    )
    bill = _bill(row, tokens, weights, known)
    return Closing(
        outcome=Outcome.INTERRUPTED,
        duration_ms=None,
        estimated=True,
        **columns_of(tokens, bill),
    )


def _bill(row: dict[str, Any], tokens: Tokens, weights: Weights, known: dict[int, Price]) -> Bill:
    if row["billing"] == Billing.SUBSCRIPTION:
        return Bill(quota_tokens=weights.weigh(tokens), extras=row["extras"])
    number = row["price"]
    if number is None:
        return Bill(extras=row["extras"])
    if number not in known:
        known[number] = prices.by_number(number)
    extras = msgspec.json.decode(row["extras"] or "{}", type=dict[str, str | int])
    cost = pricing.cost_micros(known[number], tokens, extras)
    return Bill(cost_micros=cost, extras=row["extras"])
