"""What a key may ask for when it makes another: the rules of `POST /tenant/keys`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from server import clock
from server.errors import InvalidRequest, KeyNotAllowed, ScopeNotAllowed
from server.tenants import labels
from server.tenants.caller import Billing, Caller, Scope

_FIELDS = ("name", "scope", "expires_at", "member", "billing")
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new key is to be; all else is its parent's."""

    name: str
    scope: Scope
    member: str | None
    expires_at: datetime | None


def read(parent: Caller, fields: Mapping[str, object]) -> Wanted:
    """Read the fields of a request by `parent`; what is left out or null takes its default.

    Raises:
        InvalidRequest: a field is unknown or unusable; `param` names it.
        KeyNotAllowed, ScopeNotAllowed: the child would outlive or outrank its parent.
    """
    if parent.scope is not Scope.MANAGE:
        raise ScopeNotAllowed("Only a key with the scope `manage` can make keys.")
    for field in fields:
        if field not in _FIELDS:
            raise InvalidRequest(
                f"Unknown field `{field}`; a key takes {', '.join(_FIELDS)}.", param=field
            )
    given = {field: value for field, value in fields.items() if value is not None}
    _refuse_other_billing(parent, given)
    member = given.get("member")
    return Wanted(
        name=labels.require(given.get("name"), field="name"),
        scope=_scope(given),
        member=None if member is None else labels.require(member, field="member"),
        expires_at=_expiry(parent, given),
    )


def _refuse_other_billing(parent: Caller, fields: Mapping[str, object]) -> None:
    billing = fields.get("billing", parent.billing.value)
    if billing not in tuple(Billing):
        raise InvalidRequest(
            "`billing` must be `subscription` or `pay_per_token`.", param="billing"
        )
    if billing != parent.billing:
        raise KeyNotAllowed(
            f"A new key has the billing of the key that makes it: `{parent.billing}`.",
            param="billing",
        )


def _scope(fields: Mapping[str, object]) -> Scope:
    asked = fields.get("scope", Scope.INFERENCE.value)
    if asked not in tuple(Scope):
        raise InvalidRequest("`scope` must be `manage` or `inference`.", param="scope")
    return Scope(str(asked))


def _expiry(parent: Caller, fields: Mapping[str, object]) -> datetime | None:
    asked = fields.get("expires_at")
    if asked is None:
        return parent.expires_at
    expires_at = _parse_rfc3339(asked)
    if parent.expires_at is not None and expires_at > parent.expires_at:
        raise KeyNotAllowed(
            "A key cannot outlive the key that makes it, which expires at "
            f"{clock.rfc3339(parent.expires_at)}.",
            param="expires_at",
        )
    return expires_at


def _parse_rfc3339(text: object) -> datetime:
    try:
        if isinstance(text, str) and _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise _bad_moment() from exc
    raise _bad_moment()


def _bad_moment() -> InvalidRequest:
    return InvalidRequest(
        "`expires_at` must be a time like `2026-11-22T13:00:00Z`, or null.", param="expires_at"
    )
