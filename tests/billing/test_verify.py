import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support import books
from support.books import NOW

from server.billing import ledger, prices, pricing, verify
from server.billing.chain import FIRST, Disagreement, follow
from server.billing.ledger import COLUMNS
from server.billing.pricing import Tokens
from server.billing.verify import Checkpoint
from server.store.db import open_database
from server.store.migrate import migrate
from server.store.models import Request, Tenant, database

SPENT = ("req_plain", "req_short", "req_long", "req_rich")


@pytest.fixture
def store(tmp_path):
    migrate(tmp_path / "gateway.db")
    handle = open_database(tmp_path / "gateway.db")
    yield handle
    handle.close()


@pytest.fixture
def owner(store):
    return books.fill()


def run(since=None, *, tenants=None, advance=lambda count: None):
    return verify.verify(list(tenants or Tenant.select()), since or {}, advance)


def checkpoint_of(proof, owner):
    public_id = Tenant.get_by_id(owner).public_id
    return {public_id: Checkpoint(**proof.as_json()["checkpoint"][public_id])}


def found(damage, *, forge=False, since=None):
    """Do the damage, and give what `verify` says of it."""
    with books.tampering():
        database.execute_sql(damage)
        if forge:
            books.forge_hashes()
    with pytest.raises(Disagreement, match="tenant") as caught:
        run(since)
    return str(caught.value)


def test_books_that_agree_are_counted(owner):
    proof = run()

    assert proof.as_json() == {
        "object": "verification",
        "ok": True,
        "entries": 7,
        "requests": 9,
        "overshoot_micros": sum(
            max(0, row.cost_micros - row.held_micros) for row in Request.select()
        ),
        "checkpoint": {
            each.tenant.public_id: {
                "seq": each.checkpoint.seq,
                "hash": each.checkpoint.hash,
                "balance_micros": each.tenant.balance_micros,
                "request": each.checkpoint.request,
            }
            for each in proof.tenants
        },
    }
    assert proof.tenants[1].in_words() == "other: 1 entry, balance $5.00, held $0.00"


def test_nothing_at_all_agrees_with_itself(store):
    assert run().as_json()["entries"] == 0


@pytest.mark.parametrize("column", [*COLUMNS[2:], "hash"])
def test_no_column_of_an_entry_can_change_unseen(owner, column):
    told = found(f"UPDATE entry SET {column} = '7' WHERE ref = 'req_plain'")

    assert told.startswith("tenant default, entry 2 (")


def test_what_was_altered_is_told_by_the_most_telling_rule(owner):
    due = verify.database.execute_sql(
        "SELECT amount_micros FROM entry WHERE ref = 'req_plain'"
    ).fetchone()[0]

    told = found(f"UPDATE entry SET amount_micros = {due + 2} WHERE ref = 'req_plain'")

    assert told == (
        f"tenant default, entry 2 (charge req_plain): amount is {due + 2}, "
        f"its tokens and price 1 make {due}"
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("reason = 'gift' WHERE seq = 1", "entry 1 (grant grt_first): its hash is not"),
        ("hash = zeroblob(32) WHERE seq = 6", "entry 6 (adjustment adj_down): its hash is not"),
        ("seq = 9 WHERE seq = 6", "entry 6: it is missing; the next there is has number 9"),
    ],
)
def test_a_broken_chain_is_found_where_it_breaks(owner, damage, told):
    assert f"tenant default, {told}" in found(f"UPDATE entry SET {damage} AND tenant_id = 1")


