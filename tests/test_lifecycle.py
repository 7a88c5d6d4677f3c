"""A gateway over time: TLS, exposure, presets that change, a database that is locked."""

import asyncio
import json
import logging
import re
import resource
import socket
import sqlite3
import time
from contextlib import closing
from datetime import timedelta

import httpx
import pytest
import trustme
from support.certificates import certify
from support.gateways import DEMO_CONFIG, config_for, lay_out, started
from support.wires import ASK, MESSAGE, http_answer, recording, request, run, until, wire

from server.config.load import load
from server.config.schema import Server, Tls
from server.errors import ConfigError
from server.lifecycle import OPEN_MAX, file_limit, running
from server.listening import exposure
from server.routes.services import Deadlines
from server.store.models import Key, database

BODY = json.dumps(ASK).encode()
TLS = DEMO_CONFIG + "server: {tls: {cert: tls/cert.pem, key: tls/key.pem}}\n"


def test_a_certificate_of_ones_own_is_served_and_verified(tmp_path):
    context = certify(tmp_path)

    async def scenario():
        async with started(tmp_path, TLS) as gateway:
            async with gateway.client(verify=context) as client:
                answers = [
                    await client.get("/healthz"),
                    await client.post("/v1/messages", json=ASK),
                    await client.post("/v1/messages", json={**ASK, "stream": True}),
                    await client.post("/v1/messages", content=b"x" * 34_000_000),
                ]
            async with httpx.AsyncClient(base_url=gateway.url) as stranger:
                with pytest.raises(httpx.ConnectError, match="certificate"):
                    await stranger.get("/healthz")
            return gateway.url, answers

    url, answers = run(scenario)

    assert url.startswith("https://127.0.0.1:")
    assert [answer.status_code for answer in answers] == [200, 200, 200, 413]
    assert answers[2].text.endswith("\n\n")


def test_over_tls_a_hang_up_cancels_and_a_stalled_body_ends(tmp_path):
    context = certify(tmp_path)

    async def scenario():
        async with (
            recording(None) as upstream,
            started(
                tmp_path,
                config_for(upstream.url, more=TLS.removeprefix(DEMO_CONFIG)),
                deadlines=Deadlines(body_s=0.2, discard_s=0.2),
            ) as gateway,
        ):
            body = BODY[:-1] + b', "x": "' + b"y" * 70_000 + b'"}'
            post = request("POST", "/v1/messages", body, x_api_key=gateway.secret)
            async with wire(gateway.url, context) as connection:
                await connection.send(post)
                await until(lambda: _is(upstream.open))
                connection.writer.transport.abort()
                await until(lambda: _is(not upstream.open), 1)
            async with wire(gateway.url, context) as connection:
                stalled = await connection.ask(post[:-10])
                await until(lambda: _is(not gateway.running.connections), 3)
            return stalled

    assert run(scenario).status == 400


async def _is(value):
    return value


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half"])
def test_over_tls_who_does_not_shake_hands_has_no_more_time_than_for_a_head(tmp_path, sent):
    context = certify(tmp_path)

    async def scenario():
        async with started(tmp_path, TLS, deadlines=Deadlines(head_s=0.2)) as gateway:
            async with wire(gateway.url) as stalled:
                await stalled.send(sent)
                end = await stalled.end()
            async with wire(gateway.url, context) as connection:
                return end, await connection.ask(request("GET", "/healthz"))

    end, reply = run(scenario)

    assert (end, reply.status) == ("fin", 200)
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


@pytest.mark.parametrize("damage", ["missing", "garbage", "other key"])
def test_a_certificate_that_cannot_be_used_is_a_config_error(tmp_path, damage):
    certify(tmp_path)
    key = tmp_path / "tls" / "key.pem"
    if damage == "missing":
        key.unlink()
    elif damage == "garbage":
        key.write_text("garbage")
    else:
        key.unlink()
        trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(key)
    settings = load(lay_out(tmp_path, TLS))

    async def scenario():
        async with running(settings, port=0, environ={}):
            pass

    with pytest.raises(ConfigError, match=r"server\.tls") as failure:
        run(scenario)

    assert failure.value.file == settings.path
    assert not settings.database_path.exists()


