"""Whose limits a request meets: its key's, and its subscription's."""

from dataclasses import dataclass

from server.config.schema import Config, UsageLimits
from server.tenants.caller import UNLIMITED, Billing, Caller


@dataclass(frozen=True, slots=True)
class Bound:
    """Limits that some requests share: their counters go by `owner`, refusals name `whose`."""

    owner: tuple[str, int]
    whose: str
    limits: UsageLimits


def has_tier_bounds(caller: Caller, config: Config) -> bool:
    """Tell whether the caller's tier matters to its limits: only then is it worth a look-up."""
    if caller.billing is not Billing.SUBSCRIPTION:
        return False
    return any(tier.limits != UNLIMITED for tier in config.tiers.values())


def bounds_of(caller: Caller, tier: str | None, config: Config) -> tuple[Bound, ...]:
    """Give the limits that a caller meets, its key's first.

    A child's key may share those of an ancestor. A tier's are met by subscription keys alone, by
    all of a tenant together.
    """
    bounds: tuple[Bound, ...] = ()
    if caller.limits != UNLIMITED:
        shared = caller.limits_id
        whose = "this key" if shared == caller.key_public_id else f"this key and {shared} together"
        bounds = (Bound(("key", caller.counter_id), whose, caller.limits),)
    found = config.tiers.get(tier) if tier is not None else None
    if found is not None and found.limits != UNLIMITED:
        whose = f"all subscription keys in the tier {tier} together"
        bounds += (Bound(("tenant", caller.tenant_id), whose, found.limits),)
    return bounds
