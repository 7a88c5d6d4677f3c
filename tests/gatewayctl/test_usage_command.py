import csv
import io
from datetime import UTC, datetime, timedelta

import pytest

from gatewayctl.session import Session
from server import clock
from server.store import instances
from server.store.models import Key, Request


@pytest.fixture
def spend(ready):
    """Store one settled request of the first key."""

    def store(started_at, **columns):
        with Session().changing():
            key = Key.get()
            Request.create(
                request_id=f"req_{Request.select().count()}",
                state="settled",
                instance=instances.begin(1, "here", "0", started_at),
                tenant=key.tenant_id,
                key=key,
                protocol="anthropic",
                stream=True,
                requested_model="auto",
                upstream="demo",
                upstream_model="demo-smart",
                started_at=started_at,
                **{"model": "smart"} | columns,
            )

    return store


def ago(days):
    return clock.now() - timedelta(days=days)


def today():
    return datetime.now(UTC).date()


def test_the_last_thirty_days_are_told_one_a_line(cli, ready):
    rows = cli("usage").rows

    assert len(rows) == 30
    assert rows[-1] == [today().isoformat(), *["0"] * 7]


def test_since_counts_days_up_to_the_last_one(cli, ready):
    last = ("--until", "2026-11-22")

    assert [row[0] for row in cli("usage", "--since", "2d", *last).rows] == [
        "2026-11-21",
        "2026-11-22",
    ]
    assert len(cli("usage", "--since", "2w", *last).rows) == 14
    assert cli("usage", "--since", "2026-11-20", *last).rows[0][0] == "2026-11-20"


def test_the_json_is_the_shape_of_the_http_route(cli, spend):
    spend(
        ago(0),
        input_tokens=3400,
        cache_read_input_tokens=51000,
        output_tokens=900,
        cost_micros=39_000,
    )

    made = cli("usage", "--since", "1d", "--json").json

    assert made["object"] == "usage"
    assert made["tz"] == "UTC"
    assert made["from"] == made["to"] == made["data"][0]["date"]
    assert made["total"] == {
        "requests": 1,
        "input_tokens": 3400,
        "cache_read_input_tokens": 51000,
        "cache_creation_input_tokens": 0,
        "output_tokens": 900,
        "total_tokens": 55300,
        "cost_micros": 39_000,
    }


@pytest.mark.parametrize(
    ("by", "column", "expected"),
    [
        ("member", "member", ["ada", None]),
        ("model", "model", ["fast", "smart"]),
        ("tool", "tool", ["cline", None]),
    ],
)
def test_a_report_by_label_names_its_column(cli, spend, by, column, expected):
    spend(ago(0), input_tokens=9, member="ada", model="fast", tool="cline")
    spend(ago(0), input_tokens=1)

    made = cli("usage", "--by", by, "--json").json

    assert [row[column] for row in made["data"]] == expected
    assert [row[0] for row in cli("usage", "--by", by).rows] == [each or "" for each in expected]


def test_csv_has_a_header_and_the_columns_of_the_json(cli, spend):
    spend(ago(0), output_tokens=7)

    rows = list(csv.reader(io.StringIO(cli("usage", "--csv", "--by", "key").out)))

    made = cli("usage", "--by", "key", "--json").json
    assert rows[0] == list(made["data"][0])
    assert rows[1][0] == made["data"][0]["key_id"]


def test_a_day_is_told_in_the_zone_that_was_asked_for(cli, spend):
    spend(datetime(2026, 11, 21, 20, 0, tzinfo=UTC))
    days = ("--since", "2026-11-21", "--until", "2026-11-22")

    assert [row[1] for row in cli("usage", *days).rows] == ["1", "0"]
    assert [row[1] for row in cli("usage", *days, "--tz", "Asia/Kathmandu").rows] == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--since", "yesterday"), "--since must be a date"),
        (("--since", "0d"), "--since must be a date"),
        (("--since", "400d"), "at most 366 days"),
        (("--since", "9999w"), "--since must be a date"),
        (("--since", "1d", "--until", "0001-01-01"), "--until must be a date"),
        (("--since", "2026-11-02", "--until", "2026-11-01"), "--since must not be later"),
        (("--tz", "Mars"), "--tz must be an IANA time zone"),
    ],
)
def test_a_range_that_cannot_be_is_a_usage_error_in_words_of_options(cli, ready, words, message):
    done = cli("usage", "--json", *words)

    assert done.code == 2
    assert message in done.error["message"]


def test_people_see_bars_and_totals_by_everything(terminal, spend):
    spend(ago(0), input_tokens=1_234_567, member="ada", tool="cline", cost_micros=1_500_000)
    spend(ago(1), input_tokens=10, cost_micros=30)

    shown = terminal("usage", "--since", "3d", TZ="Asia/Kathmandu").out

    assert "Asia/Kathmandu" in shown
    assert "1,234,567" in shown
    assert "$1.50003" in shown
    assert "█" * 24 in shown
    assert "\x1b[1m" in shown
    for heading in ("day", "key", "member", "model", "tool", "total"):
        assert heading in shown


@pytest.mark.parametrize(
    ("words", "environ"),
    [(("--no-color",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"})],
)
def test_colour_can_be_switched_off(terminal, spend, words, environ):
    spend(ago(0), input_tokens=10)

    shown = terminal("usage", "--since", "3d", *words, **environ).out

    assert "█" in shown
    assert "\x1b[" not in shown


def test_a_member_cannot_steer_the_terminal(terminal, cli, spend):
    spend(ago(0), member="[bold]ada\x1b[31m")

    shown = terminal("usage", "--by", "member", "--no-color").out

    assert "[bold]ada [31m" in shown
    assert "\x1b" not in shown
