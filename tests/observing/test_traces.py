"""A real gateway's requests as spans: in the SDK's memory, and at a collector on loopback."""

import re
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.collectors import attributes, collector
from support.gateways import config_for, lay_out, started
from support.prometheus import parse
from support.raw_upstream import until, upstream
from support.wires import run

from server.errors import ConfigError
from server.observing.traces import MOST_WAITING, VALUE_LIMIT, Traces
from server.store.migrate import migrate
from server.usage.record import Outcome

CONFIG = """
upstreams:
  demo: {protocol: demo}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], price: {input: "4.00", output: "20.00"}}
  busy: {targets: [{upstream: demo, model: "fault:overloaded"}], free: true}
  endless: {targets: [{upstream: demo, model: "fault:endless"}], free: true}
aliases: {"claude-*": smart}
auto: {default: smart}
tiers: {team: {name: Team, price_cents: 2000}}
"""
PROMPT = "the-word-that-nobody-may-keep"
ASK = {"model": "smart", "max_tokens": 40, "messages": [{"role": "user", "content": PROMPT}]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=a,other=b"}
PATHS = ("/v1/messages", "/v1/chat/completions", "/cline/v1/messages")


@asynccontextmanager
async def _watched(gateway, **options):
    """Keep the spans of what the gateway serves in the block; they are there at its end."""
    exporter = InMemorySpanExporter()
    traces, spans = Traces(exporter, **options), []
    gateway.services.watch.feed.subscribe(traces.take)
    yield spans
    await until(lambda: not gateway.gateway.pumps)
    await gateway.services.store.write(lambda: None)  # what is queued is committed
    await traces.close()
    spans += exporter.get_finished_spans()


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Serve requests that end in every way; give their rows and spans by request id."""
    return run(lambda: _trace(tmp_path_factory.mktemp("traced")))


async def _trace(folder):
    async with started(folder, CONFIG) as gateway:
        key_id, secret = await gateway.mint(member="ana")
        began_ns = time.time_ns()
        async with _watched(gateway) as spans, gateway.client(secret) as client:
            for path in PATHS:
                for model in ("smart", "claude-x", "busy"):
                    for stream in (False, True):
                        ask = ASK | {"model": model, "stream": stream}
                        await client.post(path, json=ask, headers=TRACEPARENT)
            ask = ASK | {"model": "endless", "stream": True}
            async with client.stream("POST", "/v1/messages", json=ask) as answer:
                await anext(answer.aiter_raw())  # and hang up
        rows = await gateway.rows()
    by_id = {span.attributes["gatewayctl.request_id"]: span for span in spans}
    pairs = [(row, by_id[row["request_id"]]) for row in rows]
    assert len(pairs) == len(spans) == 19
    times = (began_ns, time.time_ns())
    return {"pairs": pairs, "key_id": key_id, "secrets": (secret, gateway.secret), "times": times}


def _of(traced, **wanted):
    return [(row, span) for row, span in traced["pairs"] if wanted.items() <= {**row}.items()]


def test_a_span_says_what_the_row_says(traced):
    for row, span in traced["pairs"]:
        told = dict(span.attributes)
        read, written = row["cache_read_input_tokens"], row["cache_write_5m_tokens"]
        assert (span.name, span.kind) == (f"chat {row['model']}", SpanKind.CLIENT)
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.provider.name"] in {"anthropic", "openai"}
        assert told["gen_ai.request.model"] == row["model"]
        assert told["gen_ai.response.model"] == row["upstream_model"]
        assert told["gen_ai.usage.input_tokens"] == row["input_tokens"] + read + written
        assert told["gen_ai.usage.cache_read.input_tokens"] == read
        assert told["gen_ai.usage.cache_creation.input_tokens"] == written
        assert told["gen_ai.usage.output_tokens"] == row["output_tokens"]
        assert told["gatewayctl.key_id"] == traced["key_id"]
        assert told["gatewayctl.attempts"] == 1
        for name in (
            *("member", "tool", "protocol", "requested_model", "upstream", "upstream_request_id"),
            *("status", "outcome", "estimated", "cost_micros", "quota_tokens", "first_byte_ms"),
        ):
            assert told.get(f"gatewayctl.{name}") == row[name], name


def test_a_stream_has_its_first_chunk_and_what_was_completed_its_reason(traced):
    for row, span in _of(traced, outcome="completed"):
        told, first_ms = span.attributes, row["first_byte_ms"]
        assert told["gen_ai.response.finish_reasons"] == (row["stop_reason"],)
        assert told.get("gen_ai.request.stream") == (row["stream"] or None)
        first_s = told.get("gen_ai.response.time_to_first_chunk")
        assert first_s == (first_ms / 1000 if row["stream"] else None)


def test_an_error_of_the_provider_is_the_spans_status(traced):
    failed, cancelled = _of(traced, model="busy"), _of(traced, model="endless")

    assert (len(failed), len(cancelled)) == (6, 1)
    for row, span in failed:
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == row["error"]
    for _, span in [*cancelled, *_of(traced, outcome="completed")]:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in span.attributes
    assert cancelled[0][1].attributes["gatewayctl.outcome"] == "cancelled"


def test_a_span_covers_its_request(traced):
    first_ns, last_ns = traced["times"]

    for row, span in traced["pairs"]:
        assert span.end_time - span.start_time == row["duration_ms"] * 1_000_000
        assert first_ns // 1_000_000 * 1_000_000 <= span.start_time <= span.end_time
        assert span.end_time <= last_ns + 50_000_000


def test_a_span_is_the_child_of_the_callers_or_begins_a_trace(traced):
    for row, span in traced["pairs"]:
        if row["model"] == "endless":
            assert span.parent is None
            assert span.context.trace_id != int(TRACE, 16)
        else:
            assert (span.context.trace_id, span.parent.span_id) == (
                int(TRACE, 16), int(PARENT, 16),
            )  # fmt: skip
            assert span.parent.is_remote
            assert span.context.trace_state.to_header() == TRACEPARENT["tracestate"]


def test_no_span_holds_a_secret_or_a_word_of_the_prompt(traced):
    texts = "".join(span.to_json() for _, span in traced["pairs"])

    assert [word for word in (PROMPT, *traced["secrets"]) if word[8:-4] in texts] == []
    for _, span in traced["pairs"]:
        for value in span.attributes.values():
            assert len(str(value)) <= VALUE_LIMIT + 10


def test_a_malformed_parent_is_as_none(tmp_path):
    headers = [{"traceparent": bad} for bad in ("nonsense", f"00-{TRACE}-{'0' * 16}-01", "")]
    headers += [{"tracestate": "vendor=a"}, TRACEPARENT | {"tracestate": "=,=;" * 200}]

    async def scenario():
        async with (
            started(tmp_path, CONFIG) as gateway,
            _watched(gateway) as spans,
            gateway.client() as client,
        ):
            for each in headers:
                answer = await client.post("/v1/messages", json=ASK, headers=each)
                assert answer.status_code == 200
        return spans

    spans = run(scenario)

    assert [span.parent is None for span in spans] == [True, True, True, True, False]
    assert {span.context.trace_state.to_header() for span in spans} == {""}


def test_callers_decide_over_their_traces_and_a_ratio_over_the_rest(tmp_path):
    async def scenario():
        unwanted = {"traceparent": TRACEPARENT["traceparent"][:-1] + "0"}
        async with (
            started(tmp_path, CONFIG) as gateway,
            _watched(gateway, sample_ratio=0) as spans,
            gateway.client() as client,
        ):
            for each in ({}, TRACEPARENT, unwanted):
                await client.post("/v1/messages", json=ASK, headers=each)
        return spans

    (span,) = run(scenario)

    assert span.parent.span_id == int(PARENT, 16)


def test_a_provider_is_told_nothing_of_a_trace(tmp_path):
    async def scenario():
        refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}"
        async with (
            upstream(refusal) as there,
            started(tmp_path, config_for(there.url)) as gateway,
            gateway.client() as client,
        ):
            await client.post("/v1/messages", json=ASK, headers=TRACEPARENT)
            return there.requests

    ((head, _),) = run(scenario)

    assert b"x-api-key" in head
    assert b"trace" not in head.lower()


def _config(url, more=""):
    return CONFIG + f'traces: {{endpoint: "{url}"{more}}}\n'


def test_a_collector_gets_spans_when_the_gateway_stops_or_sooner(tmp_path):
    headers = ', headers: {authorization: "Bearer ${TOKEN}", x-team: a}'

    async def scenario(there):
        environ = {"TOKEN": "fake-collector-token"}
        config = _config(there.url, headers)
        async with (
            started(tmp_path, config, environ=environ) as gateway,
            gateway.client() as client,
        ):
            await client.post("/v1/messages", json=ASK, headers=TRACEPARENT)
            await until(lambda: there.spans)
            await client.post("/v1/messages", json=ASK)
            return parse((await client.get("/metrics")).text)

    with collector() as there:
        metrics = run(lambda: scenario(there))

    first, second = there.spans
    assert {*there.paths} == {"/v1/traces"}
    assert there.headers[0]["authorization"] == "Bearer fake-collector-token"
    assert there.headers[0]["x-team"] == "a"
    assert (first.name, first.trace_id.hex(), first.parent_span_id.hex()) == (
        "chat smart", TRACE, PARENT,
    )  # fmt: skip
    assert second.parent_span_id == b""
    assert attributes(first)["gen_ai.response.finish_reasons"] == ["max_tokens"]
    assert attributes(first)["gatewayctl.cost_micros"] > 0
    resource = attributes(there.resources[0].resource)
    assert (resource["service.name"], "service.version" in resource) == ("gatewayctl", True)
    assert metrics.total("gatewayctl_traces_dropped_spans_total") == 0
    bodies = b"".join(there.bodies)
    assert [word for word in (PROMPT, "fake-collector") if word.encode() in bodies] == []


@pytest.mark.parametrize("status", [401, None])
def test_a_collector_that_fails_harms_no_request_and_is_told_of_once(tmp_path, status, capfd):
    async def scenario(there):
        url = "http://127.0.0.1:1" if status is None else there.url
        async with started(tmp_path, _config(url)) as gateway, gateway.client() as client:
            answers = [await client.post("/v1/messages", json=ASK)]
            traces = gateway.services.watch.traces
            await until(lambda: traces.dropped == 1, seconds=8)
            answers.append(await client.post("/v1/messages", json=ASK))
            stopping = time.monotonic()
        return answers, time.monotonic() - stopping

    with collector() as there:
        there.status = status
        answers, took_s = run(lambda: scenario(there))

    assert [answer.status_code for answer in answers] == [200, 200]
    assert took_s < 3.5
    log = (tmp_path / "gateway.log").read_text()
    assert log.count("spans cannot be sent to http://127.0.0.1:") == 1
    assert ("Connection refused" if status is None else "401") in log
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("echoed", ["authorization", "x-team"])
def test_a_collector_that_repeats_a_header_does_not_bring_it_into_the_log(
    tmp_path, monkeypatch, echoed
):
    """Neither the config's nor the environment's."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=fake-team-token")
    headers = ', headers: {authorization: "Bearer ${TOKEN}"}'

    async def scenario(there):
        there.status, there.echo = 401, echoed
        config, environ = _config(there.url, headers), {"TOKEN": "fake-collector-token"}
        async with started(tmp_path, config, environ=environ) as gateway:
            async with gateway.client() as client:
                await client.post("/v1/messages", json=ASK)
            await until(lambda: gateway.services.watch.traces.dropped == 1)

    with collector() as there:
        run(lambda: scenario(there))

    log = (tmp_path / "gateway.log").read_text()
    assert there.headers[0]["authorization"] == "Bearer fake-collector-token"
    assert there.headers[0]["x-team"] == "fake-team-token"
    assert "Not welcome: " in log
    assert "***" in log
    assert [word for word in ("fake-collector-token", "fake-team-token") if word in log] == []


