import pytest

from server.errors import Conflict, InvalidRequest, NotFound
from server.tenants import tenants


def test_a_tenant_is_found_by_name_and_by_id(database, now):
    acme = tenants.create("acme", now)

    assert tenants.find("acme") == acme
    assert tenants.find(acme.public_id) == acme


def test_an_unknown_tenant_is_not_found(database):
    with pytest.raises(NotFound, match="no tenant acme; `gatewayctl tenants list`"):
        tenants.find("acme")


def test_a_name_is_given_once(database, now):
    tenants.create("acme", now)

    with pytest.raises(Conflict, match="named acme already"):
        tenants.create("acme", now)


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "two\nlines", "tnt_something"])
def test_an_unusable_name_is_refused(database, now, name):
    with pytest.raises(InvalidRequest, match="name"):
        tenants.create(name, now)


def test_the_default_tenant_is_made_once(database, now):
    assert tenants.ensure_default(now) == tenants.ensure_default(now)
    assert [tenant.name for tenant in tenants.list_tenants()] == ["default"]


def test_tenants_are_listed_oldest_first(database, now):
    for name in ("zeta", "alpha"):
        tenants.create(name, now)

    assert [tenant.name for tenant in tenants.list_tenants()] == ["zeta", "alpha"]


def test_a_tenant_as_json(database, now):
    acme = tenants.create("acme", now)

    assert tenants.as_json(acme) == {
        "id": acme.public_id,
        "object": "tenant",
        "name": "acme",
        "created_at": "2026-11-22T13:00:00Z",
    }
