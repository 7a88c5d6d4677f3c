"""The ledger: what moves a balance is written once, in order, and never changed."""

from datetime import timedelta
from hashlib import sha256

import pytest
from support import money
from support.money import DAY, NOW, TICK, VIOLATION, balance, entries, run

from server import clock
from server.billing import ledger
from server.billing.ledger import GENESIS, HASHED, Kind
from server.billing.rates import Tokens
from server.errors import InsufficientBalance, NotFound
from server.store.models import Entry, Price, Tenant

MICRO = 1_000_000


@pytest.fixture
def tenant(house):
    return house.tenant_id


def post(tenant, amount, kind=Kind.GRANT, *, ref="grt_1", at=NOW, created_by="cli", **more):
    return run(ledger.post, tenant, kind, amount, ref=ref, at=at, created_by=created_by, **more)


def hold(tenant, micros):
    Tenant.update(held_micros=Tenant.held_micros + micros).where(Tenant.id == tenant).execute()


def charge(house, request_id, cost, *, held=0, tokens=None, at=NOW, extras=None):
    run(
        ledger.charge,
        house.tenant_id,
        request_id,
        cost_micros=cost,
        held_micros=held,
        price_number=house.price_number,
        tokens=tokens or Tokens(),
        extras=extras,
        at=at,
    )


def test_a_post_moves_the_balance_and_says_why(tenant):
    entry = post(tenant, 10 * MICRO, reason="a start")

    assert entry == ledger.Entry(tenant, 1, Kind.GRANT, "grt_1", 10_000_000, 10_000_000, NOW)
    assert balance(tenant) == (10_000_000, 0)
    row = Entry.select().dicts().get()
    assert (row["at"], row["reason"], row["created_by"]) == (NOW, "a start", "cli")
    assert (row["price"], row["input_tokens"], row["output_tokens"], row["extras"]) == (None,) * 4


def test_what_was_posted_before_is_not_posted_again(tenant):
    """Whatever the second says: what caused it is the same, so it is the same."""
    other = money.house("other").tenant_id
    post(tenant, 500, Kind.TOPUP, ref="pi_1")

    assert post(tenant, 500, Kind.TOPUP, ref="pi_1", at=NOW + DAY) is None
    assert post(tenant, 900, Kind.TOPUP, ref="pi_1") is None
    assert post(other, 500, Kind.TOPUP, ref="pi_1") is None

    assert entries(tenant) == [("topup", "pi_1", 500, 500)]
    assert (balance(tenant), balance(other)) == ((500, 0), (0, 0))


def test_a_replay_is_known_before_it_is_found_too_much(tenant):
    """A replayed correction is harmless even after the money it took is spent."""
    post(tenant, 500)
    post(tenant, -400, Kind.ADJUSTMENT, ref="adj_1", may_overdraw=False)

    assert post(tenant, -400, Kind.ADJUSTMENT, ref="adj_1", may_overdraw=False) is None
    assert balance(tenant) == (100, 0)


def test_the_same_cause_has_an_entry_of_each_kind(tenant):
    post(tenant, 500, Kind.TOPUP, ref="pi_1")
    post(tenant, -200, Kind.REFUND, ref="pi_1")

    assert entries(tenant) == [("topup", "pi_1", 500, 500), ("refund", "pi_1", -200, 300)]


@pytest.mark.parametrize("taken", [301, 10**12])
def test_no_more_is_taken_than_is_available(tenant, taken):
    post(tenant, 500)
    hold(tenant, 200)

    with pytest.raises(InsufficientBalance, match=r"^That takes \$.*, and \$0\.0003 is available"):
        post(tenant, -taken, Kind.ADJUSTMENT, ref="adj_1", may_overdraw=False)

    assert entries(tenant) == [("grant", "grt_1", 500, 500)]
    assert balance(tenant) == (500, 200)


