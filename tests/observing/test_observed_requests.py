"""A mixed run over real sockets: every request has one line, one row and one place in a metric."""

import asyncio
import json
import socket
from collections import Counter

import pytest
from support.gateways import started
from support.prometheus import parse
from support.raw_upstream import until
from support.wires import request, run, wire

from server.tenants import secrets

CONFIG = """
upstreams:
  demo: {protocol: demo}
models:
  smart: {targets: [{upstream: demo, model: demo-smart}], price: {input: "4.00", output: "20.00"}}
  cut: {targets: [{upstream: demo, model: "fault:cut"}], price: {input: "4.00", output: "20.00"}}
  busy: {targets: [{upstream: demo, model: "fault:overloaded"}], free: true}
  endless: {targets: [{upstream: demo, model: "fault:endless"}], free: true}
aliases: {"claude-*": smart}
auto: {default: smart}
tiers: {team: {name: Team, price_cents: 2000}}
"""
PROMPT = "the-word-that-nobody-may-keep"
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/chat/completions"}
ASK = {"max_tokens": 40, "messages": [{"role": "user", "content": PROMPT}]}
LINE_KEYS = {
    "at", "request_id", "client", "key_id", "tenant", "member", "tool", "protocol", "method",
    "path", "requested_model", "model", "upstream", "upstream_model", "upstream_request_id",
    "attempts", "stream", "status", "outcome", "error", "stop_reason", "input_tokens",
    "cache_read_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "estimated", "cost_micros", "quota_tokens", "hold_ms", "first_byte_ms", "duration_ms",
    "sent_bytes",
}  # fmt: skip
OF_THE_ROW = (
    "member", "tool", "protocol", "requested_model", "model", "upstream", "upstream_model",
    "upstream_request_id", "stream", "status", "outcome", "error", "stop_reason", "input_tokens",
    "cache_read_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens",
    "estimated", "cost_micros", "quota_tokens", "first_byte_ms", "duration_ms",
)  # fmt: skip


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """Send requests that end in every way, and read what was written down of them."""
    folder = tmp_path_factory.mktemp("observed")
    return run(lambda: _observe(folder))


async def _observe(folder):
    async with started(folder, CONFIG) as gateway:
        key_id, secret = await gateway.mint(member="ana")
        _, poor = await gateway.mint()
        statuses = await _ask_for_all(gateway, secret)
        refused = await _be_refused(gateway, poor)
        await until(lambda: not gateway.gateway.pumps)
        await gateway.services.store.write(lambda: None)  # what is queued is committed
        async with gateway.client() as client:
            scraped = await client.get("/metrics")
        rows = await gateway.rows()
    text = (folder / "access.log").read_text()
    found = {"rows": rows, "text": text, "scraped": scraped, "statuses": statuses}
    found["lines"] = [json.loads(line) for line in text.splitlines()]
    found["metrics"] = parse(scraped.text)
    return found | {"refused": refused, "key_id": key_id, "secrets": (secret, poor, gateway.secret)}


async def _ask_for_all(gateway, secret):
    statuses = []
    async with gateway.client(secret) as client:
        for model in ("smart", "cut", "busy", "claude-x", "auto"):
            for path in (*PATHS.values(), "/cline/v1/messages"):
                for stream in (False, True):
                    ask = ASK | {"model": model, "stream": stream}
                    answer = await client.post(path, json=ask)
                    statuses.append(answer.status_code)
        for path in PATHS.values():  # a client that hangs up in the middle
            ask = ASK | {"model": "endless", "stream": True}
            async with client.stream("POST", path, json=ask) as answer:
                await anext(answer.aiter_raw())
    return statuses


