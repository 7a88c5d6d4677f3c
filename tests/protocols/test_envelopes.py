"""Envelopes: every error in both, and what a provider's error becomes."""

import json

import msgspec
import pytest

from server import errors
from server.protocols import Protocol, envelopes, sse

HTML = b"<html><body>Bad Gateway at 10.0.0.7</body></html>"


def classes(root=errors.GatewayError):
    return [root, *(found for child in root.__subclasses__() for found in classes(child))]


def made(kind):
    if kind is errors.UpstreamRefused:
        return kind("Say what to do.", upstream_status=429, retry_after_s=7)
    return kind("Say what to do.", param="model", retry_after_s=7)


ALL = [made(kind) for kind in classes() if kind is not errors.MethodNotAllowed]
ALL.append(errors.MethodNotAllowed("Say what to do.", allowed=("GET", "POST")))
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    501: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@pytest.mark.parametrize("err", ALL, ids=lambda err: type(err).__name__)
def test_every_error_has_an_anthropic_envelope(err):
    assert envelopes.anthropic(err, "req_1") == {
        "type": "error",
        "error": {"type": ANTHROPIC_TYPES[err.http_status], "message": "Say what to do."},
        "request_id": "req_1",
    }


@pytest.mark.parametrize("err", ALL, ids=lambda err: type(err).__name__)
def test_every_error_has_an_openai_envelope(err):
    status = envelopes.status_for(err, Protocol.OPENAI)
    kind = "invalid_request_error" if status < 500 else "server_error"
    code = "rate_limited" if isinstance(err, errors.UpstreamRefused) else err.code

    assert envelopes.openai(err) == {
        "error": {
            "message": "Say what to do.",
            "type": "rate_limit_error" if status == 429 else kind,
            "param": err.param,
            "code": code,
        }
    }


@pytest.mark.parametrize("err", ALL, ids=lambda err: type(err).__name__)
def test_every_error_fits_into_a_stream_of_either_protocol(err):
    anthropic = list(sse.events(envelopes.anthropic_event(err, "req_1")))
    openai = list(sse.events(envelopes.openai_event(err)))

    assert [name for name, _ in anthropic + openai] == [b"error", b""]
    assert json.loads(anthropic[0][1]) == envelopes.anthropic(err, "req_1")
    assert json.loads(openai[0][1]) == envelopes.openai(err)


@pytest.mark.parametrize("err", ALL, ids=lambda err: type(err).__name__)
def test_every_error_names_the_request_and_says_whether_to_retry(err):
    headers = envelopes.headers(err, "req_1")

    assert headers["request-id"] == headers["x-request-id"] == "req_1"
    transient = err.http_status in (429, 502, 503, 504, 529) or isinstance(err, errors.Internal)
    retriable = transient and type(err) is not errors.QuotaExceeded
    assert headers.get("x-should-retry") == (None if retriable else "false")
    assert headers.get("retry-after") == (None if err.retry_after_s is None else "7")
    assert all(type(value) is str for value in headers.values())


def test_an_exhausted_quota_is_not_retried_though_it_is_a_429():
    class QuotaExceeded(errors.GatewayError):
        status, code = 429, "quota_exceeded"

    assert envelopes.headers(QuotaExceeded("x"), "r")["x-should-retry"] == "false"


def test_a_provider_refusal_other_than_429_is_not_retried():
    err = errors.UpstreamRefused("x", upstream_status=400)

    assert envelopes.headers(err, "req_1")["x-should-retry"] == "false"


def test_the_allowed_methods_are_told():
    err = errors.MethodNotAllowed("x", allowed=("GET", "POST"))

    assert envelopes.headers(err, "req_1")["allow"] == "GET, POST"
    assert "allow" not in envelopes.headers(errors.MethodNotAllowed("x"), "req_1")


def test_529_is_503_to_openai_clients_only():
    err = errors.UpstreamOverloaded("x")

    assert envelopes.status_for(err, Protocol.ANTHROPIC) == 529
    assert envelopes.status_for(err, Protocol.OPENAI) == 503


def test_pings_are_events_of_their_protocol():
    assert list(sse.events(envelopes.ANTHROPIC_PING)) == [(b"ping", b'{"type":"ping"}')]
    assert list(sse.events(envelopes.OPENAI_PING)) == []


def test_an_anthropic_refusal_keeps_wording_type_and_details():
    message = "prompt is too long: 205000 tokens > 200000 maximum"
    body = {
        "type": "error",
        "error": {
            "type": "novel_error",
            "message": message,
            "details": {"error_code": "ramp_limit_exceeded"},
        },
        "request_id": "req_theirs",
    }

    err = envelopes.from_upstream(400, {}, json.dumps(body).encode(), Protocol.ANTHROPIC)

    body["request_id"] = "req_ours"
    assert envelopes.anthropic(err, "req_ours") == body
    assert err.http_status == 400
    assert envelopes.openai(err)["error"]["details"] == body["error"]["details"]


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (404, "not_found_error", "thread_not_found"),
        (409, "conflict_error", "thread_already_continued"),
    ],
)
def test_what_anthropic_says_of_a_thread_is_kept(status, kind, code):
    """Its SDK then sends the whole conversation; of a 502 it would know nothing."""
    error = {"type": kind, "message": "No.", "details": {"error_code": code}}
    body = json.dumps({"type": "error", "error": error}).encode()

    err = envelopes.from_upstream(status, {}, body, Protocol.ANTHROPIC)
    other = envelopes.from_upstream(status, {}, body.replace(b"thread_", b"x_"), Protocol.ANTHROPIC)

    assert err.http_status == status
    assert envelopes.anthropic(err, "req_ours")["error"] == error
    assert other.http_status == 502


