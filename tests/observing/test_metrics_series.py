"""What is counted of requests, and that no client can make it grow."""

import msgspec
import pytest
from support.prometheus import parse

from server import clock
from server.errors import GatewayError
from server.observing.exposition import render
from server.observing.metrics import MOST_ATTEMPTS, MOST_SERIES, OTHER, Metrics
from server.observing.record import Refused, Served
from server.usage.record import Closing, Opening, Outcome, Tried

OPENING = Opening(
    request_id="req_1",
    instance_id=1,
    tenant_id=1,
    key_id=1,
    protocol="anthropic",
    stream=True,
    requested_model="claude-what-a-client-wrote",
    model="smart",
    upstream="there",
    upstream_model="claude-smart-1",
    started_at=clock.now(),
    input_estimate=9,
    member="ana",
)
CLOSING = Closing(
    outcome=Outcome.COMPLETED,
    duration_ms=1300,
    first_byte_ms=300,
    status=200,
    input_tokens=10,
    cache_read_input_tokens=20,
    cache_write_5m_tokens=30,
    cache_write_1h_tokens=40,
    output_tokens=50,
    cost_micros=600,
)
REFUSED = Refused("req_2", "GET", "/x", "openai", 404, "not_found", "::1", None, None, None, 1.0)


def _served(opening=None, attempts=1, **closing):
    return Served(
        opening=msgspec.structs.replace(OPENING, **(opening or {})),
        closing=msgspec.structs.replace(CLOSING, **closing),
        key_id="key_1",
        tenant="tnt_1",
        client="192.0.2.7",
        provider="anthropic",
        hold_ms=1,
        sent_bytes=1,
        attempts=attempts,
        ended_at=1.0,
    )


def _tried(*errors, **closing):
    """Make a request that was sent to `a`, `b`, … and failed there with `errors`."""
    tried = [Tried(up, "m", 1, 9, error) for up, error in zip("abc", errors, strict=False)]
    return msgspec.structs.replace(
        _served(attempts=len(tried)),
        closing=msgspec.structs.replace(
            CLOSING, attempts=msgspec.json.encode(tried).decode(), **closing
        ),
    )


def _after(*records):
    metrics = Metrics()
    for record in records:
        metrics.take(record)
    return parse(render(metrics.families()).decode())


def test_a_request_is_counted_once_in_every_figure():
    found = _after(_served())

    labels = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "anthropic",
        "gen_ai_request_model": "smart",
        "gen_ai_response_model": "claude-smart-1",
        "upstream": "there",
        "protocol": "anthropic",
    }
    ours = {"model": "smart", "upstream": "there", "protocol": "anthropic"}
    assert found.total("gatewayctl_requests_total", outcome="completed", **ours) == 1
    assert found.total("gatewayctl_cost_micros_total", **ours) == 600
    assert found.total("gatewayctl_tokens_total", **ours) == 150
    assert found.total("gatewayctl_tokens_total", **ours, **{"class": "cache_write_5m"}) == 30
    assert found.total("gen_ai_client_operation_duration_seconds_sum", **labels) == 1.3
    assert found.total("gen_ai_server_time_to_first_token_seconds_sum", **labels) == 0.3
    usage = "gen_ai_client_token_usage_sum"
    assert found.total(usage, gen_ai_token_type="input", **labels) == 100
    assert found.total(usage, gen_ai_token_type="output", **labels) == 50
    assert found.values("gen_ai_client_operation_duration_seconds_sum", "error_type") == {None}


def test_only_completed_streams_have_a_first_token():
    found = _after(
        _served({"stream": False}),
        _served(outcome=Outcome.UPSTREAM_ERROR, error="upstream_error"),
        _served(first_byte_ms=None),
    )

    assert "gen_ai_server_time_to_first_token_seconds_count" not in found
    assert found.total("gen_ai_client_operation_duration_seconds_count") == 3


