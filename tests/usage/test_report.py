import csv
import io
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.store.models import Request, Tenant
from server.usage.report import By, parse_range, report

NOW = datetime(2026, 11, 22, 23, 30, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
ZONES = [
    "UTC",
    "Europe/Berlin",  # 23 and 25 hour days
    "America/St_Johns",  # minus three and a half hours
    "Asia/Kathmandu",  # plus five hours and forty-five minutes
    "America/Nuuk",  # changes its clocks at midnight
    "America/Havana",  # shows midnight twice
    "Africa/Cairo",  # skips midnight
    "Australia/Lord_Howe",  # shifts by half an hour
    "Pacific/Kiritimati",  # plus fourteen hours
    "Pacific/Apia",
]
FIGURES = ("requests", "input_tokens", "total_tokens")


@pytest.fixture
def key(make_key):
    return make_key()


def at(text):
    return datetime.fromisoformat(text).astimezone(UTC)


def test_a_range_of_days_is_filled_with_zeros_at_both_ends(key, make_request):
    make_request(key, at("2026-11-21T10:00Z"), input_tokens=5)

    made = report(By.DAY, date(2026, 11, 20), date(2026, 11, 22), UTC_ZONE, key.tenant_id)

    assert [(row.label, row.totals.requests) for row in made.rows] == [
        ("2026-11-20", 0),
        ("2026-11-21", 1),
        ("2026-11-22", 0),
    ]


def test_the_json_has_the_shape_that_clients_know(key, make_request):
    make_request(
        key,
        at("2026-11-20T10:00Z"),
        input_tokens=3400,
        cache_read_input_tokens=51000,
        cache_write_5m_tokens=1500,
        cache_write_1h_tokens=500,
        output_tokens=900,
        cost_micros=41_250,
    )

    made = report(By.DAY, date(2026, 11, 20), date(2026, 11, 20), UTC_ZONE, key.tenant_id)

    totals = {
        "requests": 1,
        "input_tokens": 3400,
        "cache_read_input_tokens": 51000,
        "cache_creation_input_tokens": 2000,
        "output_tokens": 900,
        "total_tokens": 57300,
        "cost_micros": 41_250,
    }
    assert made.as_json() == {
        "object": "usage",
        "from": "2026-11-20",
        "to": "2026-11-20",
        "tz": "UTC",
        "data": [{"date": "2026-11-20"} | totals],
        "total": totals,
    }
    assert list(made.as_json()["data"][0]) == ["date", *totals]


def test_an_open_request_counts_with_its_estimate(key, make_request):
    make_request(key, NOW, state="open", input_tokens=70, estimated=True)

    made = report(By.DAY, NOW.date(), NOW.date(), UTC_ZONE, key.tenant_id)

    assert (made.total.requests, made.total.input_tokens) == (1, 70)


def test_another_tenants_requests_never_show(key, make_key, make_request):
    other = Tenant.create(public_id="tnt_two", name="two", created_at=NOW)
    make_request(make_key(tenant=other), NOW)

    for by in By:
        made = report(by, NOW.date(), NOW.date(), UTC_ZONE, key.tenant_id)
        assert made.total.requests == 0


def test_a_report_can_be_limited_to_one_key(key, make_key, make_request):
    other = make_key()
    make_request(key, NOW, tool="cline")
    make_request(other, NOW, tool="cline")

    for by in By:
        made = report(by, NOW.date(), NOW.date(), UTC_ZONE, key.tenant_id, key_id=other.id)
        assert made.total.requests == 1


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (By.KEY, [("key_2", 2), ("key_1", 1)]),
        (By.MEMBER, [("ada", 2), (None, 1)]),
        (By.MODEL, [("smart", 2), ("fast", 1)]),
        (By.TOOL, [("cline", 2), (None, 1)]),
    ],
)
def test_reports_by_label_keep_what_has_none_and_show_the_largest_first(
    key, make_key, make_request, by, expected
):
    other = make_key(member="ada")
    make_request(key, NOW, output_tokens=3, model="fast", cost_micros=7)
    make_request(other, NOW, output_tokens=2, member="ada", tool="cline", cost_micros=5)
    make_request(other, NOW, output_tokens=2, member="ada", tool="cline")

    made = report(by, NOW.date(), NOW.date(), UTC_ZONE, key.tenant_id)

    assert [(row.label, row.totals.requests) for row in made.rows] == expected
    assert [row.totals.cost_micros for row in made.rows] == [5, 7]
    assert made.total.cost_micros == 12
    column = {"key": "key_id"}.get(by, by.value)
    assert [row[column] for row in made.as_json()["data"]] == [label for label, _ in expected]


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/St_Johns", date(2026, 3, 8), 23),
        ("Africa/Cairo", date(2026, 4, 24), 23),
        ("America/Havana", date(2026, 11, 1), 25),
        ("Asia/Kathmandu", date(2026, 12, 31), 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_say(key, make_request, zone, day, hours):
    tz = ZoneInfo(zone)
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=tz).astimezone(UTC)
    for hour in range(-30, 30):
        make_request(key, noon + timedelta(hours=hour, minutes=-1))

    made = report(By.DAY, day, day, tz, key.tenant_id)

    assert made.total.requests == hours


