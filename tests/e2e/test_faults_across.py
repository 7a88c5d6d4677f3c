"""Every failure that the demo upstream can play, to clients of the other protocols.

Each fault meets each client whose protocol is not the upstream's, in three forms: a stream, a
whole answer, and a whole answer that is gathered from a stream. Clients of the upstream's own
protocol meet it in the last form alone; the others are in test_faults_through.
"""

import asyncio
import json
import re
import time

import httpx
import pytest
from support.across import PATHS, asking, has_fake_end, said, stop_of, text_of
from support.faults import FREE, KEY, NAMES, RETRIED, UNCOUNTED, Answer, model_of, play
from support.priced import check_books
from support.wires import run

SLICE_TOKENS = 1000
LIMITS = {"stream": 400, "whole": 400, "gathered": 2000}
WAYS = [
    (client, spoken, form)
    for client in PATHS
    for spoken in ("anthropic", "openai")
    for form in LIMITS
    if client != spoken or form == "gathered"
]
across = pytest.mark.parametrize(("client", "spoken", "form"), WAYS)
translated = pytest.mark.parametrize(
    ("client", "spoken", "form"), [way for way in WAYS if way[0] != way[1]]
)
streamed = pytest.mark.parametrize(
    ("client", "spoken"), [way[:2] for way in WAYS if way[2] == "stream"]
)

