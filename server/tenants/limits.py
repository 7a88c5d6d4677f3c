"""What a key may use: kept as JSON on the key, and shared by the keys that it makes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from server.config.schema import UsageLimits
from server.errors import Conflict, InvalidRequest
from server.store import audit
from server.store.audit import Action
from server.store.models import Key
from server.tenants import spend
from server.tenants.caller import Billing

NONE = UsageLimits()

_DECODER = msgspec.json.Decoder(UsageLimits)


def of(key: Key) -> UsageLimits:
    """Give what a key may use: by its own limits, or by those that it shares."""
    return _read(_head(key).limits)


def as_json(limits: UsageLimits) -> dict[str, Any] | None:
    """Show limits as the API does: only those that there are; None where there are none."""
    known = msgspec.to_builtins(limits)
    return {name: value for name, value in known.items() if value is not None} or None


def text_of(limits: UsageLimits) -> str | None:
    """Write limits as a key keeps them."""
    shown = as_json(limits)
    return None if shown is None else msgspec.json.encode(shown, order="sorted").decode()


def require_fit(limits: UsageLimits, billing: Billing) -> None:
    """Refuse a cap of money for a key that spends none.

    Raises:
        InvalidRequest: the key's requests are paid for by a subscription.
    """
    if limits.monthly_usd is not None and billing is Billing.SUBSCRIPTION:
        raise InvalidRequest(
            "A subscription key spends quota and no money: it cannot have a monthly cap.",
            param="monthly_usd",
        )


def change(key: Key, changes: Mapping[str, object], *, actor: str, now: datetime) -> Key:
    """Set some of a key's limits, or lift those that are None; the next request meets them.

    Raises:
        Conflict: the key shares the limits of another, which has to be named instead.
        InvalidRequest: a cap of money for a key of a subscription.
    """
    if key.limits_key is not None:
        raise Conflict(
            f"The key {key.public_id} shares the limits of {key.limits_key.public_id}; "
            "change those."
        )
    before = _read(key.limits)
    after = msgspec.convert({**msgspec.to_builtins(before), **changes}, UsageLimits)
    require_fit(after, Billing(key.billing))
    key.limits = text_of(after)
    key.save(only=[Key.limits])
    count(key, before, after, now)
    audit.record(
        Action.KEY_LIMITED,
        key.public_id,
        actor=actor,
        at=now,
        tenant_id=key.tenant_id,
        name=key.name,
        limits=as_json(after) or "none",
    )
    return key


def count(key: Key, before: UsageLimits, after: UsageLimits, now: datetime) -> None:
    """Begin or end to count what is spent, as the cap comes or goes."""
    if before.monthly_usd is None and after.monthly_usd is not None:
        spend.begin(key.id, now)
    elif before.monthly_usd is not None and after.monthly_usd is None:
        spend.end(key.id)


def hand_over(key: Key, heir: Key) -> None:
    """Let the successor of `key` share its limits, or have them where they are its own.

    Whatever shared them shares the heir's then, and what was spent this month stays spent.
    """
    heir.limits, heir.limits_key = key.limits, key.limits_key
    heir.save(only=[Key.limits, Key.limits_key])
    if key.limits is not None:
        key.limits, key.limits_key = None, heir
        key.save(only=[Key.limits, Key.limits_key])
        Key.update(limits_key=heir).where(Key.limits_key == key).execute()
        spend.move(key.id, heir.id)


def _head(key: Key) -> Key:
    return key if key.limits_key is None else key.limits_key


def _read(text: str | None) -> UsageLimits:
    return NONE if text is None else _DECODER.decode(text)