def test_all_that_is_available_can_be_taken(tenant):
    post(tenant, 500)
    hold(tenant, 200)

    post(tenant, -300, Kind.ADJUSTMENT, ref="adj_1", may_overdraw=False)

    assert balance(tenant) == (200, 200)


@pytest.mark.parametrize("kind", [Kind.REFUND, Kind.DISPUTE, Kind.ADJUSTMENT])
def test_what_was_paid_back_elsewhere_may_overdraw(tenant, kind):
    post(tenant, 500)

    entry = post(tenant, -800, kind, ref="re_1")

    assert (entry.amount_micros, entry.balance_after_micros) == (-800, -300)
    assert ledger.balance_of(tenant).available_micros == -300


def test_giving_is_never_refused(tenant):
    post(tenant, -800, Kind.REFUND, ref="re_1")

    post(tenant, 100, Kind.ADJUSTMENT, ref="adj_1", may_overdraw=False)
    post(tenant, 0, Kind.ADJUSTMENT, ref="adj_2", may_overdraw=False)

    assert balance(tenant) == (-700, 0)


def test_nobodys_balance_is_not_found(tenant):
    with pytest.raises(NotFound, match="no such tenant"):
        ledger.balance_of(tenant + 1)
    with pytest.raises(NotFound, match="no such tenant"):
        post(tenant + 1, 500)

    assert Entry.select().count() == 0


def test_a_balance_is_shown_as_the_api_does(tenant):
    post(tenant, 4_812_345)
    hold(tenant, 120_000)

    assert ledger.balance_of(tenant).as_json() == {
        "object": "credits",
        "currency": "usd",
        "balance_micros": 4812345,
        "held_micros": 120000,
        "available_micros": 4692345,
    }


def test_each_tenant_has_a_chain_of_its_own(tenant):
    other = money.house("other").tenant_id
    for number, owner in enumerate([tenant, other, other, tenant]):
        post(owner, 100, ref=f"grt_{number}")

    rows = list(Entry.select().order_by(Entry.tenant, Entry.seq).dicts())

    assert [(row["tenant"], row["seq"]) for row in rows] == [
        (tenant, 1),
        (tenant, 2),
        (other, 1),
        (other, 2),
    ]
    assert len({row["hash"] for row in rows}) == 4


def test_time_never_goes_back_within_a_chain(tenant):
    """Statements search by time, so the order of the entries must be the order of their times."""
    moments = [NOW, NOW - timedelta(days=400), NOW - TICK, NOW + TICK]

    posted = [post(tenant, 1, ref=f"grt_{n}", at=at) for n, at in enumerate(moments)]

    assert [entry.at for entry in posted] == [NOW, NOW, NOW, NOW + TICK]
    stored = [row.at for row in Entry.select().order_by(Entry.seq)]
    assert stored == [NOW, NOW, NOW, NOW + TICK]


def test_a_tenants_time_is_its_own(tenant):
    other = money.house("other").tenant_id
    post(tenant, 1, at=NOW + DAY)

    assert post(other, 1, ref="grt_2", at=NOW).at == NOW


def test_a_charge_carries_what_it_was_computed_from(house, tenant):
    post(tenant, 1000)
    hold(tenant, 300)

    charge(house, "req_1", 250, held=300, tokens=Tokens(1, 2, 3, 4, 5), extras='{"speed":"fast"}')

    assert entries(tenant)[1:] == [("charge", "req_1", -250, 750)]
    assert balance(tenant) == (750, 0)
    row = Entry.select().where(Entry.kind == "charge").dicts().get()
    assert row["price"] == house.price_number
    columns = (
        *("input_tokens", "cache_read_input_tokens", "cache_write_5m_tokens"),
        *("cache_write_1h_tokens", "output_tokens", "extras", "created_by", "reason"),
    )
    assert [row[name] for name in columns] == [1, 2, 3, 4, 5, '{"speed":"fast"}', None, None]