async def _be_refused(gateway, secret):
    """Be refused in many ways; give the status and the path of each."""
    body = json.dumps(ASK | {"model": "smart"}).encode()
    good, bad = {"x_api_key": secret}, {"x_api_key": secrets.generate()}
    unknown = json.dumps(ASK | {"model": "unknown"}).encode()
    asked = [
        request("POST", "/v1/messages?key=hidden", body, **bad),
        request("POST", "/v1/chat/completions", body),
        request("POST", "/v1/messages", b"{", **good),
        request("POST", "/v1/messages", unknown, **good),
        request("GET", "/nowhere", **good),
        request("GET", "/v1/messages", **good),
        request("GET", f"/{secret}/v1/messages", **good),
        request("GET", "/tenant/keys/key_unknown", **good),
    ]
    replies = []
    for each in asked:
        async with wire(gateway.url) as connection:
            replies.append(await connection.ask(each))
    return Counter(reply.status for reply in replies)


def test_each_row_has_one_line_that_says_the_same(observed):
    rows = {row["request_id"]: row for row in observed["rows"]}
    lines = {line["request_id"]: line for line in observed["lines"] if line["outcome"] != "refused"}

    assert len(rows) == 32
    assert rows.keys() == lines.keys()
    for made, line in lines.items():
        for name in OF_THE_ROW:
            assert line.get(name) == rows[made][name], name
        assert (line["key_id"], line["client"], line["attempts"]) == (
            observed["key_id"], "127.0.0.1", 1,
        )  # fmt: skip
        assert line["tenant"].startswith("tnt_")
        assert 0 <= line["hold_ms"] <= line["duration_ms"]
    assert Counter(line["outcome"] for line in lines.values()) == {
        "completed": 18, "upstream_error": 12, "cancelled": 2,
    }  # fmt: skip


def test_what_never_left_has_a_line_too(observed):
    lines = [line for line in observed["lines"] if line["outcome"] == "refused"]

    assert Counter(line["status"] for line in lines) == observed["refused"]
    assert observed["refused"] == {401: 2, 400: 1, 404: 4, 405: 1}
    by_path = {(line["path"], line["error"]) for line in lines}
    assert by_path == {
        ("/v1/messages", "invalid_api_key"),
        ("/v1/chat/completions", "invalid_api_key"),
        ("/v1/messages", "invalid_request"),
        ("/v1/messages", "model_not_found"),
        ("/nowhere", "not_found"),
        ("/v1/messages", "method_not_allowed"),
        ("/***/v1/messages", "not_found"),
        ("/tenant/keys/key_unknown", "not_found"),
    }
    for line in lines:
        known = line["error"] in ("invalid_request", "model_not_found") or "tenant" in line["path"]
        assert ("key_id" in line, "tenant" in line) == (known, known)


def test_no_line_says_more_than_it_should(observed):
    for line in observed["lines"]:
        assert line.keys() <= LINE_KEYS
    for secret in (PROMPT, "hidden", *observed["secrets"]):
        assert secret not in observed["text"]
        assert secret not in observed["scraped"].text


def test_what_clients_were_given_is_counted_in_bytes(observed):
    done = [line for line in observed["lines"] if line["outcome"] == "completed"]

    assert all(line["sent_bytes"] > 100 for line in done)
    refused = [line for line in observed["lines"] if line.get("model") == "busy"]
    assert {line["sent_bytes"] for line in refused} == {0}


def test_metrics_count_as_the_rows_do(observed):
    metrics, rows = observed["metrics"], observed["rows"]
    counted = Counter((row["outcome"], row["model"], row["protocol"]) for row in rows)

    for (outcome, model, protocol), count in counted.items():
        found = metrics.total(
            "gatewayctl_requests_total", outcome=outcome, model=model, protocol=protocol
        )
        assert found == count
    assert metrics.total("gatewayctl_requests_total") == len(rows)
    assert metrics.total("gen_ai_client_operation_duration_seconds_count") == len(rows)
    cost = sum(row["cost_micros"] for row in rows)
    assert cost > 0
    assert metrics.total("gatewayctl_cost_micros_total") == cost
    for name in ("input_tokens", "output_tokens"):
        label = name.removesuffix("_tokens")
        total = sum(row[name] for row in rows)
        assert metrics.total("gatewayctl_tokens_total", **{"class": label}) == total
    tokens = [f"{name}_tokens" for name in ("input", "cache_read_input", "cache_write_5m")]
    usage, read = "gen_ai_client_token_usage_sum", sum(row[name] for row in rows for name in tokens)
    assert metrics.total(usage, gen_ai_token_type="input") == read
    assert metrics.total(usage, gen_ai_token_type="output") == total
    streamed = [r for r in rows if r["stream"] and r["outcome"] == "completed"]
    first = "gen_ai_server_time_to_first_token_seconds_count"
    assert metrics.total(first) == len(streamed)
    assert metrics.total("gatewayctl_refusals_total") == sum(observed["refused"].values())


