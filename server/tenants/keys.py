"""Keys: minting, listing, revoking and rotating them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from peewee import JOIN, ModelSelect

from server import clock
from server.config.schema import UsageLimits
from server.errors import Conflict, InvalidApiKey, InvalidRequest, NotFound
from server.store import audit, models
from server.store.audit import Action
from server.store.models import Key
from server.tenants import child, labels, limits, secrets
from server.tenants.caller import Billing, Caller, Scope, authenticate

__all__ = [
    "Billing",
    "Caller",
    "Minted",
    "Page",
    "Scope",
    "as_json",
    "authenticate",
    "find",
    "limit",
    "list_keys",
    "mint",
    "mint_child",
    "revoke",
    "rotate",
    "status",
    "touch",
]

LONGEST_PAGE = 100

_TOUCH_EVERY = timedelta(minutes=1)
_TOUCH = (
    "UPDATE key SET last_used_at = ? WHERE id = ? AND (last_used_at IS NULL OR last_used_at <= ?)"
)


@dataclass(frozen=True, slots=True)
class Minted:
    """A new key and its secret, which exists nowhere else."""

    key: Key
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and whether more follows."""

    keys: list[Key]
    has_more: bool


def mint(
    tenant_id: int,
    name: str,
    *,
    billing: Billing,
    scope: Scope,
    member: str | None,
    expires_at: datetime | None,
    created_by: str,
    now: datetime,
    secret: str,
    actor: str | None = None,
    limited: UsageLimits = limits.NONE,
    limits_key: Key | None = None,
) -> Minted:
    """Add a key for `secret`, which `secrets.generate` made.

    `actor` goes into the audit log where that says more than `created_by`. The key's own limits
    are `limited`; with `limits_key` it shares that key's.

    Raises:
        InvalidRequest: the name or member is not printable, the expiry has passed, or a key that
            spends no money has a cap.
    """
    limits.require_fit(limited, billing)
    if expires_at is not None and expires_at <= now:
        raise InvalidRequest("`expires_at` must lie in the future.", param="expires_at")
    kind = {"billing": billing.value, "scope": scope.value}
    life = {"created_at": now, "created_by": created_by, "expires_at": expires_at}
    bound = {"limits": limits.text_of(limited), "limits_key": limits_key}
    key = _insert(tenant_id, name, member, secret, **kind, **life, **bound)
    limits.count(key, limits.NONE, limited, now)
    told = {"member": member, "billing": key.billing, "scope": key.scope, "expires_at": expires_at}
    shown, shared = limits.as_json(limited), _public_id(limits_key)
    by = actor or created_by
    _record(Action.KEY_CREATED, key, by, now, **told, limits=shown, limits_key=shared)
    return Minted(key, secret)


def _insert(tenant_id: int, name: str, member: str | None, secret: str, **columns: Any) -> Key:
    key: Key = Key.create(
        public_id=secrets.new_id("key_"),
        tenant=tenant_id,
        name=labels.require(name, field="name"),
        member=None if member is None else labels.require(member, field="member"),
        secret_sha256=secrets.digest(secret),
        prefix=secret[:8],
        last4=secret[-4:],
        **columns,
    )
    return key


def mint_child(
    parent: Caller, fields: Mapping[str, object], *, now: datetime, secret: str
) -> Minted:
    """Mint a key as `POST /tenant/keys` asks; the tenant and the billing are the parent's.

    A parent with limits shares them, and what they count: more keys do not get round them.

    Raises:
        InvalidRequest: a field is unknown or unusable; `param` names it.
        KeyNotAllowed, ScopeNotAllowed: the child would outlive or outrank its parent.
        InvalidApiKey: the parent was revoked or has expired since it was authenticated.
    """
    wanted = child.read(parent, fields)
    maker = _require_living(parent, now)
    return mint(
        parent.tenant_id,
        wanted.name,
        billing=parent.billing,
        scope=wanted.scope,
        member=wanted.member,
        expires_at=wanted.expires_at,
        created_by=parent.key_public_id,
        now=now,
        secret=secret,
        limits_key=maker if maker.limits is not None else maker.limits_key,
    )


