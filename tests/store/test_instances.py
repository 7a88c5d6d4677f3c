from datetime import UTC, datetime

from server.store import instances
from server.store.db import open_database, transaction
from server.store.models import Instance

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


def test_only_instances_without_an_end_are_dead(path):
    database = open_database(path)
    with transaction():
        stopped, killed, current = (
            instances.begin(pid, "host", "0.1.0", NOW) for pid in (101, 102, 103)
        )
        instances.end(stopped, NOW)

    assert instances.dead(current) == [killed]
    assert Instance.get_by_id(stopped).stopped_at == NOW
    database.close()
