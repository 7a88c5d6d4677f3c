from datetime import timedelta

import pytest

from server.errors import Conflict, InvalidApiKey, InvalidRequest, NotFound
from server.store.models import Key
from server.tenants import keys, secrets, tenants

HOUR = timedelta(hours=1)


@pytest.fixture
def mint(tenant, now):
    def mint(name="ci", **attributes):
        defaults = {
            "tenant_id": tenant.id,
            "billing": keys.Billing.PAY_PER_TOKEN,
            "scope": keys.Scope.MANAGE,
            "member": None,
            "expires_at": None,
            "created_by": "cli",
            "now": now,
            "secret": secrets.generate(),
        }
        return keys.mint(name=name, **(defaults | attributes))

    return mint


def test_only_the_digest_of_a_secret_is_stored(mint, database):
    minted = mint()

    (row,) = database.execute_sql("SELECT * FROM key").fetchall()
    assert minted.secret not in repr(minted)
    assert minted.secret not in map(str, row)
    assert secrets.digest(minted.secret) in row
    assert (minted.key.prefix, minted.key.last4) == (minted.secret[:8], minted.secret[-4:])


def test_a_key_as_json(mint, now):
    minted = mint(member="ana", expires_at=now + HOUR)

    assert keys.as_json(minted.key, now) == {
        "id": minted.key.public_id,
        "object": "key",
        "name": "ci",
        "member": "ana",
        "billing": "pay_per_token",
        "scope": "manage",
        "prefix": minted.secret[:8],
        "last4": minted.secret[-4:],
        "status": "active",
        "created_at": "2026-11-22T13:00:00Z",
        "created_by": "cli",
        "expires_at": "2026-11-22T14:00:00Z",
        "last_used_at": None,
        "revoked_at": None,
        "limits": None,
        "limits_key_id": None,
    }


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\tb", "line\n", None, 7])
def test_a_name_must_be_printable(mint, name):
    with pytest.raises(InvalidRequest, match="printable") as refused:
        mint(name)

    assert refused.value.param == "name"


def test_a_name_may_be_anything_printable_and_twice_the_same(mint):
    assert mint("x" * 100).key.name == "x" * 100
    assert mint("Zoë's CI ✓").key.id != mint("Zoë's CI ✓").key.id


def test_a_key_cannot_be_born_expired(mint, now):
    with pytest.raises(InvalidRequest, match="future"):
        mint(expires_at=now)


def test_a_page_is_newest_first_and_the_next_one_follows(mint, tenant):
    for number in range(5):
        mint(f"n{number}")

    first = keys.list_keys(tenant.id, limit=3)
    second = keys.list_keys(tenant.id, limit=3, after_id=first.keys[-1].public_id)

    assert ([key.name for key in first.keys], first.has_more) == (["n4", "n3", "n2"], True)
    assert ([key.name for key in second.keys], second.has_more) == (["n1", "n0"], False)


def test_a_full_last_page_has_nothing_after_it(mint, tenant):
    mint()

    assert keys.list_keys(tenant.id, limit=1).has_more is False


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_page_has_1_to_100_keys(tenant, limit):
    with pytest.raises(InvalidRequest, match="1 to 100") as refused:
        keys.list_keys(tenant.id, limit=limit)

    assert refused.value.param == "limit"


def test_another_tenants_key_looks_like_a_missing_one(mint, tenant, now):
    other = tenants.create("other", now)
    theirs = mint(tenant_id=other.id).key

    for look_up in (
        lambda: keys.find(tenant.id, theirs.public_id),
        lambda: keys.revoke(tenant.id, theirs.public_id, actor="cli", now=now),
    ):
        with pytest.raises(NotFound, match=rf"^There is no key {theirs.public_id}; list "):
            look_up()
    with pytest.raises(NotFound, match=r"^There is no key key_missing; list "):
        keys.find(tenant.id, "key_missing")
    with pytest.raises(InvalidRequest, match="after_id"):
        keys.list_keys(tenant.id, after_id=theirs.public_id)
    assert keys.list_keys(tenant.id).keys == []
    assert Key.get_by_id(theirs.id).revoked_at is None


def test_a_command_finds_and_lists_keys_of_every_tenant(mint, now):
    mine = mint().key
    theirs = mint(tenant_id=tenants.create("other", now).id).key

    assert keys.find(None, theirs.public_id) == theirs
    assert keys.list_keys(None).keys == [theirs, mine]


def test_revoking_twice_keeps_the_first_moment(mint, tenant, now):
    key = mint().key

    keys.revoke(tenant.id, key.public_id, actor="cli", now=now)
    again = keys.revoke(tenant.id, key.public_id, actor="cli", now=now + HOUR)

    assert again.revoked_at == now
    assert keys.as_json(again, now)["status"] == "revoked"


def test_a_successor_has_the_same_attributes_and_the_old_key_a_grace_period(mint, tenant, now):
    old = mint(member="ana", expires_at=now + 48 * HOUR)

    new = keys.rotate(
        tenant.id,
        old.key.public_id,
        grace=24 * HOUR,
        created_by="cli",
        now=now,
        secret=secrets.generate(),
    )

    kept = ("name", "member", "billing", "scope", "expires_at")
    before, after = keys.as_json(old.key, now), keys.as_json(new.key, now)
    assert {field: before[field] for field in kept} == {field: after[field] for field in kept}
    assert keys.authenticate([old.secret], now + 23 * HOUR).key_id == old.key.id
    with pytest.raises(InvalidApiKey, match="expired"):
        keys.authenticate([old.secret], now + 24 * HOUR)
    assert keys.authenticate([new.secret], now + 24 * HOUR).key_id == new.key.id


def test_a_grace_period_never_lengthens_a_keys_life(mint, tenant, now):
    old = mint(expires_at=now + HOUR).key

    keys.rotate(
        None, old.public_id, grace=24 * HOUR, created_by="cli", now=now, secret=secrets.generate()
    )

    assert keys.find(tenant.id, old.public_id).expires_at == now + HOUR


def test_without_grace_the_old_key_is_revoked_at_once(mint, now):
    old = mint()

    keys.rotate(
        None,
        old.key.public_id,
        grace=timedelta(0),
        created_by="cli",
        now=now,
        secret=secrets.generate(),
    )

    with pytest.raises(InvalidApiKey, match="revoked"):
        keys.authenticate([old.secret], now)


def test_a_dead_key_has_no_successor(mint, now):
    old = mint().key
    keys.revoke(None, old.public_id, actor="cli", now=now)

    with pytest.raises(Conflict, match="is revoked"):
        keys.rotate(
            None, old.public_id, grace=HOUR, created_by="cli", now=now, secret=secrets.generate()
        )


def test_a_key_past_its_expiry_is_shown_as_expired(mint, now):
    key = mint(expires_at=now + HOUR).key

    assert keys.status(key, now) == "active"
    assert keys.as_json(key, now + HOUR)["status"] == "expired"


def test_a_negative_grace_is_refused(mint, now):
    old = mint().key

    with pytest.raises(InvalidRequest, match="negative"):
        keys.rotate(
            None, old.public_id, grace=-HOUR, created_by="cli", now=now, secret=secrets.generate()
        )


def test_the_last_use_is_written_at_most_once_a_minute(mint, now):
    key = mint().key
    moments = [now, now + timedelta(seconds=59), now + timedelta(seconds=60)]

    assert [keys.touch(key.id, moment) for moment in moments] == [True, False, True]
    assert Key.get_by_id(key.id).last_used_at == moments[2]
