import asyncio

import pytest
from support.gateways import DEMO_CONFIG, started

from server.errors import UpstreamRefused

ASK = {"max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (400, "messages: field required", "invalid_request"),
        (400, "prompt is too long: 250000 tokens > 200000 maximum", "prompt_too_long"),
        (413, "too large", "request_too_large"),
        (429, "slow down", "rate_limited"),
    ],
)
def test_a_providers_refusal_is_known_by_our_code_for_its_status(status, message, reason):
    refused = UpstreamRefused(message, upstream_status=status)

    assert (refused.http_status, refused.reason) == (status, reason)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("fault:toolong", 400, "prompt_too_long"),
        ("fault:toolarge", 413, "request_too_large"),
        ("fault:ratelimit", 429, "rate_limited"),
        ("fault:forbidden", 502, "upstream_error"),
    ],
)
def test_a_row_tells_why_a_provider_refused(tmp_path, fault, status, reason):
    config = DEMO_CONFIG.replace("demo-smart", fault)

    async def scenario():
        async with started(tmp_path, config) as gateway, gateway.client() as client:
            reply = await client.post("/v1/messages", json={**ASK, "model": "smart"})
            return reply, await gateway.rows()

    reply, [row] = asyncio.run(scenario())

    assert (reply.status_code, row["status"], row["error"]) == (status, status, reason)
