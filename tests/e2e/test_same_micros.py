"""What the same tokens cost: one figure, whatever the route, the protocol and the form."""

import pytest
from support.gateways import started
from support.priced import CLASSES, PATHS, asked, check_books, config, priced, settled
from support.raw_upstream import upstream
from support.same_usage import MICROS, PRICE, TOKENS, WEIGHED, answers
from support.wires import ROOTS, run

from server.tenants import keys

FORMS = [(protocol, stream) for protocol in PATHS for stream in (False, True)]


def _config(url):
    return f"""
upstreams:
  a: {{protocol: anthropic, base_url: "{url}", api_key: "sk-fake-upstream-key"}}
  b: {{protocol: openai, base_url: "{url}", api_key: "sk-fake-upstream-key"}}
models:
  m: {{targets: [{{upstream: a, model: m}}, {{upstream: b, model: m}}], price: {PRICE}}}
tiers: {{team: {{name: Team, price_cents: 0, quota_tokens: 100000000}}}}
"""


@pytest.mark.parametrize("billing", keys.Billing)
def test_the_same_usage_is_the_same_micros_or_quota_everywhere(tmp_path, billing):
    of_quota = billing is keys.Billing.SUBSCRIPTION
    roots = [root for root in ROOTS if not (of_quota and root == "/v1")]
    scripts_of = answers()

    async def scenario():
        scripts = [scripts_of[form] for _ in roots for form in FORMS]
        async with (
            upstream(*scripts) as there,
            started(tmp_path, _config(there.url), usd=5) as gateway,
        ):
            _, secret = await gateway.mint(billing=billing)
            async with gateway.client(secret) as client:
                for root in roots:
                    for protocol, stream in FORMS:
                        path = root + PATHS[protocol].removeprefix("/v1")
                        reply = await client.post(path, json=asked("m", stream=stream))
                        assert reply.status_code == 200, (path, reply.text)
            await settled(gateway)

    run(scenario)

    rows = check_books(tmp_path)
    assert len(rows) == len(roots) * len(FORMS)
    for row in rows:
        assert {each: row[each] for each in CLASSES} == TOKENS
    assert {row["cost_micros"] for row in rows} == {0 if of_quota else MICROS}
    assert {row["quota_tokens"] for row in rows} == {WEIGHED if of_quota else 0}


TOOL = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
    "required": ["path", "content"],
}
WRITE = [{"role": "user", "content": "Create a file hello.txt containing hi"}]
FUNCTION = {"type": "function", "function": {"name": "Write", "parameters": TOOL}}
KINDS = {
    ("anthropic", "thinking"): {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ("anthropic", "hidden"): {"thinking": {"type": "adaptive", "display": "omitted"}},
    ("anthropic", "tool"): {
        "messages": WRITE,
        "tools": [{"name": "Write", "input_schema": TOOL}],
    },
    ("openai", "thinking"): {"reasoning_effort": "high"},
    ("openai", "tool"): {"messages": WRITE, "tools": [FUNCTION]},
}


def test_thoughts_and_tool_calls_cost_the_same_in_one_piece_and_streamed(tmp_path):
    """Each is asked three times, as the demo caches like a provider: the first one fills it."""
    roots = ("/v1", "/claudecode/v1", "/cursor")
    text = config(models=priced("m", "demo-smart", PRICE))

    async def scenario():
        told = {}
        async with started(tmp_path, text, usd=5) as gateway, gateway.client() as client:
            for root in roots:
                for (protocol, kind), more in KINDS.items():
                    for turn, stream in enumerate((False, False, True)):
                        body = asked("m", **{"stream": stream, "max_tokens": 2000, **more})
                        path = root + PATHS[protocol].removeprefix("/v1")
                        reply = await client.post(path, json=body)
                        assert reply.status_code == 200, (path, reply.text)
                        told[reply.headers["request-id"]] = (root, protocol, kind, turn)
            await settled(gateway)
            return told, [*gateway.running.demo.journal.entries]

    told, calls = run(scenario)

    rows = {told[row["request_id"]]: row for row in check_books(tmp_path)}
    usages = {told[call.request_id]: call.usage for call in calls}
    assert len(rows) == len(usages) == len(roots) * len(KINDS) * 3
    for (root, protocol, kind, turn), usage in usages.items():
        row = rows[root, protocol, kind, turn]
        assert {each: row[each] for each in CLASSES} == {
            each: getattr(usage, each) for each in CLASSES
        }
        assert kind == "tool" or protocol == "openai" or usage.thinking_tokens > 0
        if turn:
            assert row["cost_micros"] == rows[root, protocol, kind, 1]["cost_micros"] > 0
    assert {row["stop_reason"] for (*_, kind, _), row in rows.items() if kind == "tool"} == {
        "tool_use",
        "tool_calls",
    }
