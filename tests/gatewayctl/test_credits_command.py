import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import books

from gatewayctl.session import Session
from server import clock
from server.billing import ledger
from server.billing.money import dollars
from server.billing.pricing import Tokens
from server.store.models import Tenant, database
from server.tenants import tenants


@pytest.fixture
def owner(ready):
    with Session().reading():
        return tenants.find("default").id


@pytest.fixture
def grants(owner):
    """Post grants of one, two, three … dollars at the moments given."""

    def post(*moments):
        with Session().changing():
            for number, moment in enumerate(moments, 1):
                books.grant(owner, number * 1_000_000, moment, ref=f"grt_{number}")

    return post


def at(text):
    return datetime.fromisoformat(text).astimezone(UTC)


def balance(cli):
    return cli("credits", "show", "--json").json["balance_micros"]


def test_credits_are_shown_in_the_shape_of_the_http_route(cli, grants):
    grants(clock.now())

    assert cli("credits", "show", "--json").json == {
        "object": "credits",
        "currency": "usd",
        "balance_micros": 1_000_000,
        "held_micros": 0,
        "available_micros": 1_000_000,
    }
    assert ["available_micros", "1000000"] in cli("credits", "show").rows


def test_people_see_dollars_and_how_many_requests_hold_some(terminal, owner, grants):
    grants(clock.now())
    with Session().changing():
        books.request(owner, "req_1", state="open", held_micros=250_000)
        Tenant.update(held_micros=250_000).execute()

    shown = terminal("credits", "show", "--no-color").out

    assert "$1.00" in shown
    assert "$0.25" in shown
    assert "by 1 running request" in shown
    assert "$0.75" in shown


@pytest.mark.parametrize(
    ("usd", "micros"),
    [
        ("10", 10_000_000),
        ("10.00", 10_000_000),
        ("$0.5", 500_000),
        ("+0.000001", 1),
        ("1000000", 10**12),
    ],
)
def test_a_grant_adds_exactly_what_it_says(cli, ready, usd, micros):
    done = cli("credits", "grant", usd, "--reason", "first credit")

    assert done.code == 0
    assert done.out.startswith("grt_")
    assert "Posted $" in done.err
    assert balance(cli) == micros


@pytest.mark.parametrize(
    "usd",
    ["1e3", "0", "0.00", "1000000.01", "1_000", "1,000", "1.0000001", ".5", "5.", "NaN", "", "٣"],
)
def test_what_is_no_plain_amount_is_not_granted(cli, ready, usd):
    done = cli("credits", "grant", usd, "--reason", "odd")

    assert done.code == 2
    assert "USD must be a plain decimal such as 10 or 0.50" in done.err
    assert balance(cli) == 0


def test_a_grant_never_takes(cli, ready):
    done = cli("credits", "grant", "--reason", "odd", "--", "-5")

    assert done.code == 2
    assert "`gatewayctl credits adjust` can take" in done.err


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1f", "x" * 101])
def test_a_reason_is_a_line_that_prints(cli, ready, reason):
    done = cli("credits", "grant", "5", "--reason", reason)

    assert done.code == 2
    assert "`--reason` must be a text of 1 to 100 printable characters" in done.err


def test_a_change_prints_its_entry_as_json(cli, ready):
    made = cli("credits", "grant", "5", "--reason", "why not", "--json").json

    assert made | {"ref": "", "at": "", "hash": "", "tenant": ""} == {
        "object": "entry",
        "tenant": "",
        "seq": 1,
        "kind": "grant",
        "ref": "",
        "amount_micros": 5_000_000,
        "balance_after_micros": 5_000_000,
        "at": "",
        "price": None,
        "input_tokens": None,
        "cache_read_input_tokens": None,
        "cache_write_5m_tokens": None,
        "cache_write_1h_tokens": None,
        "output_tokens": None,
        "extras": None,
        "created_by": "cli",
        "reason": "why not",
        "hash": "",
    }
    assert len(made["hash"]) == 64
    assert made["tenant"].startswith("tnt_")


def test_a_grant_with_a_ref_counts_once(cli, ready):
    words = ("credits", "grant", "5", "--reason", "monthly", "--ref", "november")

    first, second = cli(*words), cli(*words)

    assert (first.code, first.out, second.code, second.out) == (0, "november\n", 0, "november\n")
    assert "november was posted before; nothing changed" in second.err
    assert balance(cli) == 5_000_000


def test_a_ref_cannot_stand_for_two_amounts_or_two_tenants(cli, ready):
    cli("tenants", "create", "other")
    cli("credits", "grant", "5", "--reason", "monthly", "--ref", "november")

    for words in (("6",), ("5", "--tenant", "other")):
        done = cli("credits", "grant", *words, "--reason", "monthly", "--ref", "november")
        assert done.code == 6
        assert "The ref november stands for $5.00 already" in done.err
    assert balance(cli) == 5_000_000