def test_a_missing_entry_is_found(owner):
    told = found("DELETE FROM entry WHERE ref = 'req_short'", forge=True)

    assert told == "tenant default, entry 3: it is missing; the next there is has number 4"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("amount_micros = 60000000 WHERE seq = 1", "entry 1 (grant grt_first): balance_after is"),
        ("balance_after_micros = 9 WHERE seq = 6", "balance_after is 9, the balance before and"),
        ("at = at + 1 WHERE seq = 1", "entry 2 (charge req_plain): it is older than the entry"),
        ("output_tokens = 212 WHERE seq = 2", "entry 2 (charge req_plain): amount is -"),
        ("price_id = 2 WHERE seq = 2", "its tokens and price 2 make"),
        ("cache_write_1h_tokens = 302 WHERE seq = 3", "entry 3 (charge req_short): amount is"),
        ("amount_micros = amount_micros + 1 WHERE seq = 4", "entry 4 (charge req_long): amount"),
        ("""extras = '{"web_search":1}' WHERE seq = 5""", "entry 5 (charge req_rich): amount is"),
        ("extras = NULL WHERE seq = 5", "entry 5 (charge req_rich): amount is"),
        ("output_tokens = NULL WHERE seq = 2", "a charge without its price or its tokens"),
        ("price_id = NULL WHERE seq = 2", "a charge without its price or its tokens"),
        ("extras = '7' WHERE seq = 5", "its extras, or its price 3, cannot be read"),
        ("extras = '{' WHERE seq = 5", "its extras, or its price 3, cannot be read"),
        ("amount_micros = 'nil' WHERE seq = 6", "(adjustment adj_down): amount_micros is no num"),
        ("at = 'noon' WHERE seq = 2", "entry 2 (charge req_plain): at is no number"),
        ("output_tokens = 'x' WHERE seq = 2", "(charge req_plain): output_tokens is no number"),
        ("price_id = 77 WHERE seq = 2", "entry 2 (charge req_plain): there is no price 77"),
    ],
)
def test_right_hashes_do_not_hide_wrong_entries(owner, damage, told):
    """Whoever can write the file can also compute a hash."""
    assert told in found(f"UPDATE entry SET {damage} AND tenant_id = 1", forge=True)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE price SET output = 1 WHERE id = 1", "entry 2 (charge req_plain): amount is"),
        ("UPDATE price SET long_input = 1", "entry 4 (charge req_long): amount is"),
        ("DELETE FROM price WHERE id = 2", "entry 3 (charge req_short): there is no price 2"),
        ("UPDATE tenant SET balance_micros = 1 WHERE id = 1", "balance_micros is 1, its entries"),
        ("DELETE FROM entry WHERE seq = 6", "tenant default: balance_micros is"),
        ("DELETE FROM entry WHERE tenant_id = 2", "tenant other: balance_micros is 5000000"),
        ("UPDATE tenant SET held_micros = 499 WHERE id = 1", "held_micros is 499, its open"),
        ("UPDATE request SET held_micros = 501", "held_micros is 500, its open requests hold 501"),
        ("UPDATE subscription SET used_tokens = 29", "used_tokens of its subscription is 29"),
        ("UPDATE subscription SET used_requests = 7", "used_requests of its subscription is 7"),
        ("UPDATE subscription SET held_tokens = 8", "held_tokens of its subscription is 8"),
        ("UPDATE request SET quota_tokens = 31", "the requests of window 2 make 31"),
        ("DELETE FROM request WHERE request_id = 'req_holds'", "of window 2 make 0"),
        ("UPDATE request SET quota_window = 1", "the requests of window 2 make 0"),
        ("UPDATE subscription SET window_started_at = NULL", "the requests of window 2 make 0"),
        ("UPDATE subscription SET quota_window = 3", "the requests of window 3 make 0"),
        ("DELETE FROM tenant WHERE id = 2", "tenant number 2: it has entries and no row"),
    ],
)
def test_what_is_kept_beside_the_ledger_has_to_agree_with_it(owner, damage, told):
    assert told in found(damage)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("cost_micros = 5", "cost_micros is 5, entry 2 charges "),
        ("cost_micros = 0", "cost_micros is 0, entry 2 charges "),
        ("state = 'open'", "it is open, and entry 2 charges it"),
        ("request_id = 'req_other'", "and there is no charge"),
        ("tenant_id = 2", "tenant_id is 2, in its charge (entry 2) 1"),
        ("price_id = 2", "price_id is 2, in its charge (entry 2) 1"),
        ("price_id = NULL", "price_id is None, in its charge (entry 2) 1"),
        ("input_tokens = 7", "input_tokens is 7, in its charge (entry 2) 1000"),
        ("cache_read_input_tokens = 7", "cache_read_input_tokens is 7, in its charge"),
        ("cache_write_5m_tokens = 7", "cache_write_5m_tokens is 7, in its charge"),
        ("cache_write_1h_tokens = 7", "cache_write_1h_tokens is 7, in its charge"),
        ("output_tokens = 7", "output_tokens is 7, in its charge (entry 2) 211"),
        ("extras = '{}'", "extras is {}, in its charge (entry 2) None"),
    ],
)
def test_a_request_has_to_agree_with_its_charge(owner, damage, told):
    said = found(f"UPDATE request SET {damage} WHERE request_id = 'req_plain'")

    assert re.match(r"tenant (default|other), request req_(plain|other): ", said)
    assert told in said


def test_a_request_cannot_name_a_price_that_is_not_there(owner):
    told = found("UPDATE request SET price_id = 99 WHERE request_id = 'req_used'")

    assert told == "tenant default, request req_used: there is no price 99"


def test_charges_outlive_the_rows_of_their_requests(owner):
    Request.delete().where(Request.request_id.in_(SPENT)).execute()

    assert run().as_json()["entries"] == 7


def test_a_charge_beyond_64_bits_of_arithmetic_is_exact(owner):
    dear = books.price("dear", output=10**13)
    books.spend(owner, "req_dear", Tokens(output=3_000_001), dear)

    assert run().as_json()["entries"] == 8
    told = found("UPDATE entry SET amount_micros = amount_micros + 1 WHERE seq = 7", forge=True)
    assert "entry 7 (charge req_dear): amount is -30000009999999, its tokens and price 4 ma" in told