def test_a_charge_takes_the_truth_even_below_zero(house, tenant):
    post(tenant, 100)
    hold(tenant, 100)

    charge(house, "req_1", 130, held=100)

    assert balance(tenant) == (-30, 0)


def test_what_cost_nothing_leaves_no_entry(house, tenant):
    post(tenant, 1000)
    hold(tenant, 300)

    charge(house, "req_1", 0, held=300)

    assert entries(tenant) == [("grant", "grt_1", 1000, 1000)]
    assert balance(tenant) == (1000, 0)


def test_a_request_is_charged_once_whoever_asks(house, tenant):
    """The index holds even if all that comes before it were wrong."""
    post(tenant, 1000)
    charge(house, "req_1", 250)

    with pytest.raises(VIOLATION, match=r"UNIQUE constraint failed: entry.kind, entry.ref"):
        charge(house, "req_1", 250)

    assert balance(tenant) == (750, 0)


def test_nothing_is_released_that_is_not_held(house, tenant):
    hold(tenant, 300)

    with pytest.raises(VIOLATION, match=r"CHECK constraint failed: held_micros >= 0"):
        charge(house, "req_1", 250, held=301)

    assert balance(tenant) == (0, 300)
    assert entries(tenant) == []


REASONS = [
    None,
    "",
    "Ünïcödé 日本語 🎉 \u200f\u2028",
    "one | two, 'three' \"four\" \\ %s ? :now {} ||char(31)||",
    "two\nlines\tand a tab",
    "x" * 100_000,
    "NULL",
    "7",
]


def test_every_value_is_hashed_the_same_by_python_and_by_sqlite(house, store):
    """Who verifies reads the text from SQLite; who writes made it in Python."""
    tenant = house.tenant_id
    for number, reason in enumerate(REASONS):
        post(tenant, number - 3, ref=f"grt_{number}", created_by=reason or "", reason=reason)
    post(tenant, 2**62, Kind.TOPUP, ref="pi_größe")
    post(tenant, -(2**62), Kind.DISPUTE, ref="dp_1", at=clock.from_ms(2**41))
    charge(house, "req_1", 7, tokens=Tokens(0, 2**50, 0, 1, 2**31), extras='{"web_search":3}')
    charge(house, "req_2", 1, tokens=Tokens())

    rows = store.execute_sql(f"SELECT {HASHED}, hash FROM entry ORDER BY seq").fetchall()

    previous = GENESIS
    assert len(rows) == len(REASONS) + 4
    for text, stored in rows:
        assert stored == ledger.hash_of(previous, text) == sha256(previous + text.encode()).digest()
        previous = stored


def test_the_hashed_text_is_every_column_in_its_order(house, store):
    """Known for ever: another order or separator would break every chain there is."""
    post(house.tenant_id, 500, Kind.TOPUP, ref="pi_1", created_by="stripe")
    charge(house, "req_1", 250, tokens=Tokens(1, 2, 3, 4, 5), extras="{}")

    texts = [row[0].split("\x1f") for row in store.execute_sql(f"SELECT {HASHED} FROM entry")]

    at, none = "1795352400000", ""
    assert texts == [
        ["1", "1", "topup", "pi_1", "500", "500", at, *[none] * 7, "stripe", none],
        [
            *("1", "2", "charge", "req_1", "-250", "250", at),
            *("1", "1", "2", "3", "4", "5", "{}", none, none),
        ],
    ]


@pytest.mark.parametrize("table", [Entry, Price])
@pytest.mark.parametrize("change", ["UPDATE {} SET at = at", "DELETE FROM {}"])
def test_what_is_written_down_stays(house, store, table, change):
    post(house.tenant_id, 500)
    name = table._meta.table_name
    before = list(table.select().tuples())
    column = "at" if table is Entry else "created_at"

    with pytest.raises(VIOLATION, match=f"^{name} rows are never changed"):
        store.execute_sql(change.format(name).replace("at = at", f"{column} = {column}"))

    assert list(table.select().tuples()) == before
    assert before
