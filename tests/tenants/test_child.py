from dataclasses import replace
from datetime import timedelta

import pytest

from server.errors import InvalidApiKey, InvalidRequest, KeyNotAllowed, ScopeNotAllowed
from server.store.models import Key
from server.tenants import keys, secrets

DAY = timedelta(days=1)


@pytest.fixture
def parent(tenant, now):
    minted = keys.mint(
        tenant.id,
        "parent",
        billing=keys.Billing.PAY_PER_TOKEN,
        scope=keys.Scope.MANAGE,
        member="ana",
        expires_at=now + DAY,
        created_by="cli",
        now=now,
        secret=secrets.generate(),
    )
    return keys.authenticate([minted.secret], now)


@pytest.fixture
def mint_child(parent, now):
    def mint_child(_parent=parent, **fields):
        secret = secrets.generate()
        return keys.as_json(keys.mint_child(_parent, fields, now=now, secret=secret).key, now)

    return mint_child


def test_what_is_left_out_is_inference_and_the_parents(mint_child, parent):
    child = mint_child(name="ci")

    kept = ("name", "member", "billing", "scope", "expires_at", "created_by")
    assert {field: child[field] for field in kept} == {
        "name": "ci",
        "member": None,
        "billing": "pay_per_token",
        "scope": "inference",
        "expires_at": "2026-11-23T13:00:00Z",
        "created_by": parent.key_public_id,
    }


def test_everything_a_key_takes_can_be_given(mint_child):
    child = mint_child(
        name="ci",
        member="bo",
        billing="pay_per_token",
        scope="manage",
        expires_at="2026-11-22T16:30:00.250+02:00",
    )

    assert (child["member"], child["scope"]) == ("bo", "manage")
    assert child["expires_at"] == "2026-11-22T14:30:00Z"


def test_null_is_the_same_as_left_out(mint_child):
    child = mint_child(name="ci", member=None, billing=None, scope=None, expires_at=None)

    assert (child["scope"], child["expires_at"]) == ("inference", "2026-11-23T13:00:00Z")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": ["ci"]}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "ci", "member": ""}, "member"),
        ({"name": "ci", "member": 3}, "member"),
        ({"name": "ci", "scope": "admin"}, "scope"),
        ({"name": "ci", "scope": {}}, "scope"),
        ({"name": "ci", "billing": "free"}, "billing"),
        ({"name": "ci", "tenant_id": 1}, "tenant_id"),
        ({"name": "ci", "routes": ["/*"]}, "routes"),
        ({"name": "ci", "expires_at": "2026-11-22T13:00:00Z"}, "expires_at"),
        ({"name": "ci", "expires_at": "2026-11-22T14:00:00"}, "expires_at"),
        ({"name": "ci", "expires_at": "2026-11-22"}, "expires_at"),
        ({"name": "ci", "expires_at": "2026-13-22T14:00:00Z"}, "expires_at"),
        ({"name": "ci", "expires_at": "0001-01-01T00:00:00+23:00"}, "expires_at"),
        ({"name": "ci", "expires_at": "2026-11-22T14:00:00Z\n"}, "expires_at"),
        ({"name": "ci", "expires_at": 1_800_000_000}, "expires_at"),
    ],
)
def test_an_unusable_or_unknown_field_is_named(mint_child, fields, param):
    with pytest.raises(InvalidRequest, match=param) as refused:
        mint_child(**fields)

    assert refused.value.param == param
    assert Key.select().count() == 1


def test_a_child_cannot_outlive_its_parent(mint_child):
    with pytest.raises(KeyNotAllowed, match="2026-11-23T13:00:00Z"):
        mint_child(name="ci", expires_at="2026-11-23T13:00:01Z")


def test_a_child_may_live_as_long_as_its_parent(mint_child):
    child = mint_child(name="ci", expires_at="2026-11-23T13:00:00Z")

    assert child["expires_at"] == "2026-11-23T13:00:00Z"


def test_a_child_of_an_endless_parent_may_live_as_long_as_it_likes(mint_child, parent):
    endless = replace(parent, expires_at=None)

    assert mint_child(endless, name="a")["expires_at"] is None
    assert mint_child(endless, name="b", expires_at="9999-01-01T00:00:00z")["expires_at"] == (
        "9999-01-01T00:00:00Z"
    )


def test_a_child_is_billed_as_its_parent(mint_child):
    with pytest.raises(KeyNotAllowed, match="billing"):
        mint_child(name="ci", billing="subscription")


@pytest.mark.parametrize("scope", ["manage", "inference"])
def test_an_inference_key_makes_no_keys(mint_child, parent, scope):
    with pytest.raises(ScopeNotAllowed, match="`manage`"):
        mint_child(replace(parent, scope=keys.Scope.INFERENCE), name="ci", scope=scope)


def test_a_parent_revoked_a_moment_ago_makes_no_keys(mint_child, parent, now):
    keys.revoke(None, parent.key_public_id, actor="cli", now=now)

    with pytest.raises(InvalidApiKey, match="revoked"):
        mint_child(name="ci")
