"""Every failure that the demo upstream can play, through the gateway, in four forms."""

import json
import time

import pytest
from support.faults import FREE, KEY, NAMES, RETRIED, UNCOUNTED, Answer, model_of, play
from support.validators import check_chat_stream, check_messages_stream
from support.wires import run

PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
CONTENT = "Tell me what you are."
FORMS = [(protocol, stream) for protocol in PATHS for stream in (False, True)]
# What a client sees: a status and the error's kind in each envelope; "ok"; or "event", a
# stream that had begun and ends with the protocol's error event.
FAILED = (502, "api_error", "upstream_error")
TIMED_OUT = (504, "timeout_error", "upstream_timeout")
OVERLOADED = (529, "overloaded_error", "overloaded")
BAD = (400, "invalid_request_error", "invalid_request")
EXPECTED = {  # name: (whole, stream)
    "overloaded": (OVERLOADED, OVERLOADED),
    "unavailable": (OVERLOADED, OVERLOADED),
    "error": (FAILED, FAILED),
    "html": (FAILED, FAILED),
    "ratelimit": ((429, "rate_limit_error", "rate_limit_exceeded"),) * 2,
    "unauthorized": (FAILED, FAILED),
    "forbidden": (FAILED, FAILED),
    "notfound": (FAILED, FAILED),
    "badrequest": (BAD, BAD),
    "toolong": ((400, "invalid_request_error", "context_length_exceeded"),) * 2,
    "toolarge": ((413, "request_too_large", "request_too_large"),) * 2,
    "timeout": (TIMED_OUT, TIMED_OUT),
    "refuse": (FAILED, FAILED),
    "reset": (FAILED, FAILED),
    "slow": ("ok", "ok"),
    "stall": ("ok", "ok"),
    "cut": (FAILED, "event"),
    "cut-clean": (FAILED, "event"),
    "rst-mid": (FAILED, "event"),
    "garbage": (FAILED, "ok"),
    "endless-line": (FAILED, "event"),
    "endless": (FAILED, "left"),
    "gzip": ("ok", "ok"),
    "gzipbomb": (FAILED, FAILED),
    "redirect": (FAILED, FAILED),
    "continue": ("ok", "ok"),
    # Before any content the error can still be the answer's status; Chat's own tells none.
    "error-first": (OVERLOADED, {"anthropic": OVERLOADED, "openai": FAILED}),
    "error-mid": (FAILED, "event"),
    "no-usage": ("ok", "ok"),
    "weird-usage": ("ok", "ok"),
    "wrong-type": (FAILED, FAILED),
    "short-length": (FAILED, "ok"),
    "tiny": ("ok", "ok"),
    "big": ("ok", "ok"),
    "silent-close": (FAILED, FAILED),
}
FREE_WHOLE = FREE | {"error-first", "error-mid"}
FREE_STREAMS = FREE | {"error-first"}
CHECK = {"anthropic": check_messages_stream, "openai": check_chat_stream}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Ask for every fault in every form, once, all through one gateway."""
    folder = tmp_path_factory.mktemp("faults")
    found = run(lambda: _ask_for_all(folder))
    found["log"] = (folder / "gateway.log").read_text()
    return found


async def _ask_for_all(folder):
    asked = [(*form, name) for name in NAMES for form in FORMS]
    played = await play(folder, _config, _ask, asked)
    by_id = {row["request_id"]: row for row in played.rows}
    found = {}
    for each, (reply, body, took_s) in zip(asked, played.replies, strict=True):
        made = reply.headers["request-id"]
        found[each] = Answer(
            reply.status_code, reply.headers, body, took_s, by_id[made], played.served[made]
        )
    found["left"] = (played.busy, len(played.rows), len(played.served), played.calls)
    return found


def _config(url):
    lines = []
    for name in NAMES:
        targets = ", ".join(
            f'{{upstream: {there}, model: "{model_of(name)}"}}' for there in ("m", "c")
        )
        lines.append(f"  {name}: {{targets: [{targets}], free: true}}")
    return f"""
upstreams:
  m: {{protocol: anthropic, base_url: "{url}", api_key: "{KEY}"}}
  c: {{protocol: openai, base_url: "{url}/v1", api_key: "{KEY}"}}