counts = st.one_of(st.integers(0, 10**6), st.sampled_from([2**40, 2**53, 10**13]))
rates = st.fixed_dictionaries(
    dict.fromkeys(books.RATES, st.one_of(st.integers(0, 10**8), st.sampled_from([0, 1, 10**9])))
)


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    tokens=st.builds(Tokens, counts, counts, counts, counts, counts),
    rates=rates,
    long_rates=rates,
    above=st.sampled_from([0, 1000, 10**6, 2**60]),
    off_by=st.sampled_from([-1, 0, 1]),
)
def test_a_charge_passes_only_if_it_is_the_cost_to_the_micro(
    store, tokens, rates, long_rates, above, off_by
):
    """SQLite's arithmetic and Python's have to agree, also where the one runs out of bits."""
    owner = books.tenant(f"t{Tenant.select().count()}")
    long = {f"long_{name}": rate for name, rate in long_rates.items()}
    number = books.price(**rates, long_above_tokens=above, **long)
    cost = pricing.cost_micros(prices.by_number(number), tokens) + off_by
    assume(0 < cost < 2**62)  # what a balance can hold
    ledger.charge(
        owner.id,
        f"req_{number}",
        cost_micros=cost,
        held_micros=0,
        price_number=number,
        tokens=tokens,
        extras=None,
        at=NOW,
    )

    if off_by:
        with pytest.raises(Disagreement, match=f"amount is -{cost}, its tokens and price"):
            follow(owner, FIRST, lambda count: None)
    else:
        assert follow(owner, FIRST, lambda count: None).balance_micros == -cost


def test_a_checkpoint_is_gone_on_from(owner):
    first = run()
    books.grant(owner, 1_000_000)
    books.spend(owner, "req_new", Tokens(input=9), 1)

    proof = run(checkpoint_of(first, owner))

    assert proof.tenants[0].entries == 2
    assert proof.tenants[0].checkpoint == run().tenants[0].checkpoint


def test_a_request_that_was_open_at_the_checkpoint_is_looked_at_again(owner):
    first = run()
    Request.update(cost_micros=3).where(Request.request_id == "req_open").execute()

    with pytest.raises(Disagreement, match="req_open: cost_micros is 3, and there is no charge"):
        run({**checkpoint_of(first, owner), **checkpoint_of(first, 2)})


def test_damage_behind_a_checkpoint_is_found(owner):
    since = checkpoint_of(run(), owner)
    books.grant(owner, 1_000_000, reason="more")

    assert "entry 7 (grant grt_" in found(
        "UPDATE entry SET reason = 'x' WHERE seq = 7", since=since
    )


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE entry SET hash = zeroblob(32) WHERE seq = 6", "its hash or balance is not the"),
        ("UPDATE entry SET balance_after_micros = 1 WHERE seq = 6", "its hash or balance is not"),
        ("DELETE FROM entry WHERE seq = 6", "entry 6: it is gone since the checkpoint"),
        ("UPDATE tenant SET public_id = 'tnt_x'", ": it is gone since the checkpoint"),
    ],
)
def test_a_checkpoint_has_to_be_there_still(owner, damage, told):
    since = checkpoint_of(run(), owner)

    assert told in found(damage + (" WHERE id = 1" if "tenant SET" in damage else ""), since=since)


def test_rows_rewritten_with_right_hashes_do_not_pass_a_checkpoint(owner):
    """The whole ledger can be forged, but not to the hash that somebody has kept."""
    since = checkpoint_of(run(), owner)

    told = found("UPDATE entry SET reason = 'gift' WHERE seq = 1", forge=True, since=since)

    assert told == "tenant default, entry 6: its hash or balance is not the checkpoint's"


def test_one_tenant_can_be_verified_alone(owner):
    with books.tampering():
        database.execute_sql("UPDATE tenant SET balance_micros = 1 WHERE name = 'other'")

    assert run(tenants=[Tenant.get_by_id(owner)]).requests == 9
    with pytest.raises(Disagreement, match="tenant other"):
        run(tenants=[Tenant.get(Tenant.name == "other")])


def test_progress_adds_up_to_the_rows_that_were_announced(owner):
    told = []
    expected = verify.row_count(Tenant.select(), {})

    run(advance=told.append)

    assert expected == 7 + 9
    assert sum(told) >= 9  # requests are told by the range that was looked through


@pytest.mark.parametrize("sql", [verify._SETTLED_UP_TO, verify._HELD])
def test_open_requests_are_found_without_the_settled_ones(owner, sql):
    plan = database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", (owner,)).fetchall()

    assert [row[3].partition(" request ")[2] for row in plan] == ["USING INDEX request_open"]


def test_a_window_is_summed_without_the_requests_of_other_days(owner):
    sql = f"EXPLAIN QUERY PLAN {verify._WINDOW}"

    plan = database.execute_sql(sql, (owner, 0, 2)).fetchall()

    assert [row[3].partition(" (")[0] for row in plan] == [
        "SEARCH request USING INDEX request_tenant_id_started_at"
    ]


def test_times_of_one_moment_are_in_order(owner):
    for _ in range(3):
        books.grant(owner, 1, at=NOW)

    assert run().tenants[0].entries == 9