def test_an_adjustment_takes_what_is_available_and_no_more(cli, grants):
    grants(clock.now())
    with Session().changing():
        Tenant.update(held_micros=300_000).execute()

    refused = cli("credits", "adjust", "--reason", "fix", "--json", "--", "-0.700001")
    done = cli("credits", "adjust", "--reason", "fix", "--", "-0.70")

    assert refused.code == 4
    assert refused.error["code"] == "insufficient_balance"
    assert done.code == 0
    assert done.out.startswith("adj_")
    assert balance(cli) == 300_000


def test_an_adjustment_can_add(cli, ready):
    assert cli("credits", "adjust", "2.5", "--reason", "we were wrong").code == 0
    assert balance(cli) == 2_500_000


def test_the_ledger_is_told_newest_first_one_a_line(cli, grants):
    grants(at("2026-11-01T10:00Z"), at("2026-11-02T10:00Z"))

    assert cli("credits", "ledger").rows == [
        ["2", "2026-11-02T10:00:00.000Z", "grant", "grt_2", "2000000", "3000000"],
        ["1", "2026-11-01T10:00:00.000Z", "grant", "grt_1", "1000000", "1000000"],
    ]
    assert [row[0] for row in cli("credits", "ledger", "--limit", "1").rows] == ["2"]
    assert cli("credits", "ledger", "--kind", "charge").rows == []


def test_the_ledgers_json_is_one_document_that_says_if_there_is_more(cli, grants):
    grants(*[clock.now()] * 51)

    first = cli("credits", "ledger", "--json").json
    whole = cli("credits", "ledger", "--limit", "0", "--json").json

    assert (first["object"], first["has_more"], len(first["data"])) == ("list", True, 50)
    assert (whole["has_more"], [row["seq"] for row in whole["data"]]) == (
        False,
        list(range(51, 0, -1)),
    )


def test_the_ledgers_days_are_told_in_the_zone_that_was_asked_for(cli, grants):
    grants(at("2026-11-20T20:00Z"), at("2026-11-21T20:00Z"), at("2026-11-22T20:00Z"))

    def listed(*words):
        return [row[0] for row in cli("credits", "ledger", *words).rows]

    assert listed("--since", "2026-11-21", "--until", "2026-11-21") == ["2"]
    assert listed("--since", "2026-11-21") == ["3", "2"]
    assert listed("--until", "2026-11-21") == ["2", "1"]
    assert listed("--since", "2d", "--until", "2026-11-21") == ["2", "1"]
    assert listed("--since", "2026-11-21", "--until", "2026-11-21", "--tz", "Asia/Tokyo") == ["1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ledger", "--since", "soon"), "--since must be a date"),
        (("ledger", "--since", "2026-11-02", "--until", "2026-11-01"), "--since must not be later"),
        (("ledger", "--tz", "Mars"), "--tz must be an IANA time zone"),
        (("ledger", "--limit", "-1"), "limit"),
        (("ledger", "--kind", "gift"), "kind"),
        (("statement", "--month", "2026-13"), "--month must be a month such as 2026-11"),
        (("statement", "--tz", "Mars"), "--tz must be an IANA time zone"),
    ],
)
def test_what_cannot_be_asked_for_is_told_in_words_of_options(cli, ready, words, message):
    done = cli("credits", *words)

    assert done.code == 2
    assert message in done.err


def test_the_ledgers_csv_has_every_column(cli, owner):
    with Session().changing():
        rich = books.price("rich", extras='{"factors":{},"uses":{"web_search":10000}}')
        books.grant(owner, 1_000_000, reason='He said "why", twice')
        books.spend(owner, "req_1", Tokens(output=5), rich, clock.now(), {"web_search": 2})

    header, charge, grant = csv.reader(io.StringIO(cli("credits", "ledger", "--csv").out))

    entry = cli("credits", "ledger", "--json").json["data"][0]
    assert set(header) == set(entry) - {"object"}
    assert dict(zip(header, charge, strict=True))["extras"] == '{"web_search": 2}'
    assert entry["extras"] == {"web_search": 2}
    assert dict(zip(header, grant, strict=True))["reason"] == 'He said "why", twice'


def test_people_see_the_ledger_in_dollars_and_their_own_time(terminal, grants):
    grants(at("2026-11-20T20:00:07Z"))

    shown = terminal("credits", "ledger", "--no-color", TZ="Asia/Tokyo").out

    assert "times in Asia/Tokyo" in shown
    assert "2026-11-21 05:00:07" in shown
    assert "$1.00" in shown