def test_a_collector_that_is_back_is_told_of(tmp_path):
    async def scenario(there):
        async with started(tmp_path, _config(there.url)) as gateway, gateway.client() as client:
            there.status = 401
            await client.post("/v1/messages", json=ASK)
            traces = gateway.services.watch.traces
            await until(lambda: traces.dropped == 1)
            there.status = 200
            await client.post("/v1/messages", json=ASK)
            await until(lambda: there.spans)

    with collector() as there:
        run(lambda: scenario(there))

    assert len(there.spans) == 1
    assert "spans are sent again; lost so far: 1" in (tmp_path / "gateway.log").read_text()


async def _record(gateway):
    """Serve a request and give what was told of it."""
    heard = []
    gateway.services.watch.feed.subscribe(heard.append)
    async with gateway.client() as client:
        await client.post("/v1/messages", json=ASK)
    await until(lambda: heard)
    return heard[0]


def test_what_others_call_an_error_is_cut_short(tmp_path):
    async def scenario():
        exporter = InMemorySpanExporter()
        traces = Traces(exporter)
        async with started(tmp_path, CONFIG) as gateway:
            record = await _record(gateway)
        closing = replace(record.closing, outcome=Outcome.UPSTREAM_ERROR, error="x" * 100_000)
        traces.take(replace(record, closing=closing))
        await traces.close()
        return exporter.get_finished_spans()

    (span,) = run(scenario)

    assert span.attributes["error.type"] == "x" * VALUE_LIMIT


