from datetime import UTC, datetime

import pytest

from server.store.db import open_database
from server.store.migrate import migrate
from server.tenants import tenants


@pytest.fixture
def now():
    return datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "gateway.db"
    migrate(path)
    database = open_database(path)
    yield database
    database.close()


@pytest.fixture
def tenant(database, now):
    return tenants.ensure_default(now)
