"""A real Claude Code works through `/claudecode` of a gateway that is a process of its own."""

import asyncio
import json

import pytest
from support.clients import TASK, TEXT, claude, kill
from support.splices import check_headers, check_spliced
from support.stages import UPSTREAM_KEY, check_agreement, config_of, serving, stage, upstream
from support.tee import tee
from support.wires import run, until

from server.presets.load import BUILTIN, load_presets

pytestmark = pytest.mark.clients

PRESET = load_presets(BUILTIN)["claudecode"].text()


@pytest.fixture
def play(tmp_path):
    """Run Claude Code on the task; give all that each side saw of it."""

    def call(path="/claudecode", prompt=TASK, **options):
        async def scenario():
            async with (
                upstream() as provider,
                serving(tmp_path / "gateway", config_of(provider)) as gateway,
                tee(gateway.url) as front,
            ):
                client = claude(
                    tmp_path / "home", front.url + path, gateway.secret, prompt, **options
                )
                done = await client.run()
                return client, done, front.requests, provider, gateway

        return run(scenario)

    return call


@pytest.mark.parametrize(
    ("auth", "path", "settings"),
    [
        ("AUTH_TOKEN", "/claudecode", {}),
        ("API_KEY", "/claudecode/v1", {"ANTHROPIC_MODEL": "auto"}),
        ("AUTH_TOKEN", "/claudecode", {"ANTHROPIC_MODEL": "claude-sonnet-4-5"}),
        ("API_KEY", "/claudecode/", {"ENABLE_PROMPT_CACHING_1H": "1"}),
        ("AUTH_TOKEN", "/claudecode", {"CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": "1"}),
        ("API_KEY", "/claudecode", {"DISABLE_PROMPT_CACHING": "1"}),
    ],
    ids=["default", "auto", "older-model", "cached-1h", "no-betas", "no-caching"],
)
def test_it_creates_a_file_and_every_call_has_its_row(play, auth, path, settings):
    client, done, sent, provider, gateway = play(path, auth=auth, **settings)

    assert (done.code, done.out) == (0, "Done: hello.txt created.\n"), done.said
    assert (client.work / "hello.txt").read_text() == TEXT
    rows = gateway.rows()
    check_agreement(rows, provider)
    assert len(rows) == len(sent) >= 4
    for request, row in zip(sent, rows, strict=True):
        body = json.loads(request.body)
        assert row["session"] == request.headers["x-claude-code-session-id"]
        assert (
            row["requested_model"]
            == body["model"]
            == settings.get("ANTHROPIC_MODEL", row["requested_model"])
        )
        assert (row["tool"], row["stream"], row["outcome"]) == ("claudecode", True, "completed")
        assert (row["model"], row["upstream_model"], row["status"]) == ("smart", "demo-smart", 200)
    assert [row["stop_reason"] for row in rows] == ["tool_use"] * (len(rows) - 1) + ["end_turn"]
    assert len({row["session"] for row in rows}) == 1
    for request, left in zip(sent, provider.tee.requests, strict=True):
        check_spliced(request, left, PRESET)
        check_headers(request, left, secret=gateway.secret, upstream_key=UPSTREAM_KEY)


@pytest.mark.parametrize("hour", [{}, {"ENABLE_PROMPT_CACHING_1H": "1"}], ids=["5m", "1h"])
def test_it_reads_its_prompt_from_the_cache_from_the_second_turn_on(play, hour):
    """The preset breaks no prefix: each turn reads all that the turn before had written."""
    _, _, _, _, gateway = play(prompt=f'{TASK} Then create b.txt containing "b".', **hour)

    written = "cache_write_1h_tokens" if hour else "cache_write_5m_tokens"
    rows, cached = gateway.rows(), 0
    assert len(rows) >= 5
    for row in rows:
        assert row["cache_read_input_tokens"] == cached
        cached += row[written]
    assert rows[0][written] > 10 * max(row[written] for row in rows[1:])


def test_two_people_at_once_have_their_own_rows(tmp_path):
    async def scenario():
        async with stage(tmp_path / "gateway") as (provider, gateway):
            url, clients = f"{gateway.url}/claudecode", []
            for member in ("ada", "bob"):
                _, secret = await gateway.mint(member=member)
                clients.append(claude(tmp_path / member, url, secret))
            done = await asyncio.gather(*(client.run() for client in clients))
            return clients, done, await gateway.rows(), provider

    clients, done, rows, provider = run(scenario)

    assert [each.code for each in done] == [0, 0]
    assert [(client.work / "hello.txt").read_text() for client in clients] == [TEXT, TEXT]
    check_agreement(rows, provider)
    sessions = {(row["member"], row["session"]) for row in rows}
    assert sorted(member for member, _ in sessions) == ["ada", "bob"]


def test_killed_amid_a_stream_it_leaves_no_open_call_and_one_row(tmp_path):
    async def scenario():
        async with (
            asyncio.timeout(60),  # a gateway that holds on to the call would wait for its end
            stage(tmp_path / "gateway", model="fault:endless") as (provider, gateway),
        ):
            journal = provider.server.journal
            client = claude(tmp_path / "home", f"{gateway.url}/claudecode", gateway.secret)
            async with client.started() as process:
                await until(lambda: _is_streaming(provider), 30)
                kill(process)
                await until(lambda: _is_idle(journal, gateway), 1)
            return await until(lambda: _settled(gateway)), provider.entries

    (row,), (entry,) = run(scenario)

    assert entry.outcome in ("client_gone", "fault")
    assert (row["outcome"], row["status"], row["error"]) == ("cancelled", 200, None)
    assert row["input_tokens"] + row["cache_write_5m_tokens"] > 10_000
    assert row["output_tokens"] >= 50
    assert row["estimated"]


async def _is_streaming(provider):
    return any(entry.events > 50 for entry in provider.entries)


async def _is_idle(journal, gateway):
    return not journal.open and not gateway.gateway.pumps


async def _settled(gateway):
    return [row for row in await gateway.rows() if row["state"] == "settled"]
