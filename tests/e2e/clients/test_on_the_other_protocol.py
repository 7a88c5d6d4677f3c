"""Real coding tools do a task of several steps on a provider of a protocol they do not speak."""

import pytest
from support.clients import TASK, TEXT, claude, cline, codex, opencode
from support.gateways import started
from support.priced import check_books
from support.stages import check_agreement, crossed, upstream
from support.tee import tee
from support.wires import run

from server.presets.load import BUILTIN, load_presets

pytestmark = pytest.mark.clients

TWO_FILES = f'{TASK} Then create notes.txt containing "two".'
STEPS = 6  # look around, write and read back two files, say so
LINES = "Create a file lines.txt with:\n```\none\n+two\n```"
ALIAS = 'aliases: {"gpt-*": demo-smart}\n'
ANTHROPIC_ONLY = (b'"cache_control"', b"x-anthropic-billing-header", b'"context_management"')


@pytest.fixture
def play(tmp_path):
    """Run a tool on a provider that speaks `spoken` alone; check what both ends tell of it."""

    def call(tool, path, spoken, prompt=TWO_FILES, **options):
        folder = tmp_path / "gateway"
        folder.mkdir()

        async def scenario():
            async with (
                upstream() as provider,
                started(folder, crossed(provider, spoken) + ALIAS) as gateway,
                tee(gateway.url) as front,
            ):
                home = tmp_path / "home"
                client = tool(home, front.url + path, gateway.secret, prompt, **options)
                done = await client.run()
                return client, done, front.requests, await gateway.rows(), provider

        client, done, sent, rows, provider = run(scenario)
        assert done.code == 0, done.said
        check_books(folder)
        check_agreement(rows, provider)
        assert len(rows) == len(sent)
        assert {entry.protocol for entry in provider.entries} == {spoken}
        assert {(row["status"], row["outcome"]) for row in rows} == {(200, "completed")}
        assert all(row["cost_micros"] > 0 for row in rows)
        return client, done, sent, rows, [request.body for request in provider.tee.requests]

    return call


@pytest.mark.parametrize(
    ("tool", "path", "protocol", "spoken", "options"),
    [
        (claude, "/claudecode", "anthropic", "openai", {}),
        (cline, "/cline/v1", "anthropic", "openai", {}),
        (opencode, "/v1", "anthropic", "openai", {"package": "@ai-sdk/anthropic"}),
        (opencode, "/v1", "openai", "anthropic", {"package": "@ai-sdk/openai-compatible"}),
        (codex, "/codex/v1", "responses", "openai", {}),
        (codex, "/codex/v1", "responses", "anthropic", {}),
    ],
    ids=[
        "claude-code-on-chat",
        "cline-on-chat",
        "opencode-on-chat",
        "opencode-on-messages",
        "codex-on-chat",
        "codex-on-messages",
    ],
)
def test_it_creates_two_files_and_every_call_has_its_row(
    play, tool, path, protocol, spoken, options
):
    client, done, _, rows, left = play(tool, path, spoken, **options)

    assert "Done: hello.txt, notes.txt created." in done.out
    assert (client.work / "hello.txt").read_text() == TEXT
    assert (client.work / "notes.txt").read_text() == "two"
    assert {row["protocol"] for row in rows} == {protocol}
    assert sum(row["cache_read_input_tokens"] > 1000 for row in rows) == STEPS - 1
    if preset := load_presets(BUILTIN).get(path.split("/")[1]):
        first_line = preset.text().splitlines()[0].encode()
        assert all(first_line in body for body in left)
    if spoken == "openai":
        assert not any(word in body for body in left for word in ANTHROPIC_ONLY)


@pytest.mark.parametrize("spoken", ["anthropic", "openai"])
def test_codex_patches_files_with_its_own_tool(play, spoken):
    """For OpenAI's own models it offers a tool that takes no JSON but text of its own grammar."""
    client, done, sent, rows, left = play(codex, "/codex/v1", spoken, LINES, model="gpt-5.5")

    assert "apply patch\npatch: completed" in done.said
    assert (client.work / "lines.txt").read_text() == "one\n+two\n"
    assert all(b"*** Add File: lines.txt" in body for body in left[2:])
    for request, row in zip(sent, rows, strict=True):
        assert row["session"] == request.headers["session-id"]
        assert (row["tool"], row["requested_model"]) == ("codex", "gpt-5.5")
