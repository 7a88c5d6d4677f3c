"""Real coding tools while a provider limps, and while the gateway itself goes away."""

import asyncio
import signal
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from support.clients import TASK, TEXT, claude, cline, opencode
from support.gateways import started
from support.priced import check_books, prepare_money, process, table
from support.stages import UPSTREAM_KEY, check_agreement, config_of, stage, upstream
from support.tee import tee
from support.wires import http_answer, run, until

from server.config.schema import UsageLimits

pytestmark = pytest.mark.clients

LIMPS = ("unavailable", "overloaded", "reset", "error-first", "slow:30")
CLAUDE = (claude, "/claudecode", {})
TOOLS = [
    *((*CLAUDE, fault) for fault in LIMPS),
    (cline, "/cline/v1", {}, "overloaded"),
    (opencode, "/v1", {"package": "@ai-sdk/openai-compatible"}, "reset"),
]
LIMITED = http_answer(429, {"error": {}}, "retry-after: 1", "connection: close")
PACE = 8  # words a second: an answer takes long enough to be cut


def _two_targets(first, second, fault):
    """Write a config whose model has a target that limps, and one that walks behind it."""
    upstreams = "".join(
        f'  {name}-{spoken}: {{protocol: {spoken}, base_url: "{each.tee.url}{path}", '
        f"api_key: {UPSTREAM_KEY}, timeouts: {{first_byte_s: 0.5}}}}\n"
        for name, each in (("limps", first), ("walks", second))
        for spoken, path in (("anthropic", ""), ("openai", "/v1"))
    )
    models = "".join(
        f'  {spoken}: {{targets: [{{upstream: limps-{spoken}, model: "fault:{fault}"}}, '
        f"{{upstream: walks-{spoken}, model: demo-smart, order: 2}}], price: {{input: "
        '"4.00", output: "20.00", cache_read: "0.40", per_request: {web_search: "0.01"}}}\n'
        for spoken in ("anthropic", "openai")
    )
    return f"""
upstreams:
{upstreams}
models:
{models}
aliases: {{"claude-*": anthropic}}
auto: {{default: openai}}
tiers: {{team: {{name: Team, price_cents: 2000}}}}
routing: {{breaker_failures: null}}
"""


@pytest.mark.parametrize(
    ("tool", "path", "options", "fault"),
    TOOLS,
    ids=[f"{tool.__name__}-{fault}" for tool, _, _, fault in TOOLS],
)
def test_it_notices_nothing_of_a_target_that_limps(tmp_path, tool, path, options, fault):
    """Each request is one for the client and in the books, served and counted by the other."""
    folder = tmp_path / "gateway"
    folder.mkdir()

    async def scenario():
        async with (
            upstream() as first,
            upstream() as second,
            started(folder, _two_targets(first, second, fault)) as gateway,
            tee(gateway.url) as front,
        ):
            home, url = tmp_path / "home", front.url + path
            client = tool(home, url, gateway.secret, TASK, **options)
            done = await client.run()
            return client, done, front.requests, await gateway.rows(), first.entries, second

    client, done, sent, rows, limped, second = run(scenario)

    assert done.code == 0, done.said
    assert done.out.replace("\x1b[0m", "").strip().endswith("Done: hello.txt created.")
    assert (client.work / "hello.txt").read_text() == TEXT
    assert len(sent) == len(rows) >= 4
    assert {(row["status"], row["outcome"]) for row in rows} == {(200, "completed")}
    assert {row["upstream"].split("-")[0] for row in rows} == {"walks"}
    # One that resets a kept connection is asked once more.
    assert len(limped) >= len(rows)
    check_agreement(rows, second)
    check_books(folder)