def test_metrics_tell_how_the_process_is(observed):
    metrics = observed["metrics"]

    for name in ("requests_in_flight", "streams_open", "holds_open", "held_micros"):
        assert metrics.total(f"gatewayctl_{name}") == 0, name
    assert metrics.kinds["gatewayctl_event_loop_lag_seconds"] == "histogram"
    assert metrics.total("gatewayctl_store_commit_duration_seconds_count") > len(observed["rows"])
    assert metrics.total("gatewayctl_store_queue_length") == 0
    assert metrics.total("gatewayctl_access_log_dropped_lines_total") == 0
    assert metrics.total("gatewayctl_build_info") == 1
    assert metrics.values("gatewayctl_build_info", "version") != {None}
    assert metrics.total("process_start_time_seconds") > 1_700_000_000


def test_open_streams_and_their_holds_are_seen(tmp_path):
    async def scenario():
        ask = ASK | {"model": "endless", "stream": True}
        config = CONFIG.replace(
            '"fault:endless"}], free: true',
            '"fault:endless"}], price: {input: "4.00", output: "20.00"}',
        )
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            async with client.stream("POST", "/v1/messages", json=ask) as answer:
                pieces = answer.aiter_raw()  # without a name it would be closed at once
                await anext(pieces)
                during = parse((await client.get("/metrics")).text)
            await until(lambda: not gateway.gateway.pumps)
            await until(lambda: gateway.services.open_streams == 0)
            await gateway.services.store.write(lambda: None)
            return during, parse((await client.get("/metrics")).text)

    during, after = run(scenario)

    for name in ("requests_in_flight", "streams_open", "holds_open"):
        assert during.total(f"gatewayctl_{name}") == 1, name
        assert after.total(f"gatewayctl_{name}") == 0, name
    assert during.total("gatewayctl_held_micros") > 0
    assert after.total("gatewayctl_requests_total", outcome="cancelled") == 1


def test_even_a_head_that_cannot_be_read_has_a_line(tmp_path):
    async def scenario():
        async with started(tmp_path, CONFIG) as gateway:
            for head in (b"NONSENSE\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nodd : 1\r\n\r\n"):
                async with wire(gateway.url) as connection:
                    await connection.ask(head)

    run(scenario)

    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [(line["client"], line["path"], line["status"]) for line in lines] == [
        ("127.0.0.1", "/", 400),
        ("127.0.0.1", "/v1/models", 400),
    ]


def test_a_full_disk_harms_no_request(tmp_path):
    async def scenario():
        config = CONFIG + "log: {access: /dev/full}\n"
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            answers = [await client.post("/v1/messages", json=ASK | {"model": "smart"})]
            await until(lambda: gateway.services.watch.access_log.dropped == 1)
            answers.append(await client.post("/v1/messages", json=ASK | {"model": "smart"}))
            await until(lambda: gateway.services.watch.access_log.dropped == 2)
            return answers, parse((await client.get("/metrics")).text)

    answers, metrics = run(scenario)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert metrics.total("gatewayctl_access_log_dropped_lines_total") == 2
    log = (tmp_path / "gateway.log").read_text()
    assert log.count("the access log cannot be written (No space left on device)") == 1


