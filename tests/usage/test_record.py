from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import asdict, replace

from server.store.models import Request
from server.usage.record import (
    Closing,
    Opening,
    Outcome,
    close_request,
    open_request,
)

NOW = datetime(2026, 11, 22, 13, 7, tzinfo=UTC)
DONE = Closing(
    outcome=Outcome.COMPLETED,
    duration_ms=1500,
    status=200,
    first_byte_ms=120,
    stop_reason="end_turn",
    upstream_request_id="req_theirs",
    input_tokens=10,
    cache_read_input_tokens=200,
    cache_write_5m_tokens=30,
    cache_write_1h_tokens=4,
    output_tokens=50,
)


@pytest.fixture
def opening(instance, make_key):
    key = make_key()
    return Opening(
        request_id="req_1",
        instance_id=instance.id,
        tenant_id=key.tenant_id,
        key_id=key.id,
        member="ada",
        tool="claudecode",
        session="session-1",
        agent="agent-1",
        protocol="anthropic",
        stream=True,
        requested_model="auto",
        model="smart",
        upstream="demo",
        upstream_model="demo-1",
        started_at=NOW,
        input_estimate=321,
    )


def stored(row_id):
    return Request.select().where(Request.id == row_id).dicts().get()


def test_an_opened_request_holds_all_that_is_known_and_the_input_estimate(opening):
    row = stored(open_request(opening))

    known = asdict(opening)
    estimate = known.pop("input_estimate")
    for name in ("limits_key_id", "limits_text"):  # what the key is held to
        del known[name]
    known |= {name: known.pop(f"{name}_id") for name in ("instance", "tenant", "key", "price")}
    assert {name: row[name] for name in known} == known
    assert (row["state"], row["input_tokens"], row["estimated"]) == ("open", estimate, True)
    assert row["outcome"] is row["duration_ms"] is row["status"] is None


@pytest.mark.parametrize(
    "end", [{"revoked_at": NOW - timedelta(days=1)}, {"expires_at": NOW}], ids=["revoked", "late"]
)
def test_no_request_opens_with_a_key_that_ended_meanwhile(opening, make_key, end):
    dead = make_key(**end)

    assert open_request(replace(opening, key_id=dead.id)) is None
    assert Request.select().count() == 0


def test_a_key_serves_until_the_millisecond_it_expires(opening, make_key):
    brief = make_key(expires_at=NOW + timedelta(milliseconds=1))

    assert open_request(replace(opening, key_id=brief.id)) is not None


def test_an_unknown_key_opens_nothing(opening):
    assert open_request(replace(opening, key_id=999)) is None


def test_closing_writes_every_figure_of_the_answer(opening):
    row_id = open_request(opening)

    assert close_request(opening.request_id, DONE)

    row = stored(row_id)
    assert {name: row[name] for name in asdict(DONE)} == asdict(DONE)
    assert row["state"] == "settled"


def test_a_request_closes_once_however_often_it_is_asked(opening):
    row_id = open_request(opening)
    close_request(opening.request_id, DONE)
    first = stored(row_id)

    assert not close_request(
        opening.request_id, replace(DONE, outcome=Outcome.CANCELLED, output_tokens=9)
    )
    assert stored(row_id) == first


def test_closing_a_row_that_never_was_is_false(store):
    assert not close_request("req_unknown", DONE)