@asynccontextmanager
async def _limited_at_first(url):
    """Answer one request with a 429; pass what comes later on to `url`."""
    answers, target = [LIMITED], urlsplit(url)

    async def serve(reader, writer):
        if answers:
            head = await reader.readuntil(b"\r\n\r\n")
            _, _, rest = head.lower().partition(b"content-length: ")
            await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            writer.write(answers.pop())
        else:
            there, back = await asyncio.open_connection(target.hostname, target.port)
            await asyncio.gather(_pass(reader, back), _pass(there, writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def _pass(reader, writer):
    try:
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def test_claude_code_does_not_see_a_limit_that_is_over_in_a_second(tmp_path):
    folder = tmp_path / "gateway"
    folder.mkdir()

    async def scenario():
        async with upstream() as provider, _limited_at_first(provider.tee.url) as url:
            text = config_of(provider).replace(provider.tee.url, url)
            text = text.replace(', {upstream: chat, model: "demo-smart"}', "")
            async with (
                started(folder, text + "routing: {}\n") as gateway,
                tee(gateway.url) as front,
            ):
                home = tmp_path / "home"
                done = await claude(home, f"{front.url}/claudecode", gateway.secret).run()
                return done, front.requests, await gateway.rows(), provider

    done, sent, rows, provider = run(scenario)

    assert (done.code, done.out) == (0, "Done: hello.txt created.\n"), done.said
    assert len(sent) == len(rows) >= 4
    assert rows[0]["first_byte_ms"] >= 1000
    assert [row["attempts"] is None for row in rows] == [False, *[True] * (len(rows) - 1)]
    check_agreement(rows, provider)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drain", "kill"])
def test_claude_code_goes_on_after_a_restart_in_the_middle_of_its_task(tmp_path, number):
    """What was cut is in the books as such; what it asks then is served by the next process."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    words = ("serve", "--config", str(folder / "config.yaml"), "--port")

    async def scenario():
        async with upstream(pace_words_per_s=PACE) as provider:
            text = config_of(provider) + "server: {drain_s: 1}\n"
            secret = prepare_money(folder, text, micros=100_000_000, tier="team")["pay_per_token"]

            async def is_amid_the_second():
                return sum(entry.events > 3 for entry in provider.entries) >= 2

            async with process(*words, "0") as gateway:
                client = claude(tmp_path / "home", f"{gateway.url}/claudecode", secret)
                task = asyncio.create_task(client.run())
                await until(is_amid_the_second, 20)
                await gateway.end(number)
            async with process(*words, str(urlsplit(gateway.url).port)) as second:
                done = await task
                assert await second.end() == 0
            return done

    done = run(scenario)

    assert done.code == 0, done.said
    rows = check_books(folder)
    cut = "cancelled" if number == signal.SIGTERM else "interrupted"
    assert [row["outcome"] for row in rows[:3]] == ["completed", cut, "completed"]
    assert {row["outcome"] for row in rows[3:]} <= {"completed"}
    assert all(row["cost_micros"] > 0 for row in rows)
    assert {each["instance_id"] for each in table(folder, "SELECT * FROM request")} == {1, 2}


@pytest.mark.parametrize(
    "tool", [CLAUDE, *[each[:3] for each in TOOLS[-2:]]], ids=lambda e: e[0].__name__
)
def test_a_cap_that_is_used_up_is_told_at_once_with_what_can_be_done(tmp_path, tool):
    make, path, options = tool

    async def scenario():
        async with stage(tmp_path / "gateway") as (_, gateway), tee(gateway.url) as front:
            _, secret = await gateway.mint(limited=UsageLimits(monthly_usd="0.01"))
            client = make(tmp_path / "home", front.url + path, secret, TASK, **options)
            return await client.run(), len(front.requests), await gateway.rows()

    done, asked, rows = run(scenario)

    assert done.code == 1
    assert "The monthly cap of $0.01 has no room for this request: $0.0" in done.said
    assert "the operator can raise the cap with `gatewayctl keys limit`." in done.said
    # opencode asks for a title too, for which there may be room.
    assert len(rows) < asked <= 2