@pytest.fixture
def month(owner):
    with Session().changing():
        books.grant(owner, 4_000_000, at("2026-10-20T00:00Z"), ref="grt_1")
        number = books.price()
        return [
            books.spend(
                owner, f"req_{day}", Tokens(output=day), number, at(f"2026-11-{day}T09:00Z")
            )
            for day in (10, 20)
        ]


def test_a_statement_adds_up_in_json_csv_and_plain_lines(cli, month):
    words = ("credits", "statement", "--month", "2026-11")
    after = 4_000_000 - sum(month)

    made = cli(*words, "--json").json
    assert (made["opening_balance_micros"], made["closing_balance_micros"]) == (4_000_000, after)
    assert [row["amount_micros"] for row in made["lines"]] == [-sum(month)]

    header, *rows = csv.reader(io.StringIO(cli(*words, "--csv").out))
    assert [row[-1] for row in rows] == ["4000000", str(-sum(month)), str(after)]
    assert header == ["kind", "model", *list(made["lines"][0])[2:]]

    assert cli(*words).rows == rows


def test_people_see_a_statement_with_the_days_that_cost_something(terminal, month):
    shown = terminal("credits", "statement", "--month", "2026-11", "--no-color", TZ="UTC").out

    assert "Statement of default, November 2026, UTC" in shown
    assert "charged by day" in shown
    assert "2026-11-20" in shown
    assert "2026-11-21" not in shown
    assert "█" * 24 in shown
    assert "$4.00" in shown


def test_this_month_is_meant_where_none_is_named(cli, ready):
    today = datetime.now(UTC).strftime("%Y-%m")

    assert cli("credits", "statement", "--json").json["month"] == today


def test_books_that_agree_are_verified_tenant_by_tenant(cli, month):
    cli("tenants", "create", "other")

    done = cli("credits", "verify")

    assert done.code == 0
    assert done.out == (
        f"default: 3 entries, balance {dollars(4_000_000 - sum(month))}, held $0.00\n"
        "other: 0 entries, balance $0.00, held $0.00\n"
        f"{dollars(sum(month))} was charged beyond what was held\n"
        "ok\n"
    )


def test_books_that_disagree_end_with_3_and_the_first_line_that_does(cli, month):
    with Session().changing(), books.tampering():
        database.execute_sql("UPDATE entry SET amount_micros = -7 WHERE ref = 'req_20'")

    done, as_json = cli("credits", "verify"), cli("credits", "verify", "--json")

    told = (
        "tenant default, entry 3 (charge req_20): amount is -7, "
        f"its tokens and price 1 make {-month[1]}"
    )
    assert (done.code, done.out, done.err) == (3, "", f"error: {told}\n")
    assert as_json.code == 3
    assert as_json.json == {"object": "verification", "ok": False, "disagreement": told}
    assert as_json.error["code"] == "check_failed"


def test_a_later_run_goes_on_from_a_checkpoint_in_a_file(cli, month, owner):
    file = Path("checkpoint.json")
    file.write_text(cli("credits", "verify", "--json").out)
    cli("credits", "grant", "1", "--reason", "more")

    made = cli("credits", "verify", "--since", file, "--json").json

    assert (made["ok"], made["entries"], made["requests"]) == (True, 1, 0)
    assert made["checkpoint"] == cli("credits", "verify", "--json").json["checkpoint"]


def test_a_checkpoint_may_name_more_tenants_than_are_asked_for(cli, month):
    cli("tenants", "create", "other")
    file = Path("checkpoint.json")
    file.write_text(cli("credits", "verify", "--json").out)

    assert cli("credits", "verify", "--since", file, "--tenant", "other").code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checkpoint":{"tnt_x":{"seq":"1"}}}', "\xff"])
def test_a_file_that_is_no_checkpoint_is_a_usage_error(cli, ready, text):
    Path("odd.json").write_text(text, encoding="latin-1")

    done = cli("credits", "verify", "--since", "odd.json")

    assert done.code == 2
    assert "odd.json is not what `credits verify --json` printed" in done.err


def test_a_checkpoint_that_names_an_unknown_tenant_does_not_agree(cli, ready):
    at_start = {"seq": 0, "hash": ledger.GENESIS.hex(), "balance_micros": 0, "request": 0}
    Path("old.json").write_text(json.dumps({"checkpoint": {"tnt_gone": at_start}}))

    done = cli("credits", "verify", "--since", "old.json")

    assert done.code == 3
    assert "tenant tnt_gone: it is gone since the checkpoint" in done.err


@pytest.mark.parametrize("verb", [("show",), ("ledger",), ("statement",), ("verify",)])
def test_an_unknown_tenant_is_not_found(cli, ready, verb):
    assert cli("credits", *verb, "--tenant", "nobody").code == 5
