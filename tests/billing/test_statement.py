import csv
import io
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import books

from server import clock
from server.billing import history
from server.billing.ledger import Kind
from server.billing.pricing import Tokens
from server.billing.statement import COLUMNS, parse_month, statement
from server.errors import InvalidRequest
from server.store.db import open_database
from server.store.migrate import migrate
from server.store.models import Tenant, database

UTC_ZONE = ZoneInfo("UTC")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Asia/Kathmandu",
    "America/Havana",  # shows midnight twice
    "Africa/Cairo",  # skips midnight
    "Pacific/Kiritimati",
]
NOVEMBER = date(2026, 11, 1)


@pytest.fixture
def store(tmp_path):
    migrate(tmp_path / "gateway.db")
    handle = open_database(tmp_path / "gateway.db")
    yield handle
    handle.close()


@pytest.fixture
def owner(store):
    return books.tenant(at=at("2026-01-01T00:00Z")).id


def at(text):
    return datetime.fromisoformat(text).astimezone(UTC)


def made_of(owner, month=NOVEMBER, tz=UTC_ZONE):
    return statement(owner, "tnt_x", month, tz)


def test_a_month_leads_from_one_balance_to_the_next(owner):
    plain = books.price()
    dear = books.price("dear", output=50_000_000)
    books.grant(owner, 10_000_000, at("2026-10-31T23:59Z"))
    books.grant(owner, 5_000_000, at("2026-11-01T00:00Z"))
    books.grant(owner, 7_000_000, at("2026-11-03T00:00Z"), kind=Kind.TOPUP)
    one = books.spend(owner, "req_1", Tokens(10, 20, 30, 40, 50), plain, at("2026-11-03T10:00Z"))
    two = books.spend(owner, "req_2", Tokens(1, 2, 3, 4, 5), plain, at("2026-11-30T23:59Z"))
    three = books.spend(owner, "req_3", Tokens(output=900), dear, at("2026-11-30T23:59Z"))
    books.grant(owner, 1_000_000, at("2026-12-01T00:00Z"))

    made = made_of(owner)

    assert made.opening_micros == 10_000_000
    assert made.closing_micros == 22_000_000 - one - two - three
    assert [list(row) for row in made.as_json()["lines"]] == [list(COLUMNS)] * 4
    assert [tuple(row.values()) for row in made.as_json()["lines"]] == [
        ("topup", None, 1, 0, 0, 0, 0, 7_000_000),
        ("grant", None, 1, 0, 0, 0, 0, 5_000_000),
        ("charge", "dear", 1, 0, 0, 0, 900, -three),
        ("charge", "smart", 2, 11, 22, 77, 55, -one - two),
    ]
    assert made.as_json()["days"][2] == {
        "date": "2026-11-03",
        "charges_micros": -one,
        "others_micros": 7_000_000,
        "closing_balance_micros": 22_000_000 - one,
    }
    assert len(made.days) == 30


def test_a_tenant_without_entries_has_a_statement_too(owner):
    made = made_of(owner)

    assert (made.opening_micros, made.closing_micros, made.lines) == (0, 0, ())


def test_months_before_and_after_all_entries_are_flat(owner):
    books.grant(owner, 5_000_000, at("2026-11-05T00:00Z"))

    assert made_of(owner, date(2026, 10, 1)).closing_micros == 0
    later = made_of(owner, date(2026, 12, 1))
    assert (later.opening_micros, later.closing_micros, later.lines) == (5_000_000, 5_000_000, ())


def test_the_year_ends_when_the_zones_clocks_say_so(owner):
    kathmandu = ZoneInfo("Asia/Kathmandu")  # 18:15 UTC is its midnight
    books.grant(owner, 1, at("2026-12-31T18:14Z"))
    books.grant(owner, 2, at("2026-12-31T18:15Z"))

    december = made_of(owner, date(2026, 12, 9), kathmandu)
    january = made_of(owner, date(2027, 1, 1), kathmandu)

    assert (december.closing_micros, january.opening_micros) == (1, 1)
    assert january.closing_micros == 3


