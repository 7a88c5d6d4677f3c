from datetime import timedelta

import pytest

from server.errors import InvalidApiKey
from server.tenants import keys, secrets
from server.tenants.keys import Billing, Caller, Scope, authenticate

HOUR = timedelta(hours=1)
UNKNOWN = secrets.generate(bytes)


@pytest.fixture
def minted(tenant, now):
    return keys.mint(
        tenant.id,
        "ci",
        billing=Billing.SUBSCRIPTION,
        scope=Scope.INFERENCE,
        member="ana",
        expires_at=now + HOUR,
        created_by="cli",
        now=now,
        secret=secrets.generate(),
    )


def test_a_secret_tells_who_calls(minted, tenant, now):
    assert authenticate([minted.secret], now) == Caller(
        key_id=minted.key.id,
        key_public_id=minted.key.public_id,
        tenant_id=tenant.id,
        member="ana",
        billing=Billing.SUBSCRIPTION,
        scope=Scope.INFERENCE,
        expires_at=now + HOUR,
        tenant_public_id=tenant.public_id,
        limits_id=minted.key.public_id,
        counter_id=minted.key.id,
    )


@pytest.mark.parametrize("other", ["", "sk-someone-elses", UNKNOWN])
def test_either_of_two_secrets_may_be_the_valid_one(minted, now, other):
    assert authenticate([minted.secret, other], now).key_id == minted.key.id
    assert authenticate([other, minted.secret], now).key_id == minted.key.id


@pytest.mark.parametrize(
    ("presented", "reason"),
    [
        ([], "No API key was sent"),
        ([""], "No API key was sent"),
        (["' OR '1'='1"], "not an API key of this gateway"),
        (["\udcff\x00"], "not an API key of this gateway"),
        ([UNKNOWN[:-1] + "!"], "not an API key of this gateway"),
        ([UNKNOWN], "not known here"),
        (["sk-other", UNKNOWN], "not known here"),
    ],
)
def test_the_refusal_says_why_and_repeats_nothing(database, now, presented, reason):
    with pytest.raises(InvalidApiKey, match=reason) as refused:
        authenticate(presented, now)

    assert not any(secret and secret in str(refused.value) for secret in presented)


def test_a_key_expires_at_its_moment(minted, now):
    just_before = now + HOUR - timedelta(milliseconds=1)

    assert authenticate([minted.secret], just_before).key_id == minted.key.id
    with pytest.raises(InvalidApiKey, match="has expired"):
        authenticate([minted.secret], now + HOUR)


def test_a_revoked_key_is_refused_by_name_even_beside_an_unknown_one(minted, now):
    keys.revoke(None, minted.key.public_id, actor="cli", now=now)

    with pytest.raises(InvalidApiKey, match="was revoked"):
        authenticate([minted.secret, UNKNOWN], now)
