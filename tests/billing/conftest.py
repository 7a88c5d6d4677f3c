import shutil
from pathlib import Path

import pytest
from support import money

from server.store.db import open_database
from server.store.migrate import migrate


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """The file of an empty database, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "gateway.db"
    migrate(path)
    return path


@pytest.fixture
def store(tmp_path, empty_database):
    """An empty database, open."""
    handle = open_database(Path(shutil.copy(empty_database, tmp_path)))
    yield handle
    handle.close()


@pytest.fixture
def house(store):
    """A tenant with keys and a price, and a process that serves it."""
    return money.house()