def test_an_hour_that_comes_twice_belongs_to_its_day(owner):
    berlin = ZoneInfo("Europe/Berlin")
    for hour in range(26):
        books.grant(owner, 1, at("2026-10-24T21:30Z") + timedelta(hours=hour))

    days = {day.date: day.others_micros for day in made_of(owner, date(2026, 10, 1), berlin).days}

    assert days[date(2026, 10, 24)] == 1
    assert days[date(2026, 10, 25)] == 25


moments = st.datetimes(
    datetime(2026, 1, 20),  # noqa: DTZ001 - Hypothesis adds the zone
    datetime(2027, 1, 10),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    posts=st.lists(st.tuples(moments, st.integers(-(10**12), 10**12)), max_size=15),
    zone=st.sampled_from(ZONES),
)
def test_statements_agree_with_a_naive_recount_in_any_zone(store, posts, zone):
    tz = ZoneInfo(zone)
    owner = books.tenant(f"t{Tenant.select().count()}").id
    months, days = Counter(), Counter()
    for moment, amount in sorted(posts):
        books.grant(owner, amount, moment)
        local = moment.astimezone(tz).date()
        months[local.replace(day=1)] += amount
        days[local] += amount

    balance = months[date(2026, 1, 1)]
    for month in (date(2026, number, 1) for number in range(2, 13)):
        made = made_of(owner, month, tz)
        assert made.opening_micros == balance
        balance += months[month]
        assert made.closing_micros == balance
        assert sum(line.amount_micros for line in made.lines) == months[month]
        assert [day.others_micros for day in made.days] == [days[day.date] for day in made.days]


def test_csv_begins_and_ends_with_a_balance_and_adds_up(owner):
    plain = books.price()
    books.grant(owner, 10_000_000, at("2026-10-31T23:59Z"))
    books.grant(owner, 5_000_000, at("2026-11-02T00:00Z"))
    books.spend(owner, "req_1", Tokens(10, 20, 30, 40, 50), plain, at("2026-11-03T10:00Z"))

    header, *rows = csv.reader(io.StringIO(made_of(owner).as_csv()))

    assert header == list(COLUMNS)
    assert (rows[0][0], rows[-1][0]) == ("opening_balance", "closing_balance")
    assert sum(int(row[-1]) for row in rows[:-1]) == int(rows[-1][-1])
    assert rows[2][:2] == ["charge", "smart"]


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "2026-11-01", "november", "", "1969-12"])
def test_a_month_that_cannot_be_is_refused(text):
    with pytest.raises(InvalidRequest, match="`month` must be a month such as 2026-11"):
        parse_month(text)


def test_a_month_is_read_as_its_first_day():
    assert parse_month("2028-02") == date(2028, 2, 1)


def test_a_moment_is_found_with_a_few_point_reads(owner):
    began = at("2026-11-01T00:00Z")
    for number in range(200):
        books.grant(owner, 1, began + timedelta(seconds=number // 2))  # each moment twice
    reads = []
    store_connection = database.connection()
    store_connection.set_trace_callback(reads.append)

    found = history.first_since(owner, clock.to_ms(began) + 50_000)

    store_connection.set_trace_callback(None)
    assert found == 101
    assert len(reads) <= 10
    plan = database.execute_sql(f"EXPLAIN QUERY PLAN {history._AT}", (owner, 5)).fetchall()
    assert [row[3] for row in plan] == ["SEARCH entry USING PRIMARY KEY (tenant_id=? AND seq>?)"]


def test_a_moment_before_all_or_after_all_is_an_end_of_the_ledger(owner):
    books.grant(owner, 1, at("2026-11-01T00:00Z"))

    assert history.first_since(owner, 0) == 1
    assert history.first_since(owner, 2**50) == 2
    assert history.balance_before(owner, 1) == 0


def test_a_clock_that_was_set_back_leaves_the_order_of_the_ledger(owner):
    books.grant(owner, 1, at("2026-11-02T00:00Z"))
    books.grant(owner, 2, at("2026-10-02T00:00Z"))

    assert made_of(owner, date(2026, 10, 1)).lines == ()
    assert made_of(owner).closing_micros == 3