moments = st.datetimes(
    datetime(2026, 1, 1),  # noqa: DTZ001 - Hypothesis adds the zone
    datetime(2027, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)
near_changes = st.builds(
    lambda start, shift: start + timedelta(minutes=shift),
    st.sampled_from(
        [
            at("2026-03-08T05:00Z"),
            at("2026-03-29T01:00Z"),
            at("2026-04-23T22:00Z"),
            at("2026-10-25T01:00Z"),
            at("2026-11-01T05:00Z"),
            at("2026-12-31T12:00Z"),
        ]
    ),
    st.integers(-1500, 1500),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    starts=st.lists(st.one_of(near_changes, moments), max_size=12),
    zone=st.sampled_from(ZONES),
    since=st.dates(date(2026, 1, 1), date(2027, 12, 31)),
    days=st.integers(1, 366),
)
def test_days_agree_with_a_naive_recount_in_any_zone(key, make_request, starts, zone, since, days):
    tz, until = ZoneInfo(zone), since + timedelta(days=days - 1)
    Request.delete().execute()
    for start in starts:
        make_request(
            key, start, request_id=f"req_{Request.select().count()}", input_tokens=3, cost_micros=2
        )
    local = Counter(start.astimezone(tz).date() for start in starts)

    made = report(By.DAY, since, until, tz, key.tenant_id)

    wanted = [since + timedelta(days=number) for number in range(days)]
    assert [row.label for row in made.rows] == [day.isoformat() for day in wanted]
    assert [row.totals.requests for row in made.rows] == [local[day] for day in wanted]
    assert made.total.input_tokens == 3 * sum(local[day] for day in wanted)
    assert [row.totals.cost_micros for row in made.rows] == [2 * local[day] for day in wanted]
    assert report(By.MODEL, since, until, tz, key.tenant_id).total == made.total


@pytest.mark.parametrize("by", list(By))
def test_the_database_answers_from_the_index_over_tenant_and_start(store, key, make_request, by):
    make_request(key, NOW)
    seen = []
    inner = store.connection()
    inner.set_trace_callback(seen.append)
    report(by, date(2026, 1, 1), date(2026, 12, 31), UTC_ZONE, key.tenant_id)
    inner.set_trace_callback(None)

    queries = [sql for sql in seen if "COUNT(request.id)" in sql]
    plan = " / ".join(row[3] for row in store.execute_sql(f"EXPLAIN QUERY PLAN {queries[0]}"))

    assert len(queries) == 1
    assert "SEARCH request USING INDEX request_tenant_id_started_at" in plan
    assert "SCAN request" not in plan


def test_csv_has_the_columns_of_the_json_in_their_order(key, make_request):
    make_request(key, NOW, member='Ada, "the first"', output_tokens=2)
    make_request(key, NOW)

    made = report(By.MEMBER, NOW.date(), NOW.date(), UTC_ZONE, key.tenant_id)

    rows = list(csv.reader(io.StringIO(made.as_csv())))
    assert rows[0] == list(made.as_json()["data"][0])
    assert rows[1] == ['Ada, "the first"', "1", "0", "0", "0", "2", "2", "0"]
    assert rows[2][0] == ""


def test_a_range_defaults_to_the_last_thirty_days_where_the_clock_is():
    here = parse_range(None, None, "Asia/Kathmandu", NOW)

    assert (here.since, here.until) == (date(2026, 10, 25), date(2026, 11, 23))
    assert parse_range(None, None, None, NOW).until == date(2026, 11, 22)


def test_a_range_may_cover_a_leap_year_and_not_a_day_more():
    assert parse_range("2028-01-01", "2028-12-31", None, NOW).until == date(2028, 12, 31)

    with pytest.raises(InvalidRequest, match="at most 366 days") as caught:
        parse_range("2028-01-01", "2029-01-01", None, NOW)
    assert caught.value.param == "from"


@pytest.mark.parametrize(
    ("from_", "to", "tz", "param"),
    [
        ("yesterday", None, None, "from"),
        ("20261101", None, None, "from"),
        ("2026-W47-1", None, None, "from"),
        ("2026-02-30", None, None, "from"),
        ("2026-11-01", "2026-11-1", None, "to"),
        ("2026-11-02", "2026-11-01", None, "from"),
        ("1969-12-31", "1970-01-01", None, "from"),
        ("9999-12-30", "9999-12-31", None, "to"),
        (None, "0001-01-05", None, "to"),
        (None, None, "Mars/Olympus", "tz"),
        (None, None, "America", "tz"),
        (None, None, "../etc/passwd", "tz"),
        (None, None, "\0", "tz"),
        (None, None, "é" * 500, "tz"),
    ],
)
def test_a_range_that_cannot_be_is_refused_by_the_fields_name(from_, to, tz, param):
    with pytest.raises(InvalidRequest, match="`") as caught:
        parse_range(from_, to, tz, NOW)

    assert caught.value.param == param
    assert len(str(caught.value)) < 200


def test_report_itself_refuses_what_parse_range_would(key):
    with pytest.raises(InvalidRequest, match="at most 366 days"):
        report(By.DAY, date(2020, 1, 1), date(2026, 1, 1), UTC_ZONE, key.tenant_id)