def test_an_openai_refusal_keeps_wording_type_param_and_code():
    body = {
        "error": {
            "message": "This model's maximum context length is 128000 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }

    err = envelopes.from_upstream(400, {}, json.dumps(body).encode(), Protocol.OPENAI)

    assert envelopes.openai(err) == body
    assert envelopes.status_for(err, Protocol.OPENAI) == 400
    assert envelopes.anthropic(err, "r")["error"]["type"] == "invalid_request_error"


def test_a_type_that_anthropic_clients_do_not_know_gives_way_to_the_status():
    body = b'{"error":{"message":"Rate limit reached","type":"tokens","code":null}}'

    err = envelopes.from_upstream(429, {"retry-after": "2"}, body, Protocol.OPENAI)

    assert envelopes.anthropic(err, "r")["error"]["type"] == "rate_limit_error"
    assert envelopes.openai(err)["error"]["type"] == "tokens"
    assert envelopes.openai(err)["error"]["code"] == "rate_limited"
    assert "x-should-retry" not in envelopes.headers(err, "r")


@pytest.mark.parametrize(
    "body", [b'{"error":"too many"}', b'{"object":"error","message":"too many","code":429}']
)
def test_the_wording_of_compatible_servers_is_found(body):
    err = envelopes.from_upstream(429, {}, body, Protocol.OPENAI)

    assert (str(err), err.http_status) == ("too many", 429)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3600", 3600),
        ("0", 0),
        ("1.2", 2),
        ("-1", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e18", None),
        ("Sun, 22 Nov 2026 13:07:00 GMT", None),
    ],
)
def test_retry_after_is_kept_in_whole_seconds(value, seconds):
    for status in (429, 500, 503, 504, 529):
        body = b'{"error":{"message":"m"}}'
        err = envelopes.from_upstream(status, {"retry-after": value}, body, Protocol.OPENAI)
        assert err.retry_after_s == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.UpstreamError),
        (402, errors.UpstreamError),
        (403, errors.UpstreamError),
        (404, errors.UpstreamError),
        (409, errors.UpstreamError),
        (500, errors.UpstreamError),
        (502, errors.UpstreamError),
        (302, errors.UpstreamError),
        (408, errors.UpstreamTimeout),
        (504, errors.UpstreamTimeout),
        (503, errors.UpstreamOverloaded),
        (529, errors.UpstreamOverloaded),
    ],
)
def test_all_other_answers_get_a_sentence_of_ours(status, kind):
    body = b'{"error":{"type":"x","message":"Incorrect API key sk-live-12345 at 10.0.0.7"}}'

    err = envelopes.from_upstream(status, {}, body, Protocol.ANTHROPIC)

    assert type(err) is kind
    assert str(err).startswith("The provider ")
    assert "sk-" not in str(err)
    assert "10.0.0.7" not in str(err)


@pytest.mark.parametrize(
    "body",
    [
        HTML,
        b"",
        b"null",
        b"[]",
        b'{"error":{}}',
        b'{"error":{"message":5}}',
        pytest.param(b"[" * 9999, id="deep"),
    ],
)
@pytest.mark.parametrize("status", [400, 413, 429])
def test_a_refusal_without_words_is_an_upstream_error(status, body):
    err = envelopes.from_upstream(status, {"retry-after": "9"}, body, Protocol.OPENAI)

    assert (type(err), err.http_status, err.retry_after_s) == (errors.UpstreamError, 502, 9)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-api03-FAKE_fake-000",
        "sk-proj-fakefake",
        "Bearer abcdefgh.ijkl",
        "bearer  QWxhZGRpbjpvcGVu==",
        "gwk_fake0000",
    ],
)
def test_secrets_in_a_refusal_are_masked(secret):
    error = {"message": f"Key {secret} (yours) is odd.", "details": {"key": secret}}

    err = envelopes.from_upstream(
        429, {}, json.dumps({"error": error}).encode(), Protocol.ANTHROPIC
    )

    assert str(err) == "Key [redacted] (yours) is odd."
    assert err.details == {"key": "[redacted]"}


def test_words_that_only_resemble_secrets_stay():
    message = "The task-management tool and the bearer of it; risk-averse sk-1."

    body = json.dumps({"error": {"message": message}}).encode()

    assert str(envelopes.from_upstream(400, {}, body, Protocol.OPENAI)) == message


def test_a_long_refusal_is_cut():
    body = msgspec.json.encode({"error": {"message": "x" * 100_000}})

    assert len(str(envelopes.from_upstream(400, {}, body, Protocol.OPENAI))) == 4000


def test_an_unpaid_provider_account_is_not_told_as_the_callers():
    body = b'{"error":{"message":"Your credit balance is too low to access the API."}}'

    err = envelopes.from_upstream(400, {}, body, Protocol.ANTHROPIC)

    assert (type(err), err.http_status) == (errors.UpstreamError, 502)
    assert "credit balance" not in str(err)