def list_keys(tenant_id: int | None, *, limit: int = 20, after_id: str | None = None) -> Page:
    """List a tenant's keys, newest first; `after_id` is the last id of the page before.

    Raises:
        InvalidRequest: `limit` is not 1 to 100, or `after_id` is none of the tenant's keys.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise InvalidRequest(f"`limit` must be 1 to {LONGEST_PAGE}.", param="limit")
    query = _keys_of(tenant_id)
    if after_id is not None:
        last = query.where(Key.public_id == after_id).first()
        if last is None:
            raise InvalidRequest("`after_id` is not the id of one of the keys.", param="after_id")
        query = query.where(Key.id < last.id)
    rows = list(query.order_by(Key.id.desc()).limit(limit + 1))
    return Page(rows[:limit], has_more=len(rows) > limit)


def find(tenant_id: int | None, public_id: str) -> Key:
    """Look up a key of a tenant; the CLI, which may see all tenants, passes None.

    Raises:
        NotFound: no such key, or another tenant's: the two look the same.
    """
    key: Key | None = _keys_of(tenant_id).where(Key.public_id == public_id).first()
    if key is None:
        raise NotFound(f"There is no key {public_id}; list the keys to see their ids.")
    return key


def revoke(tenant_id: int | None, public_id: str, *, actor: str, now: datetime) -> Key:
    """End a key for good; doing it twice changes nothing. Raises as `find`."""
    key = find(tenant_id, public_id)
    if key.revoked_at is None:
        key.revoked_at = now
        key.save(only=[Key.revoked_at])
        _record(Action.KEY_REVOKED, key, actor, now)
    return key


def rotate(
    tenant_id: int | None,
    public_id: str,
    *,
    grace: timedelta,
    created_by: str,
    now: datetime,
    secret: str,
) -> Minted:
    """Mint a successor with the same attributes; the old key lives on for `grace` at most.

    The successor takes over the limits and what they count; until it ends the old key shares them.

    Raises:
        NotFound: as `find`.
        Conflict: the key was revoked or has expired, so there is nothing to take over from.
        InvalidRequest: `grace` is negative.
    """
    old = find(tenant_id, public_id)
    if grace < timedelta(0):
        raise InvalidRequest("The grace period cannot be negative.", param="grace")
    if status(old, now) != "active":
        raise Conflict(f"The key {public_id} is {status(old, now)}; create a new one instead.")
    successor = mint(
        old.tenant_id,
        old.name,
        billing=Billing(old.billing),
        scope=Scope(old.scope),
        member=old.member,
        expires_at=old.expires_at,
        created_by=created_by,
        now=now,
        secret=secret,
    )
    limits.hand_over(old, successor.key)
    ends_at = _end_after(old, grace, now)
    told = {"successor": successor.key.public_id, "ends_at": ends_at}
    _record(Action.KEY_ROTATED, old, created_by, now, **told)
    return successor


def limit(public_id: str, changes: Mapping[str, object], *, actor: str, now: datetime) -> Key:
    """Change a key's limits as `limits.change` does; raises as that and `find`."""
    return limits.change(find(None, public_id), changes, actor=actor, now=now)


def _end_after(key: Key, grace: timedelta, now: datetime) -> datetime:
    """Let a key live on for `grace`, or as long as it had; tell when it ends."""
    if grace:
        end = now + grace
        key.expires_at = end if key.expires_at is None else min(key.expires_at, end)
    else:
        end = key.revoked_at = now
    key.save(only=[Key.expires_at, Key.revoked_at])
    return key.expires_at if grace else end


def touch(key_id: int, now: datetime) -> bool:
    """Note that a key was used, at most once a minute; tell whether that was written."""
    moment, before = clock.to_ms(now), clock.to_ms(now - _TOUCH_EVERY)
    changed: int = models.database.execute_sql(_TOUCH, (moment, key_id, before)).rowcount
    return changed == 1


def status(key: Key, now: datetime) -> str:
    """Tell whether a key is `active`, `revoked` or `expired` at `now`."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    return "active"


def as_json(key: Key, now: datetime) -> dict[str, Any]:
    """Show a key as the API does, without its secret."""
    return {
        "id": key.public_id,
        "object": "key",
        "name": key.name,
        "member": key.member,
        "billing": key.billing,
        "scope": key.scope,
        "prefix": key.prefix,
        "last4": key.last4,
        "status": status(key, now),
        "created_at": _shown(key.created_at),
        "created_by": key.created_by,
        "expires_at": _shown(key.expires_at),
        "last_used_at": _shown(key.last_used_at),
        "revoked_at": _shown(key.revoked_at),
        "limits": limits.as_json(limits.of(key)),
        "limits_key_id": _public_id(key.limits_key),
    }


def _record(action: Action, key: Key, actor: str, now: datetime, **details: object) -> None:
    audit.record(
        action,
        key.public_id,
        actor=actor,
        at=now,
        tenant_id=key.tenant_id,
        name=key.name,
        **details,
    )


def _shown(moment: datetime | None) -> str | None:
    return None if moment is None else clock.rfc3339(moment)


def _public_id(key: Key | None) -> str | None:
    return None if key is None else key.public_id


def _keys_of(tenant_id: int | None) -> "ModelSelect[Key]":
    head = Key.alias()
    query = Key.select(Key, head).join(head, JOIN.LEFT_OUTER, on=(Key.limits_key == head.id))
    return query if tenant_id is None else query.where(Key.tenant == tenant_id)


def _require_living(parent: Caller, now: datetime) -> Key:
    # The caller may come from a cache; a revocation counts from the moment it is committed.
    key: Key = Key.get_by_id(parent.key_id)
    if status(key, now) != "active":
        raise InvalidApiKey("This API key was revoked or has expired; use another one.")
    return key
