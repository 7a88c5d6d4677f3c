"""Tenants: who owns keys and money."""

from datetime import datetime
from typing import Any

from server import clock
from server.errors import Conflict, InvalidRequest, NotFound
from server.store import audit
from server.store.models import Tenant
from server.tenants import labels, secrets

DEFAULT = "default"
_ID_PREFIX = "tnt_"


def create(name: str, now: datetime) -> Tenant:
    """Add a tenant.

    Raises:
        InvalidRequest: the name is not printable, or could be taken for an id.
        Conflict: another tenant has this name.
    """
    labels.require(name, field="name")
    if name.startswith(_ID_PREFIX):
        raise InvalidRequest(f"A tenant's name cannot begin with `{_ID_PREFIX}`.", param="name")
    if Tenant.get_or_none(Tenant.name == name) is not None:
        raise Conflict(f"There is a tenant named {name} already; choose another name.")
    return _insert(name, now, actor=audit.CLI)


def ensure_default(now: datetime) -> Tenant:
    """Give the tenant `default`, which a single team needs only; make it the first time."""
    tenant: Tenant | None = Tenant.get_or_none(Tenant.name == DEFAULT)
    return tenant or _insert(DEFAULT, now, actor=audit.INIT)


def find(name_or_id: str) -> Tenant:
    """Look a tenant up by its name or its public id.

    Raises:
        NotFound: there is none.
    """
    tenant: Tenant | None = Tenant.get_or_none(
        (Tenant.name == name_or_id) | (Tenant.public_id == name_or_id)
    )
    if tenant is None:
        raise NotFound(f"There is no tenant {name_or_id}; `gatewayctl tenants list` shows them.")
    return tenant


def list_tenants() -> list[Tenant]:
    """List all tenants, oldest first."""
    return list(Tenant.select().order_by(Tenant.id))


def as_json(tenant: Tenant) -> dict[str, Any]:
    """Show a tenant as the CLI's `--json` does."""
    return {
        "id": tenant.public_id,
        "object": "tenant",
        "name": tenant.name,
        "created_at": clock.rfc3339(tenant.created_at),
    }


def _insert(name: str, now: datetime, *, actor: str) -> Tenant:
    tenant = Tenant.create(public_id=secrets.new_id(_ID_PREFIX), name=name, created_at=now)
    audit.record(
        audit.Action.TENANT_CREATED,
        tenant.public_id,
        actor=actor,
        at=now,
        tenant_id=tenant.id,
        name=name,
    )
    return tenant
