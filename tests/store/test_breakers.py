from datetime import UTC, datetime, timedelta

from server.store import breakers, instances
from server.store.breakers import HeldOff
from server.store.db import open_database, transaction
from server.store.models import Breaker

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
TARGET = HeldOff("there", "m", 0, "open", NOW, NOW + timedelta(seconds=5), "upstream_timeout")
KEY = HeldOff("there", "", 2, "half_open", NOW, None, "authentication_error")


def test_the_last_word_on_what_is_held_off_counts(path):
    database = open_database(path)
    with transaction():
        number = instances.begin(101, "host", "0.1.0", NOW)
        breakers.write_down(number, [TARGET, KEY])
        assert sorted(breakers.held_off()) == sorted([TARGET, KEY])

        breakers.write_down(number, [KEY])
        assert breakers.held_off() == [KEY]

        breakers.write_down(number, [])
        assert breakers.held_off() == []
    database.close()


def test_an_instance_that_ends_takes_its_words_with_it(path):
    database = open_database(path)
    with transaction():
        number = instances.begin(101, "host", "0.1.0", NOW)
        breakers.write_down(number, [TARGET])
        instances.end(number, NOW)
        assert not Breaker.select().exists()

        breakers.write_down(number, [TARGET])  # one that came too late counts for nothing
        assert breakers.held_off() == []
    database.close()