class _Stuck(InMemorySpanExporter):
    """Never answers, as a collector behind a firewall that drops packets."""

    def __init__(self):
        super().__init__()
        self.over = threading.Event()

    def export(self, spans):
        self.over.wait(20)
        return SpanExportResult.FAILURE


def test_what_a_slow_collector_cannot_take_is_dropped_and_the_exit_is_not_held(tmp_path):
    async def scenario():
        async with started(tmp_path, CONFIG) as gateway:
            record = await _record(gateway)
        exporter = _Stuck()
        traces = Traces(exporter)
        for _ in range(MOST_WAITING + 5):
            traces.take(record)
        dropped, began = traces.dropped, time.monotonic()
        await traces.close()
        took_s = time.monotonic() - began
        exporter.over.set()
        return dropped, took_s

    dropped, took_s = run(scenario)

    assert dropped == 5
    assert 1.5 < took_s < 3


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ('{authorization: "${NOTHING}"}', "traces.headers.authorization: resolves to nothing"),
        ('{x-team: " ${TEAM}"}', "traces.headers.x-team: resolves to what no header can carry"),
    ],
)
def test_a_header_that_cannot_be_sent_keeps_the_gateway_from_starting(tmp_path, headers, problem):
    async def scenario():
        config = _config("http://127.0.0.1:1", f", headers: {headers}")
        async with started(tmp_path, config, environ={"TEAM": "fake-team"}):
            pass

    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        run(scenario)
    assert "fake-team" not in str(caught.value)
    assert not (tmp_path / "gateway.db").exists()


# As an installation without the extra: none of its packages can be imported.
WITHOUT = """
import json, sys
for name in ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter"):
    sys.modules[name] = None
from gatewayctl.serving import main
options = {"config": sys.argv[1], "host": None, "port": 0, "as_json": False, "colour": False}
sys.argv[1:] = [json.dumps(options)]
sys.exit(main())
"""


def test_without_the_extra_serve_says_how_to_install_it(tmp_path):
    path = lay_out(tmp_path, _config("http://127.0.0.1:1"))
    migrate(tmp_path / "gateway.db")

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 2
    assert "traces.endpoint: needs what `pip install 'gatewayctl[otel]'` adds" in done.stderr
    assert "Traceback" not in done.stderr


def test_opentelemetry_is_not_imported_unless_it_is_wanted():
    code = "import sys, server.lifecycle; print('opentelemetry' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.stdout == "False\n", done.stderr
