import itertools
from datetime import UTC, datetime

import pytest

from server.store.db import open_database
from server.store.migrate import migrate
from server.store.models import Instance, Key, Request, Tenant

NOW = datetime(2026, 11, 22, 13, 7, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    """An empty database, open."""
    migrate(tmp_path / "gateway.db")
    handle = open_database(tmp_path / "gateway.db")
    yield handle
    handle.close()


@pytest.fixture
def instance(store):
    return Instance.create(pid=1, host="here", version="0", started_at=NOW)


@pytest.fixture
def tenant(store):
    return Tenant.create(public_id="tnt_one", name="one", created_at=NOW)


@pytest.fixture
def make_key(tenant):
    numbers = itertools.count(1)

    def make(**columns):
        number = next(numbers)
        fields = {
            "public_id": f"key_{number}",
            "tenant": tenant,
            "name": "ci",
            "billing": "pay_per_token",
            "scope": "manage",
            "secret_sha256": f"{number:064}",
            "prefix": "gwk_fake",
            "last4": "fake",
            "created_at": NOW,
            "created_by": "cli",
        }
        return Key.create(**fields | columns)

    return make


@pytest.fixture
def make_request(instance):
    numbers = itertools.count(1)

    def make(key, started_at, **columns):
        number = next(numbers)
        fields = {
            "request_id": f"req_{number}",
            "state": "settled",
            "instance": instance,
            "tenant": key.tenant_id,
            "key": key,
            "protocol": "anthropic",
            "stream": True,
            "requested_model": "auto",
            "model": "smart",
            "upstream": "demo",
            "upstream_model": "demo",
            "started_at": started_at,
        }
        return Request.create(**fields | columns)

    return make