@pytest.mark.parametrize(
    ("closing", "kind"),
    [
        ({"outcome": Outcome.UPSTREAM_ERROR, "error": "upstream_timeout"}, "upstream_timeout"),
        ({"outcome": Outcome.UPSTREAM_ERROR, "error": "a word of the provider"}, OTHER),
        ({"outcome": Outcome.UPSTREAM_ERROR, "error": None}, "upstream_error"),
        ({"outcome": Outcome.CANCELLED}, "cancelled"),
        ({"outcome": Outcome.CUT}, "cut"),
    ],
)
def test_errors_are_of_a_closed_list(closing, kind):
    found = _after(_served(**closing))

    assert found.values("gen_ai_client_operation_duration_seconds_sum", "error_type") == {kind}


def test_every_code_of_ours_has_a_name_of_its_own():
    codes, kinds = set(), [GatewayError]
    while kinds:
        kind = kinds.pop()
        codes.add(kind.code)
        kinds += kind.__subclasses__()

    found = _after(*(msgspec.structs.replace(REFUSED, error=code) for code in codes))

    assert found.values("gatewayctl_refusals_total", "error_type") == codes
    assert found.total("gatewayctl_refusals_total", protocol="openai") == len(codes)


def test_there_are_never_more_than_so_many_series():
    """A config may change often, and a mistake elsewhere must not fill the memory."""
    found = _after(*(_served({"model": f"m{number}"}) for number in range(3 * MOST_SERIES)))

    assert len(found["gatewayctl_requests_total"]) == MOST_SERIES + 1
    assert found.total("gatewayctl_requests_total", model=OTHER) == 2 * MOST_SERIES
    assert found.total("gatewayctl_requests_total") == 3 * MOST_SERIES


def test_each_attempt_is_counted_where_it_was_made():
    found = _after(
        _served(),
        _served(outcome=Outcome.UPSTREAM_ERROR, error="upstream_timeout"),
        _tried("upstream_timeout", "a word of the provider", None),
        _served(attempts=0, outcome=Outcome.UPSTREAM_ERROR, error="upstream_overloaded"),
    )

    name, there = "gatewayctl_attempts_total", {"upstream": "there", "model": "claude-smart-1"}
    assert found.total(name) == 5
    assert found.total(name, **there) == 2
    assert found.total(name, **there, error_type="upstream_timeout") == 1
    assert found.total(name, upstream="a", model="m", error_type="upstream_timeout") == 1
    assert found.total(name, upstream="b", model="m", error_type=OTHER) == 1
    assert found[name][frozenset({("upstream", "c"), ("model", "m")})] == 1


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.CUT])
def test_only_the_last_attempt_is_broken_off(outcome):
    found = _after(_tried("upstream_timeout", None, outcome=outcome))

    name = "gatewayctl_attempts_total"
    assert found.total(name, upstream="a", error_type="upstream_timeout") == 1
    assert found.total(name, upstream="b", error_type=outcome.value) == 1


def test_targets_of_one_upstream_are_one_series_where_labels_do_not_tell_them_apart():
    found = _after(_served(), _served({"upstream_model": "claude-smart-2"}))

    assert list(found["gatewayctl_requests_total"].values()) == [2]
    assert len(found["gen_ai_client_token_usage_count"]) == 4


def test_attempts_come_to_no_more_than_so_many_series():
    many = 3 * MOST_ATTEMPTS
    found = _after(*(_served({"upstream_model": f"m{number}"}) for number in range(many)))

    name = "gatewayctl_attempts_total"
    assert len(found[name]) == MOST_ATTEMPTS + 1
    assert found.total(name, upstream=OTHER, model=OTHER) == many - MOST_ATTEMPTS


def test_nothing_that_names_a_person_a_key_or_a_clients_word_becomes_a_label():
    metrics = Metrics()
    metrics.take(_served())
    metrics.take(REFUSED)

    text = render(metrics.families()).decode()

    for word in ("ana", "key_1", "tnt_1", "192.0.2.7", "claude-what", "req_", "/x"):
        assert f'"{word}' not in text