def test_a_log_that_cannot_be_written_is_a_config_error(tmp_path):
    settings = load(lay_out(tmp_path, DEMO_CONFIG + "log: {file: presets}\n"))

    async def scenario():
        async with running(settings, port=0, environ={}):
            pass

    with pytest.raises(ConfigError, match=r"log\.file: .*presets cannot be written"):
        run(scenario)


@pytest.mark.parametrize(
    ("server", "host", "is_exposed"),
    [
        (Server(), "127.0.0.1", False),
        (Server(), "127.8.9.1", False),
        (Server(), "::1", False),
        (Server(), "0.0.0.0", True),
        (Server(), "::", True),
        (Server(), "192.168.1.7", True),
        (Server(tls=Tls(cert="c", key="k")), "0.0.0.0", False),
        (Server(trusted_proxies=("10.0.0.1",)), "0.0.0.0", False),
    ],
)
def test_listening_beyond_loopback_without_tls_or_a_proxy_is_worth_a_warning(
    server, host, is_exposed
):
    said = exposure(server, host)

    assert (said is not None) is is_exposed
    assert said is None or "server.tls" in said


def test_the_warning_is_logged_and_handed_to_who_waits_for_ready(tmp_path):
    async def scenario():
        async with started(tmp_path, DEMO_CONFIG, host="0.0.0.0") as gateway:
            return gateway.running.warnings

    (warning,) = run(scenario)

    assert warning.startswith("0.0.0.0 can be reached from other machines")
    assert warning in (tmp_path / "gateway.log").read_text()


def _preset(text, model="null"):
    return f"tool: claudecode\nversion: 9\nsystem: |\n  {text}\nmodel: {model}\n"


def test_presets_reload_for_the_next_request_and_a_broken_edit_changes_nothing(tmp_path, caplog):
    """What cannot be used is told once, with its place."""
    caplog.set_level(logging.INFO)

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url), reload_every_s=0.1) as gateway,
            gateway.client() as client,
        ):
            preset = tmp_path / "presets" / "claudecode.yaml"

            async def sends(text):
                await client.post("/claudecode/v1/messages", json=ASK)
                return text in upstream.bodies[-1].decode()

            preset.write_text(_preset("First words."))
            await until(lambda: sends("First words."), 3)
            preset.write_text("tool: claudecode\nversion: [\n")
            await until(lambda: _is("not reloaded" in caplog.text), 3)
            await asyncio.sleep(0.6)  # more looks at the same broken file
            kept = await sends("First words.")
            preset.write_text(_preset("Second words."))
            await until(lambda: sends("Second words."), 3)
            return kept

    assert run(scenario)
    errors = [record for record in caplog.records if "not reloaded" in record.message]
    assert len(errors) == 1
    assert re.search(r"claudecode\.yaml:\d+", errors[0].message)


