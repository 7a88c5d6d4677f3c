"""What a failure means: for whom it counts, and whether another try is worth it."""

import pytest

from server.errors import (
    GatewayError,
    InsufficientBalance,
    Internal,
    InvalidRequest,
    Unavailable,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefused,
    UpstreamTimeout,
)
from server.protocols import Protocol
from server.protocols.envelopes import from_event, from_upstream
from server.protocols.meter import ReportedError
from server.routing.breaker import Breaker
from server.routing.places import Leave, Place
from server.routing.verdict import Blame, Verdict, judge
from server.upstream.connection import StaleConnectionError

FINAL = Verdict(Blame.NOBODY, may_repeat=False, may_move=False)
ELSEWHERE = Verdict(Blame.NOBODY, may_repeat=False, may_move=True)
FORBIDDEN = Verdict(Blame.NOBODY, may_repeat=False, may_move=True, may_rekey=True)
OF_THE_KEY = Verdict(Blame.KEY, may_repeat=False, may_move=True)
LIMITED = Verdict(Blame.RATE, may_repeat=True, may_move=True)
FAILED = Verdict(Blame.TARGET, may_repeat=True, may_move=True)

WORDS = b'{"error": {"type": "some_error", "message": "its own words"}}'
UNPAID = b'{"error": {"message": "Your credit balance is too low to use the API."}}'
THREAD = b'{"error": {"message": "m", "details": {"error_code": "thread_gone"}}}'
PAGE = b"<html><body>nothing that can be read</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (400, WORDS, FINAL),
        (400, UNPAID, OF_THE_KEY),
        (400, PAGE, ELSEWHERE),
        (401, WORDS, OF_THE_KEY),
        (402, WORDS, OF_THE_KEY),
        (403, WORDS, FORBIDDEN),
        (404, WORDS, ELSEWHERE),
        (404, THREAD, FINAL),
        (408, WORDS, FAILED),
        (409, WORDS, ELSEWHERE),
        (409, THREAD, FINAL),
        (413, WORDS, FINAL),
        (413, PAGE, ELSEWHERE),
        (422, WORDS, ELSEWHERE),
        (429, WORDS, LIMITED),
        (429, PAGE, LIMITED),
        (500, WORDS, FAILED),
        (502, PAGE, FAILED),
        (503, WORDS, FAILED),
        (504, WORDS, FAILED),
        (520, PAGE, FAILED),
        (529, WORDS, FAILED),
    ],
)
@pytest.mark.parametrize("protocol", [Protocol.ANTHROPIC, Protocol.OPENAI])
def test_an_answers_status_says_who_is_to_blame(protocol, status, body, verdict):
    assert judge(from_upstream(status, {}, body, protocol), status) == verdict


@pytest.mark.parametrize(
    ("kind", "code", "verdict"),
    [
        ("overloaded_error", None, FAILED),
        ("timeout_error", None, FAILED),
        ("api_error", None, FAILED),
        ("", "500", FAILED),
        ("", "503", FAILED),
        ("rate_limit_error", None, LIMITED),
        ("", "429", LIMITED),
        ("", "401", OF_THE_KEY),
        ("", "402", OF_THE_KEY),
        ("invalid_request_error", None, FINAL),
        ("", "400", FINAL),
        ("", "404", ELSEWHERE),
        ("", "422", ELSEWHERE),
    ],
)
def test_an_error_inside_a_200_is_judged_by_the_status_that_it_speaks_of(kind, code, verdict):
    reported = ReportedError(kind, "its own words", code)

    assert judge(from_event(reported, Protocol.OPENAI), 200) == verdict


@pytest.mark.parametrize(
    ("error", "status", "verdict"),
    [
        (UpstreamError("no connection"), None, FAILED),
        (StaleConnectionError("closed"), None, FAILED),
        (UpstreamTimeout("no answer"), None, FAILED),
        (UpstreamOverloaded("too many wait"), None, FAILED),
        (UpstreamError("cut short"), 200, FAILED),
        (UpstreamTimeout("fell silent"), 200, FAILED),
        (UpstreamError("a 401 that was cut short"), 401, OF_THE_KEY),
        (UpstreamError("a 404 that was cut short"), 404, ELSEWHERE),
        (UpstreamRefused("too long", upstream_status=400), 200, FINAL),
    ],
)
def test_what_is_no_whole_answer_is_the_targets_fault_unless_its_head_said_more(
    error, status, verdict
):
    assert judge(error, status) == verdict


@pytest.mark.parametrize("kind", [GatewayError, Internal, InvalidRequest, InsufficientBalance])
@pytest.mark.parametrize("status", [None, 200, 401, 500])
def test_what_is_ours_is_no_providers_fault(kind, status):
    assert judge(kind("ours"), status) == FINAL
    assert judge(Unavailable("ours"), status) == FINAL


@pytest.mark.parametrize("body", [WORDS, PAGE, b""])
@pytest.mark.parametrize("status", [*range(403, 408), *range(409, 429), *range(430, 500), 400])
def test_a_clients_own_mistake_never_trips_a_breaker(status, body):
    """However many clients make it, and whatever page a proxy in between puts in its place."""
    breakers = [Breaker(failures=1, open_s=5, longest_s=120) for _ in range(2)]
    place = Place("m", None, 0, "there", 1, 0, *breakers)
    verdict = judge(from_upstream(status, {}, body, Protocol.OPENAI), status)

    leave = place.begin(0.0)
    assert isinstance(leave, Leave)
    leave.failed(verdict, 0.0, reason="refused", retry_after_s=0.0)

    assert place.may_try(0.0)
    assert not place.of_key.is_resting(0.0)
