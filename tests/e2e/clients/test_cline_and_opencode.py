"""A real Cline and a real opencode work through a gateway, over both protocols."""

import pytest
from support.clients import TASK, TEXT, cline, opencode
from support.splices import check_headers, check_spliced
from support.stages import UPSTREAM_KEY, check_agreement, stage
from support.tee import tee
from support.wires import run

from server.presets.load import BUILTIN, load_presets
from server.tenants.keys import Billing

pytestmark = pytest.mark.clients


@pytest.fixture
def play(tmp_path):
    """Run a client on the task; give all that each side saw of it."""

    def call(tool, path, **options):
        billing = options.pop("billing", Billing.PAY_PER_TOKEN)
        model = options.pop("model", "demo-smart")

        async def scenario():
            async with (
                stage(tmp_path / "gateway", model=model) as (provider, gateway),
                tee(gateway.url) as front,
            ):
                _, secret = await gateway.mint(billing=billing)
                client = tool(tmp_path / "home", front.url + path, secret, TASK, **options)
                done = await client.run()
                return client, done, front.requests, await gateway.rows(), provider, secret

        return run(scenario)

    return call


@pytest.mark.parametrize("path", ["/cline", "/cline/v1"])
def test_cline_creates_a_file_and_every_call_has_its_row(play, path):
    preset = load_presets(BUILTIN)["cline"].text()

    client, done, sent, rows, provider, secret = play(cline, path, billing=Billing.SUBSCRIPTION)

    assert done.code == 0, done.said
    assert done.out.endswith("Done: hello.txt created.\n")
    assert (client.work / "hello.txt").read_text() == TEXT
    check_agreement(rows, provider)
    assert len(rows) == len(sent) >= 4
    assert {(row["tool"], row["protocol"], row["status"]) for row in rows} == {
        ("cline", "anthropic", 200)
    }
    assert all(row["cache_read_input_tokens"] > 1000 for row in rows[1:])
    for request, left in zip(sent, provider.tee.requests, strict=True):
        check_spliced(request, left, preset)
        check_headers(request, left, secret=secret, upstream_key=UPSTREAM_KEY)


@pytest.mark.parametrize(
    ("package", "protocol"),
    [("@ai-sdk/anthropic", "anthropic"), ("@ai-sdk/openai-compatible", "openai")],
)
def test_opencode_creates_a_file_and_every_call_has_its_row(play, package, protocol):
    client, done, sent, rows, provider, _ = play(opencode, "/v1", package=package)

    assert done.code == 0, done.said
    assert done.out.endswith("Done: hello.txt created.\n")
    assert (client.work / "hello.txt").read_text() == TEXT
    check_agreement(rows, provider)
    assert len(rows) == len(sent) >= 5
    assert {(row["tool"], row["protocol"], row["outcome"]) for row in rows} == {
        (None, protocol, "completed")
    }
    assert len({row["session"] for row in rows}) == 1
    assert any(row["cache_read_input_tokens"] > 1000 for row in rows)


def test_opencode_works_through_a_tool_route_over_chat_completions(play):
    """Cursor, which has no command line, can only call this route."""
    preset = load_presets(BUILTIN)["cursor"].text()

    client, done, _, rows, provider, _ = play(
        opencode,
        "/cursor/v1",
        package="@ai-sdk/openai-compatible",
        billing=Billing.SUBSCRIPTION,
    )

    assert done.code == 0, done.said
    assert (client.work / "hello.txt").read_text() == TEXT
    check_agreement(rows, provider)
    assert {row["tool"] for row in rows} == {"cursor"}
    assert len({entry.prefix for entry in provider.entries}) == 2  # the title's, and the task's
    first_line = preset.splitlines()[0].encode()
    assert all(first_line in request.body for request in provider.tee.requests)


@pytest.mark.parametrize(
    ("tool", "path", "options"),
    [(cline, "/v1", {}), (opencode, "/v1", {"package": "@ai-sdk/openai-compatible"})],
    ids=["cline", "opencode"],
)
def test_a_subscription_key_on_a_generic_route_is_told_where_it_works(play, tool, path, options):
    _, done, sent, rows, _, _ = play(tool, path, billing=Billing.SUBSCRIPTION, **options)

    assert "A subscription key works only on the tool routes." in done.said
    assert len(sent) <= 2
    assert rows == []
