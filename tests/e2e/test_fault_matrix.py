"""The table of faults in docs/reliability.md, played: both protocols, both forms, every row."""

import json
import re
import runpy

import pytest
from support.fault_matrix import FORMS, KEY, SHORT_S, SILENT_S, name_of, play
from support.readme import ROOT
from support.validators import check_chat_stream, check_messages_stream
from support.wires import run

TABLE = runpy.run_path(str(ROOT / "docs/make_fault_matrix.py"))
ROWS = TABLE["ROWS"]
CASES = [(row, *form) for row in ROWS for form in FORMS]
IDS = [name_of(*case) for case in CASES]
GIVEN_MICROS = 1000 * 1_000_000
MOST_S = 5  # beyond what is waited for
MOST_OPEN_S = 2
MIB = 1024 * 1024
WORDS = re.compile(rb'"text_delta"|"content":"[^"]')
# By what the table says: a status and the error's kind in each envelope.
ANTHROPIC = {
    "FAILED": (502, "api_error"),
    "TIMED_OUT": (504, "timeout_error"),
    "OVERLOADED": (529, "overloaded_error"),
    "UNTOLD": (529, "overloaded_error"),
    "TOO_LARGE": (413, "request_too_large"),
    "LIMITED": (429, "rate_limit_error"),
}
OPENAI = {
    "FAILED": (502, "upstream_error"),
    "TIMED_OUT": (504, "upstream_timeout"),
    "OVERLOADED": (503, "overloaded"),
    "UNTOLD": (502, "upstream_error"),
    "TOO_LARGE": (413, "request_too_large"),
    "LIMITED": (429, "rate_limit_exceeded"),
}
REFUSALS = {
    "anthropic": {TABLE[name]: each for name, each in ANTHROPIC.items()},
    "openai": {TABLE[name]: each for name, each in OPENAI.items()},
}
EVENTS = {
    TABLE["BROKEN"]: "api_error",
    TABLE["BROKEN_LATE"]: "timeout_error",
    TABLE["LATE"]: "timeout_error",
}
CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}
SPOILT = ("no-usage", "absurd-usage")  # no sound stream to begin with
STALE = ("closed", "reset")  # a kept connection that does so is asked once more


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Ask for every row in every form, once, all through one gateway."""
    folder = tmp_path_factory.mktemp("matrix")
    told, left = run(lambda: play(folder, ROWS))
    return told, left, (folder / "gateway.log").read_text()


def test_nothing_is_left_open_and_every_micro_is_in_the_books(played):
    told, left, log = played
    charged = sum(each.row["cost_micros"] for each in told.values())

    assert len(told) == len(CASES)
    assert left == {
        "rows": len(CASES),
        "open": 0,
        "busy": 0,
        "held_micros": 0,
        "balance_micros": GIVEN_MICROS - charged,
    }
    assert charged > 0
    assert " ERROR " not in log
    assert KEY not in log


@pytest.mark.parametrize(("row", "protocol", "form", "targets"), CASES, ids=IDS)
def test_the_client_gets_what_the_table_says(played, row, protocol, form, targets):
    told, expected = _case(played, row, protocol, form, targets)
    gets = expected.gets if not _is_moved(expected, targets) else TABLE["ANSWER"]

    _check_secrets(told)
    if gets in REFUSALS[protocol]:
        _check_refusal(told, protocol, gets, row)
        return
    assert told.status == 200
    assert "retry-after" not in told.headers
    if form == "whole":
        assert told.body.count(b'"usage"') == (row.name != "no-usage")
        json.loads(told.body)
    elif row.name not in SPOILT:
        _check_stream(told, protocol, gets)


def _check_secrets(told):
    shown = told.body + b"".join(value for _, value in told.headers.raw)
    assert KEY.encode() not in shown
    assert b"127.0.0.1" not in shown
    assert b"<html>" not in shown


def _check_refusal(told, protocol, gets, row):
    error = json.loads(told.body)["error"]
    kind = error["type" if protocol == "anthropic" else "code"]
    assert (told.status, kind) == REFUSALS[protocol][gets]
    assert error["message"]
    assert told.headers.get("retry-after") == row.retry_after
    is_worth_repeating = told.status == 429 or told.status >= 500
    assert told.headers.get("x-should-retry") == (None if is_worth_repeating else "false")


def _check_stream(told, protocol, gets):
    said = CHECK[protocol](told.body)
    if gets in (TABLE["ANSWER"], TABLE["ENDED"]):
        assert said.error is None
        is_ended = said.stop_reason in ("max_tokens", "length")
        assert is_ended == (gets == TABLE["ENDED"])
        return
    kind = "server_error" if protocol == "openai" else EVENTS[gets]
    assert said.error["type"] == kind
    assert b"[DONE]" not in told.body


@pytest.mark.parametrize(("row", "protocol", "form", "targets"), CASES, ids=IDS)
def test_the_bill_is_what_the_table_says(played, row, protocol, form, targets):
    told, expected = _case(played, row, protocol, form, targets)
    bill = expected.bill if not _is_moved(expected, targets) else TABLE["REPORTED"]
    tokens = told.row["input_tokens"], told.row["output_tokens"]

    assert told.row["cost_micros"] == tokens[0] * 4 + tokens[1] * 20
    assert told.row["estimated"] == (bill not in (TABLE["NOTHING"], TABLE["REPORTED"]))
    if bill == TABLE["NOTHING"]:
        assert tokens == (0, 0)
    elif bill == TABLE["REPORTED"]:
        assert tokens == told.said
    else:
        assert 0 < tokens[0] < 100
        assert (tokens[1] == 0) == (bill == TABLE["INPUT"])
        assert tokens[1] >= len(WORDS.findall(told.body)) or bill == TABLE["ESTIMATED"]


@pytest.mark.parametrize(("row", "protocol", "form", "targets"), CASES, ids=IDS)
def test_the_row_and_the_providers_count_the_attempts_of_the_table(
    played, row, protocol, form, targets
):
    told, expected = _case(played, row, protocol, form, targets)
    is_moved = _is_moved(expected, targets)
    attempts = 2 if is_moved else expected.attempts
    at_first = 1 if is_moved else attempts

    assert told.attempts == attempts
    assert len(told.second) == is_moved
    if row.model is None:
        assert told.first == []
    else:
        assert at_first <= len(told.first) <= at_first * (2 if row.name in STALE else 1)
    assert told.row["state"] == "settled"
    assert told.row["upstream"].startswith("good-") == is_moved
    outcomes = {TABLE["ANSWER"]: "completed", TABLE["ENDED"]: "cut"}
    outcome = "completed" if is_moved else outcomes.get(expected.gets, "upstream_error")
    assert told.row["outcome"] == outcome


@pytest.mark.parametrize(("row", "protocol", "form", "targets"), CASES, ids=IDS)
def test_it_takes_the_time_of_the_table_and_leaves_nothing_behind(
    played, row, protocol, form, targets
):
    told, expected = _case(played, row, protocol, form, targets)
    waits_s = _waits_s(row, expected, targets)

    assert waits_s <= told.took_s < waits_s + MOST_S
    assert told.is_settled
    assert told.open_s < MOST_OPEN_S
    assert told.grown_bytes < row.most_mib * MIB


def _waits_s(row, expected, targets):
    """Tell how long a client has to wait; here a provider's 70 silent seconds are fewer."""
    if _is_moved(expected, targets):
        return SHORT_S if row.is_short else 0
    return SILENT_S if row.is_silent and not row.is_short else expected.waits_s