models:
""" + "\n".join(lines)


async def _ask(client, protocol, stream, name):
    ask = {
        "model": name,
        "max_tokens": 400,
        "messages": [{"role": "user", "content": CONTENT}],
        "stream": stream,
    }
    if protocol == "openai" and stream:
        ask["stream_options"] = {"include_usage": True}
    begun, body = time.monotonic(), b""
    async with client.stream("POST", PATHS[protocol], json=ask) as reply:
        async for piece in reply.aiter_raw():
            body += piece
            if name == "endless" and len(body) > 20_000:
                break
    return reply, body, time.monotonic() - begun


def _expected(protocol, stream, name):
    expected = EXPECTED[name][stream]
    return expected[protocol] if isinstance(expected, dict) else expected


def test_the_table_names_every_fault_there_is():
    assert set(EXPECTED) == set(NAMES)


def test_every_request_has_one_row_and_nothing_stays_open(answers):
    busy, rows, by_id, served = answers["left"]

    assert (busy, rows, by_id) == (0, *[len(NAMES) * len(FORMS)] * 2)
    # A kept-alive connection that closes without an answer is stale: those are asked once more.
    assert rows <= served <= rows + 2 * len(FORMS)
    assert " ERROR " not in answers["log"]
    assert KEY not in answers["log"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("protocol", "stream"), FORMS)
def test_a_fault_reaches_the_client_as_the_design_says(answers, protocol, stream, name):
    answer, expected = answers[protocol, stream, name], _expected(protocol, stream, name)

    assert answer.took_s < 20
    assert KEY.encode() not in answer.body
    assert not any(KEY in value or "127.0.0.1" in value for value in answer.headers.values())
    if isinstance(expected, tuple):
        _check_refusal(answer, protocol, expected)
    elif expected == "left":
        assert answer.status == 200
    else:
        assert answer.status == 200
        assert answer.headers.get("x-should-retry") is None
        if not stream:
            json.loads(answer.body)
        elif name not in UNCOUNTED:
            said = CHECK[protocol](answer.body)
            assert (said.error is not None) == (expected == "event")


def _check_refusal(answer, protocol, expected):
    status, kind, code = expected
    if protocol == "openai":
        status = 503 if status == 529 else status
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["type" if protocol == "anthropic" else "code"]) == (
        (status, kind) if protocol == "anthropic" else (status, code)
    )
    assert error["message"]
    assert "127.0.0.1" not in error["message"]
    wanted = None if status in RETRIED else "false"
    assert answer.headers.get("x-should-retry") == wanted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("protocol", "stream"), FORMS)
def test_a_fault_leaves_a_row_that_tells_what_happened(answers, protocol, stream, name):
    answer, expected = answers[protocol, stream, name], _expected(protocol, stream, name)
    row = answer.row

    outcome = {"ok": "completed", "left": "cancelled"}.get(expected, "upstream_error")
    assert (row["state"], row["outcome"], row["status"]) == ("settled", outcome, answer.status)
    assert (row["error"] is None) == (outcome != "upstream_error")
    assert row["upstream_request_id"] in (None, answer.served["upstream_request_id"])
    assert row["duration_ms"] >= 0
    if name in (FREE_STREAMS if stream else FREE_WHOLE):
        assert (_tokens(row), row["estimated"]) == ((0, 0, 0), False)
    elif outcome == "completed" and (usage := answer.served["usage"]) and name not in UNCOUNTED:
        assert _tokens(row) == (
            usage["input_tokens"],
            usage["cache_read_input_tokens"],
            usage["output_tokens"],
        )
        assert row["estimated"] is False
    else:
        assert row["input_tokens"] > 0
        assert row["input_tokens"] < 10_000 or name == "weird-usage"


def _tokens(row):
    return row["input_tokens"], row["cache_read_input_tokens"], row["output_tokens"]


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("name", ["cut", "cut-clean", "rst-mid", "error-mid", "endless"])
def test_what_was_delivered_of_a_broken_stream_is_paid(answers, protocol, name):
    """The provider's first event says one token of output; the words that followed cost too."""
    answer = answers[protocol, True, name]
    words = answer.body.count(b'"text_delta"') + answer.body.count(b'"content":"') - 1

    assert words >= 2
    assert answer.row["output_tokens"] >= words
    assert answer.row["estimated"] is True


@pytest.mark.parametrize(("protocol", "stream"), FORMS)
def test_missing_usage_is_estimated_and_weird_usage_is_never_negative(answers, protocol, stream):
    missing = answers[protocol, stream, "no-usage"].row
    weird = answers[protocol, stream, "weird-usage"].row

    assert missing["input_tokens"] > 0
    assert missing["output_tokens"] > 0
    assert missing["estimated"] is True
    assert all(0 <= count <= 2**53 for count in _tokens(weird))


@pytest.mark.parametrize(("protocol", "stream"), FORMS)
def test_a_rate_limit_keeps_the_providers_words_and_headers(answers, protocol, stream):
    answer = answers[protocol, stream, "ratelimit"]

    assert answer.headers["retry-after"] == "7"
    kept = "anthropic-ratelimit-requests-remaining"
    if protocol == "openai":
        kept = "x-ratelimit-remaining-requests"
    assert answer.headers[kept] == "999"
    assert answer.headers["x-upstream-request-id"] == answer.served["upstream_request_id"]
    message = json.loads(answer.body)["error"]["message"]
    assert message == "This request would exceed the rate limit of the demo upstream."


@pytest.mark.parametrize(("protocol", "stream"), FORMS)
def test_a_prompt_that_is_too_long_keeps_the_wording_that_clients_match(answers, protocol, stream):
    message = json.loads(answers[protocol, stream, "toolong"].body)["error"]["message"]

    assert message == "prompt is too long: 250000 tokens > 200000 maximum"