@pytest.mark.parametrize("kind", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_database_is_a_503_and_the_event_loop_goes_on(tmp_path, kind):
    """Never a 401, 402 or 403; and nothing leaves that could not be written down."""

    async def scenario():
        async with (
            recording(http_answer(200, MESSAGE)) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
            gateway.client() as client,
        ):
            # The writer's own patience is five seconds; a test has less.
            await gateway.services.store.write(
                lambda: database.execute_sql("PRAGMA busy_timeout = 300")
            )
            with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
                other.execute(f"BEGIN {kind}")
                pending = [
                    asyncio.create_task(client.post(path, json=ASK))
                    for path in ("/v1/messages", "/v1/chat/completions", "/cline/messages")
                ]
                slowest = await _slowest_health(client, pending)
                refused = [await task for task in pending]
                reading = (await client.get("/tenant/keys")).status_code
                creating = (await client.post("/tenant/keys", json={"name": "x"})).status_code
                other.execute("ROLLBACK")
            after = await until(lambda: _served(client), 5)
            await until(lambda: _settled(gateway))
            return slowest, refused, reading, creating, after, upstream.bodies

    slowest, refused, reading, creating, after, forwarded = run(scenario)

    assert [answer.status_code for answer in refused] == [503, 503, 503]
    assert refused[0].json()["error"]["type"] == "overloaded_error"
    assert refused[0].headers["retry-after"] == "1"
    assert "x-should-retry" not in refused[0].headers
    assert (reading, creating) == (200, 503)
    assert slowest < 1
    assert after.status_code == 200
    assert len(forwarded) == 1


async def _slowest_health(client, pending):
    slowest = 0.0
    while not all(task.done() for task in pending):
        begun = time.monotonic()
        assert (await client.get("/healthz")).status_code == 200
        slowest = max(slowest, time.monotonic() - begun)
        await asyncio.sleep(0.02)
    return slowest


async def _served(client):
    answer = await client.post("/v1/messages", json=ASK)
    return answer if answer.status_code == 200 else None


async def _settled(gateway):
    return all(row["state"] == "settled" for row in await gateway.rows())


def test_a_database_that_is_locked_while_a_request_runs_still_gets_its_row(tmp_path):
    async def scenario():
        async with (
            recording(None) as upstream,
            started(tmp_path, config_for(upstream.url)) as gateway,
        ):
            await gateway.services.store.write(
                lambda: database.execute_sql("PRAGMA busy_timeout = 100")
            )
            with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
                async with wire(gateway.url) as connection:
                    await connection.send(
                        request("POST", "/v1/messages", BODY, x_api_key=gateway.secret)
                    )
                    await until(lambda: _is(upstream.open))
                    other.execute("BEGIN IMMEDIATE")
                await until(lambda: _is(not gateway.gateway.pumps))
                other.execute("ROLLBACK")
            await until(lambda: _settled(gateway))
            return await gateway.rows()

    assert [row["outcome"] for row in run(scenario)] == ["cancelled"]


def test_the_use_of_a_key_is_noted_at_most_once_a_minute(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:

            async def last_used():
                return await gateway.services.store.read(lambda: Key.get().last_used_at)

            for _ in range(5):
                await client.get("/v1/models")
            first = await until(last_used)
            await client.post("/v1/messages", json=ASK)
            return first, await last_used(), gateway.services.started_at

    first, second, started_at = run(scenario)

    assert first == second
    assert first >= started_at - timedelta(seconds=1)


def test_a_request_that_the_drain_cuts_before_its_answer_is_told_to_come_back(tmp_path, caplog):
    """It is no bug of ours: neither a 500 nor a traceback."""

    async def scenario():
        async with recording(None) as upstream:
            config = config_for(upstream.url, more="server: {drain_s: 0.1}\n")
            async with started(tmp_path, config) as gateway:
                client = gateway.client()
                asked = asyncio.create_task(client.post("/v1/messages", json=ASK))
                await until(lambda: _is(upstream.open == 1))
            answer = await asked
            await client.aclose()
            return answer

    answer = run(scenario)

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["type"] == "overloaded_error"
    assert "Traceback" not in caplog.text


def test_after_the_end_the_port_and_the_lock_are_free(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            port = int(gateway.url.rpartition(":")[2])
        async with started(tmp_path, port=port) as again:
            return port, again.url

    port, url = run(scenario)

    assert url == f"http://127.0.0.1:{port}"
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


def test_as_many_files_may_be_open_as_the_system_allows(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario():
        async with started(tmp_path):
            return resource.getrlimit(resource.RLIMIT_NOFILE)

    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        raised = run(scenario)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert raised == (file_limit(256, hard), hard)
    assert raised[0] > 256


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (256, 4096, 4096),
        (4096, 4096, 4096),
        (256, resource.RLIM_INFINITY, OPEN_MAX),
        (20_000, resource.RLIM_INFINITY, 20_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY),
    ],
)
def test_an_unlimited_number_of_files_is_asked_for_in_figures(soft, hard, wanted):
    """macOS says that there is no limit, and refuses to set none."""
    assert file_limit(soft, hard) == wanted
