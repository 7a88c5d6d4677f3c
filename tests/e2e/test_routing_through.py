"""Which model serves a request, as the upstream sees it and as the row tells it."""

import json

import pytest
from support.gateways import started
from support.wires import (
    COMPLETION,
    MESSAGE,
    check_refusal,
    http_answer,
    recording,
    request,
    run,
    wire,
)

PATHS = {"anthropic": "/messages", "openai": "/chat/completions"}


def _config(messages_url, chat_url):
    return f"""
upstreams:
  m: {{protocol: anthropic, base_url: "{messages_url}", api_key: "sk-fake-upstream-key"}}
  c: {{protocol: openai, base_url: "{chat_url}", api_key: "sk-fake-upstream-key"}}
models:
  smart: {{targets: [{{upstream: m, model: m-smart}}], free: true}}
  fast: {{targets: [{{upstream: c, model: c-fast}}], free: true}}
  both: {{targets: [{{upstream: c, model: c-both}}, {{upstream: m, model: m-both}}], free: true}}
aliases: {{"claude-*haiku*": both, "claude-opus-*": smart, "g?t-*": fast, other: both}}
auto:
  default: both
  rules: [{{when: {{tool: cline, max_input_tokens: 2000}}, use: smart}}]
"""


SERVED = [
    ("anthropic", "/v1", "smart", "smart", "m-smart"),
    ("openai", "/v1", "fast", "fast", "c-fast"),
    ("anthropic", "/v1", "both", "both", "m-both"),
    ("openai", "/v1", "both", "both", "c-both"),
    ("anthropic", "/v1", "auto", "both", "m-both"),
    ("openai", "/v1", "auto", "both", "c-both"),
    ("anthropic", "/v1", "claude-auto", "both", "m-both"),
    ("anthropic", "/cline", "auto", "smart", "m-smart"),
    ("anthropic", "/v1", "other", "both", "m-both"),
    ("anthropic", "/v1", "claude-3-5-haiku-20241022", "both", "m-both"),
    ("anthropic", "/v1", "claude-opus-haiku", "both", "m-both"),
    ("anthropic", "/v1", "claude-opus-5-5", "smart", "m-smart"),
    ("openai", "/v1", "gpt-5.4", "fast", "c-fast"),
    ("openai", "/cursor/v1", "gpt-5.4", "fast", "c-fast"),
    ("anthropic", "/roocode/v1", "claude-sonnet-4-6", "both", "m-both"),
    ("anthropic", "/cline/v1/v1", "claude-sonnet-4-6", "smart", "m-smart"),
    ("openai", "/cursor/v1", "claude-sonnet-4-6", "both", "c-both"),
    ("anthropic", "/v1", "fast", "fast", "c-fast"),
    ("openai", "/v1", "smart", "smart", "m-smart"),
    ("openai", "/cursor/v1", "claude-opus-5-5", "smart", "m-smart"),
]
REFUSED = [
    ("anthropic", "/v1", "smrt", 404, "not_found_error", "smart"),
    ("openai", "/v1", "fastt", 404, "model_not_found", "fast"),
    ("anthropic", "/v1", "claude-sonnet-4-6", 404, "not_found_error", "claude-sonnet-4-6"),
    ("openai", "/cursor", "sonnet", 404, "model_not_found", "sonnet"),
    ("anthropic", "/v1", "Smart", 404, "not_found_error", "smart"),
    ("anthropic", "/v1", "m-smart", 404, "not_found_error", "m-smart"),
    ("anthropic", "/v1", "fault:cut", 404, "not_found_error", "fault:cut"),
]
LONG = ("anthropic", "/cline", "auto")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Ask for every name once: (protocol, root, name) to the reply, its row, what was sent."""
    folder = tmp_path_factory.mktemp("routing")
    asked = [(*each[:3], "hello") for each in SERVED + REFUSED]
    return run(lambda: _ask(folder, [*asked, (*LONG, "hello " * 3000)]))


async def _ask(folder, asked):
    async with (
        recording(http_answer(200, MESSAGE)) as messages,
        recording(http_answer(200, COMPLETION)) as chat,
        started(folder, _config(messages.url, chat.url)) as gateway,
        wire(gateway.url) as connection,
    ):
        answers = {}
        for protocol, root, name, text in asked:
            user = [{"role": "user", "content": text}]
            body = json.dumps({"model": name, "max_tokens": 9, "messages": user}).encode()
            sent = request("POST", root + PATHS[protocol], body, x_api_key=gateway.secret)
            reply = await connection.ask(sent)
            made = reply.header("request-id")
            rows = [row for row in await gateway.rows() if row["request_id"] == made]
            bodies = [json.loads(each) for each in messages.bodies + chat.bodies]
            key = (protocol, root, name) if text == "hello" else "long"
            answers[key] = (reply, rows, [each["model"] for each in bodies])
            messages.bodies.clear()
            chat.bodies.clear()
        return answers


@pytest.mark.parametrize(("protocol", "root", "name", "model", "target"), SERVED)
def test_a_name_leads_to_a_model_and_its_target(answers, protocol, root, name, model, target):
    reply, [row], asked = answers[protocol, root, name]

    assert reply.status == 200
    assert asked == [target]
    assert (row["requested_model"], row["model"], row["upstream_model"]) == (name, model, target)
    assert row["protocol"] == protocol
    # Relayed bytes name the model as the upstream did, translated ones as the client did.
    is_relayed = target.startswith({"anthropic": "m-", "openai": "c-"}[protocol])
    assert reply.json()["model"] == ("upstream-model" if is_relayed else name)


def test_a_rule_with_a_limit_lets_long_prompts_pass_by(answers):
    reply, _, asked = answers["long"]

    assert (reply.status, asked) == (200, ["m-both"])


@pytest.mark.parametrize(("protocol", "root", "name", "status", "kind", "said"), REFUSED)
def test_what_nothing_serves_is_refused_and_not_written_down(
    answers, protocol, root, name, status, kind, said
):
    reply, rows, asked = answers[protocol, root, name]

    assert said in check_refusal(reply, protocol, status, kind)
    assert reply.header("x-should-retry") == "false"
    assert (asked, rows) == ([], [])
