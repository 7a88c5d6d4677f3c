import pytest

from server.store.migrate import migrate


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "gateway.db"
    migrate(path)
    return path