def test_no_access_log_is_kept_where_none_is_wanted(tmp_path):
    async def scenario():
        config = CONFIG + "log: {access: null}\n"
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            await client.post("/v1/messages", json=ASK | {"model": "smart"})
            return parse((await client.get("/metrics")).text)

    metrics = run(scenario)

    assert metrics.total("gatewayctl_requests_total") == 1
    assert "gatewayctl_access_log_dropped_lines_total" not in metrics
    assert not (tmp_path / "access.log").exists()


def test_a_client_behind_a_trusted_proxy_is_named_in_its_line(tmp_path):
    async def scenario():
        config = CONFIG + 'server: {trusted_proxies: ["127.0.0.1"]}\n'
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            forwarded = {"x-forwarded-for": "203.0.113.9, 198.51.100.4"}
            ask = ASK | {"model": "smart"}
            await client.post("/v1/messages", json=ask, headers=forwarded)
            await client.post("/v1/messages", json=ask)

    run(scenario)

    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert [line["client"] for line in lines] == ["198.51.100.4", "127.0.0.1"]


def other_address():
    """Find an address of this machine that is not loopback; None where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing
        except OSError:
            return None
        address = probe.getsockname()[0]
    return None if address.startswith("127.") else address


async def _status(host, port, **headers):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request("GET", "/metrics", **headers))
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1])


def test_metrics_are_for_this_machine_alone_whatever_a_client_says(tmp_path):
    outside = other_address()
    if outside is None:
        pytest.skip("this machine has no other address")
    claims = [
        {"x_forwarded_for": "127.0.0.1"},
        {"x_real_ip": "127.0.0.1"},
        {"forwarded": "for=::1"},
    ]

    async def scenario():
        async with started(tmp_path, CONFIG, host="0.0.0.0") as gateway:
            port = int(gateway.url.rpartition(":")[2])
            local = await _status("127.0.0.1", port)
            spoofed = [await _status(outside, port, **claim) for claim in ({}, *claims)]
            forwarded = [await _status("127.0.0.1", port, **claim) for claim in claims]
            return local, spoofed, forwarded

    local, spoofed, forwarded = run(scenario)

    assert local == 200
    assert spoofed == [404] * 4
    assert forwarded == [404] * 3  # through a proxy on this machine, whoever wrote the header


@pytest.mark.parametrize("proxies", ["[]", '["127.0.0.1"]', '["0.0.0.0/0"]'])
def test_trusting_a_proxy_opens_nothing(tmp_path, proxies):
    outside = other_address()
    if outside is None:
        pytest.skip("this machine has no other address")

    async def scenario():
        config = f"{CONFIG}server: {{trusted_proxies: {proxies}}}\n"
        async with started(tmp_path, config, host="0.0.0.0") as gateway:
            port = int(gateway.url.rpartition(":")[2])
            claim = {"x_forwarded_for": "127.0.0.1, 127.0.0.1"}
            return [
                await _status(outside, port, **claim),
                await _status("127.0.0.1", port, **claim),
                await _status("127.0.0.1", port),
            ]

    assert run(scenario) == [404, 404, 200]


def test_metrics_can_be_opened_to_all(tmp_path):
    host = other_address() or "127.0.0.1"

    async def scenario():
        config = CONFIG + "server: {metrics: all}\n"
        async with started(tmp_path, config, host="0.0.0.0") as gateway:
            port = int(gateway.url.rpartition(":")[2])
            return await _status(host, port), await _status(host, port, x_forwarded_for="1.2.3.4")

    assert run(scenario) == (200, 200)


def test_metrics_come_in_the_text_format_and_head_has_no_body(observed, tmp_path):
    async def scenario():
        async with started(tmp_path, CONFIG) as gateway, wire(gateway.url) as connection:
            return await connection.ask(request("HEAD", "/metrics"), head_only=True)

    head = run(scenario)

    kind = "text/plain; version=0.0.4; charset=utf-8"
    assert (head.status, head.header("content-type")) == (200, kind)
    assert observed["scraped"].headers["content-type"] == kind
    assert observed["scraped"].headers["request-id"].startswith("req_")