# What a client sees: a status, and the error's kind in either envelope; "ok"; or "event", a
# stream that had begun and ends with the protocol's error event.
FAILED = (502, "api_error", "server_error", "upstream_error")
TIMED_OUT = (504, "timeout_error", "server_error", "upstream_timeout")
OVERLOADED = (529, "overloaded_error", "server_error", "overloaded")
LIMITED = (
    429,
    "rate_limit_error",
    "rate_limit_error",
    {"anthropic": "rate_limited", "openai": "rate_limit_exceeded"},
)
BAD = (400, "invalid_request_error", "invalid_request_error", "invalid_request")
# A stream's error event says no status, and what OpenAI's says is less than a status does.
FIRST = {"anthropic": OVERLOADED, "openai": FAILED}
TOO_LONG = (400, "invalid_request_error", "invalid_request_error", "context_length_exceeded")
TOO_LARGE = (413, "request_too_large", "invalid_request_error", "request_too_large")
EXPECTED = {  # name: (whole, gathered, stream)
    "overloaded": (OVERLOADED,) * 3,
    "unavailable": (OVERLOADED,) * 3,
    "error": (FAILED,) * 3,
    "html": (FAILED,) * 3,
    "ratelimit": (LIMITED,) * 3,
    "unauthorized": (FAILED,) * 3,
    "forbidden": (FAILED,) * 3,
    "notfound": (FAILED,) * 3,
    "badrequest": (BAD,) * 3,
    "toolong": (TOO_LONG,) * 3,
    "toolarge": (TOO_LARGE,) * 3,
    "timeout": (TIMED_OUT,) * 3,
    "refuse": (FAILED,) * 3,
    "reset": (FAILED,) * 3,
    "slow": ("ok",) * 3,
    "stall": ("ok",) * 3,
    "cut": (FAILED, FAILED, "event"),
    "cut-clean": (FAILED, FAILED, "event"),
    "rst-mid": (FAILED, FAILED, "event"),
    "garbage": (FAILED, "ok", "ok"),
    "endless-line": (FAILED, FAILED, "event"),
    "endless": (FAILED, "left", "left"),
    "gzip": ("ok",) * 3,
    "gzipbomb": (FAILED,) * 3,
    "redirect": (FAILED,) * 3,
    "continue": ("ok",) * 3,
    "error-first": (OVERLOADED, FIRST, FIRST),
    "error-mid": (FAILED, FAILED, "event"),
    "no-usage": ("ok",) * 3,
    "weird-usage": ("ok",) * 3,
    "wrong-type": (FAILED,) * 3,
    "short-length": (FAILED, "ok", "ok"),
    "tiny": ("ok",) * 3,
    "big": ("ok",) * 3,
    "silent-close": (FAILED,) * 3,
}
UNPAID = FREE | {"error-first"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Ask for every fault in every way, once, all through one gateway."""
    folder = tmp_path_factory.mktemp("faults_across")
    found = run(lambda: _ask_for_all(folder))
    check_books(folder)
    found["log"] = (folder / "gateway.log").read_text()
    return found


async def _ask_for_all(folder):
    asked = [(*way, name) for name in NAMES for way in WAYS]
    played = await play(folder, _config, _ask, asked)
    by_model = {(row["protocol"], row["requested_model"]): row for row in played.rows}
    found = {}
    for (client, spoken, form, name), (reply, body, took_s) in zip(
        asked, played.replies, strict=True
    ):
        row = by_model[client, f"{name}-{spoken}-{form}"]
        status, headers = (None, httpx.Headers()) if reply is None else _head(reply)
        call = played.served[row["request_id"]]
        found[client, spoken, form, name] = Answer(status, headers, body, took_s, row, call)
    found["left"] = (played.busy, len(played.rows), len(played.served))
    return found


def _head(reply):
    return reply.status_code, reply.headers


def _config(url):
    lines = []
    for name in NAMES:
        for spoken in ("anthropic", "openai"):
            target = f'{{upstream: {spoken}, model: "{model_of(name)}"}}'
            lines += [
                f'  {name}-{spoken}-{form}: {{targets: [{target}], price: {{input: "4", '
                'output: "20", cache_read: "0.4"}}'
                for form in LIMITS
            ]
    return f"""
upstreams:
  anthropic: {{protocol: anthropic, base_url: "{url}", api_key: "{KEY}"}}
  openai: {{protocol: openai, base_url: "{url}/v1", api_key: "{KEY}"}}
billing: {{hold_slice_tokens: {SLICE_TOKENS}}}
models:
""" + "\n".join(lines)


async def _ask(client, protocol, spoken, form, name):
    model = f"{name}-{spoken}-{form}"
    # A stream that comes to far more than it was asked for is ended.
    limit = 300_000 if name == "big" and form != "whole" else LIMITS[form]
    ask = asking(protocol, model, stream=form == "stream", limit=limit)
    begun, body, reply = time.monotonic(), b"", None
    try:
        # Gathered, what never ends is given to nobody: its client loses patience.
        async with asyncio.timeout(1.0 if (name, form) == ("endless", "gathered") else 30):
            async with client.stream("POST", PATHS[protocol], json=ask) as reply:
                async for piece in reply.aiter_raw():
                    body += piece
                    if name == "endless" and len(body) > 20_000:
                        break
    except TimeoutError:
        assert (name, form) == ("endless", "gathered")
    return reply, body, time.monotonic() - begun


def _expected(name, spoken, form):
    expected = EXPECTED[name][("whole", "gathered", "stream").index(form)]
    return expected[spoken] if isinstance(expected, dict) else expected


def test_the_table_names_every_fault_there_is():
    assert set(EXPECTED) == set(NAMES)


def test_every_request_has_one_row_and_nothing_stays_open(answers):
    assert answers["left"] == (0, *[len(NAMES) * len(WAYS)] * 2)
    assert " ERROR " not in answers["log"]
    assert KEY not in answers["log"]


@pytest.mark.parametrize("name", NAMES)
@across
def test_a_fault_is_told_in_the_clients_protocol(answers, client, spoken, form, name):
    answer, expected = answers[client, spoken, form, name], _expected(name, spoken, form)

    assert answer.took_s < 20
    assert KEY.encode() not in answer.body
    assert not any(KEY in value or "127.0.0.1" in value for value in answer.headers.values())
    if isinstance(expected, tuple):
        _check_refusal(answer, client, spoken, expected)
    elif expected != "left":
        assert answer.status == 200
        assert answer.headers.get("x-should-retry") is None
        told = _said(answer, client, form)
        assert (told.get("error") is not None) == (expected == "event")
        if expected == "event":
            assert told["error"]["message"]
            assert not has_fake_end(client, answer.body)


def _check_refusal(answer, client, spoken, expected):
    status, kind, chat_kind, code = expected
    status = 503 if (status, client != "anthropic") == (529, True) else status
    body = json.loads(answer.body)
    error = body["error"]
    assert answer.status == status
    if client == "anthropic":
        assert body == {"type": "error", "error": error, "request_id": answer.row["request_id"]}
        assert error == {"type": kind, "message": error["message"]}
    else:
        assert body.keys() == {"error"}
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == chat_kind
        assert error["code"] == (code[spoken] if isinstance(code, dict) else code)
    assert error["message"]
    assert "127.0.0.1" not in error["message"]
    assert answer.headers["content-type"] == "application/json"
    wanted = None if status in RETRIED else "false"
    assert answer.headers.get("x-should-retry") == wanted


def _said(answer, client, form):
    kind = "text/event-stream; charset=utf-8" if form == "stream" else "application/json"
    assert answer.headers["content-type"] == kind
    return said(client, answer.body, stream=form == "stream")


@across
def test_what_came_whole_says_the_same_whatever_came_between(answers, client, spoken, form):
    names = [name for name in NAMES if _expected(name, spoken, form) == "ok" and name != "big"]
    told = {name: _said(answers[client, spoken, form, name], client, form) for name in names}

    plain = json.loads(answers["anthropic", "openai", "whole", "continue"].body)
    words = {name: _words(each) for name, each in told.items()}
    assert words == dict.fromkeys(names, _words(plain))
    assert {stop_of(each) for each in told.values()} <= {"end_turn", "stop", "completed"}


def _words(answer):
    return re.sub(r"\d+", "N", text_of(answer))  # the demo says how much it has read


@pytest.mark.parametrize("name", NAMES)
@across
def test_a_fault_leaves_one_settled_row(answers, client, spoken, form, name):
    answer, expected = answers[client, spoken, form, name], _expected(name, spoken, form)
    row = answer.row

    outcome = {"ok": "completed", "left": "cancelled"}.get(str(expected), "upstream_error")
    assert (row["state"], row["outcome"], row["status"]) == ("settled", outcome, answer.status)
    assert (row["error"] is None) == (outcome != "upstream_error")
    assert (row["protocol"], row["stream"]) == (client, form == "stream")
    assert answer.served["stream"] == (form != "whole")
    assert row["upstream_request_id"] in (None, answer.served["upstream_request_id"])
    is_refused = name in UNPAID or (name, form) == ("error-mid", "whole")
    assert (row["cost_micros"] == 0) == is_refused
    if is_refused:
        assert (_tokens(row), row["estimated"]) == ((0, 0, 0), False)
    elif outcome == "completed" and (usage := answer.served["usage"]) and name not in UNCOUNTED:
        assert _tokens(row) == (
            usage["input_tokens"],
            usage["cache_read_input_tokens"],
            usage["output_tokens"],
        )
        assert row["estimated"] is False
    else:
        assert sum(_tokens(row)[:2]) + row["cache_write_5m_tokens"] in range(1, 10_000)


def _tokens(row):
    return row["input_tokens"], row["cache_read_input_tokens"], row["output_tokens"]


@pytest.mark.parametrize("name", ["cut", "cut-clean", "rst-mid", "error-mid", "endless"])
@streamed
def test_what_was_delivered_of_a_broken_stream_is_paid(answers, client, spoken, name):
    answer = answers[client, spoken, "stream", name]
    words = sum(answer.body.count(mark) for mark in (b'"text_delta"', b'"delta":{"content":"'))
    words += answer.body.count(b'"type":"response.output_text.delta"')

    assert words >= 2
    assert answer.row["output_tokens"] >= words
    assert answer.row["estimated"] is True


@translated
def test_usage_that_is_missing_or_absurd_is_told_as_sane_counts(answers, client, spoken, form):
    for name in UNCOUNTED:
        answer = answers[client, spoken, form, name]
        usage = _said(answer, client, form).get("usage") or {}

        counts = [count for count in usage.values() if isinstance(count, int)]
        assert all(0 <= count <= 10**9 for count in counts)
        assert all(0 <= count <= 10**9 for count in _tokens(answer.row))
        assert answer.row["cost_micros"] > 0
    assert answers[client, spoken, form, "no-usage"].row["estimated"] is True


@across
def test_a_rate_limit_keeps_the_providers_words_and_when_to_come_back(
    answers, client, spoken, form
):
    answer = answers[client, spoken, form, "ratelimit"]

    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-upstream-request-id"] == answer.served["upstream_request_id"]
    message = json.loads(answer.body)["error"]["message"]
    assert message == "This request would exceed the rate limit of the demo upstream."


@across
def test_a_prompt_that_is_too_long_keeps_the_wording_that_clients_match(
    answers, client, spoken, form
):
    message = json.loads(answers[client, spoken, form, "toolong"].body)["error"]["message"]

    assert message == "prompt is too long: 250000 tokens > 200000 maximum"