@pytest.mark.parametrize("protocol", ["anthropic", "openai"])
@pytest.mark.parametrize("name", ["slow-head", "silent", "late-head", "late"])
def test_silence_is_filled_with_pings(played, name, protocol):
    row = next(row for row in ROWS if row.name == name)
    told, _ = _case(played, row, protocol, "stream", "one")

    assert len(_pings(told, protocol)) >= 1


@pytest.mark.slow
def test_seventy_silent_seconds_are_survived_with_the_usual_pings(tmp_path):
    rows = [row for row in ROWS if row.name in ("slow-head", "silent")]
    told, left = run(lambda: play(tmp_path, rows, silent_s=70, ping_after_s=15.0))

    assert (left["open"], left["busy"], left["held_micros"]) == (0, 0, 0)
    for row in rows:
        for protocol, form, targets in FORMS:
            each = told[name_of(row, protocol, form, targets)]
            assert (each.status, each.row["outcome"], each.attempts) == (200, "completed", 1)
            assert 70 <= each.took_s < 75
            assert each.is_settled
            assert each.open_s < MOST_OPEN_S
            assert each.grown_bytes < row.most_mib * MIB
            if form == "stream":
                assert CHECK[protocol](each.body).error is None
                assert len(_pings(each, protocol)) >= 4


def _pings(told, protocol):
    """Find the pings; the demo's own one over Messages does not count."""
    if protocol == "openai":
        return re.findall(rb"^: ", told.body, re.MULTILINE)
    return re.findall(rb"^event: ping$", told.body, re.MULTILINE)[1:]


def _case(played, row, protocol, form, targets):
    return played[0][name_of(row, protocol, form, targets)], getattr(row, form)


def _is_moved(expected, targets):
    return targets == "two" and expected.moves
