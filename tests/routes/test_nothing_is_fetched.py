"""Nothing in a request makes the gateway call anybody but the config's own upstreams."""

import json

import pytest
from support.gateways import config_for, started
from support.wires import COMPLETION, MESSAGE, http_answer, recording, request, run, wire

ANSWERS = {"anthropic": MESSAGE, "openai": COMPLETION}
PATHS = ("/v1/messages", "/claudecode/messages", "/v1/chat/completions", "/cursor/chat/completions")
NAMES = ("base_url", "api_base", "baseURL", "endpoint", "proxy", "upstream", "provider", "url")
HEADERS = ("x-base-url", "x-portkey-custom-host", "x-target-url", "x-forwarded-host", "referer")


def _content(path, url):
    if "messages" in path:
        kinds = ("image", "document")
        return [{"type": kind, "source": {"type": "url", "url": url}} for kind in kinds]
    return [{"type": "image_url", "image_url": {"url": url}}]


@pytest.mark.parametrize("protocol", ANSWERS)
def test_urls_in_bodies_and_headers_are_never_called(tmp_path, protocol):
    """They leave for the provider as they are, or are refused; the keys go nowhere else."""

    async def scenario():
        async with (
            recording(http_answer(200, ANSWERS[protocol])) as upstream,
            recording(http_answer(200, b"secrets")) as inside,
            started(tmp_path, config_for(upstream.url, protocol=protocol)) as gateway,
            wire(gateway.url) as connection,
        ):
            statuses = []
            for path in PATHS:
                content = [{"type": "text", "text": inside.url}, *_content(path, inside.url)]
                body = {
                    "model": "smart",
                    "max_tokens": 10,
                    "messages": [{"role": "user", "content": content}],
                    **dict.fromkeys(NAMES, inside.url),
                }
                headers = {"x_api_key": gateway.secret, **dict.fromkeys(HEADERS, inside.url)}
                data = request("POST", path, json.dumps(body).encode(), **headers)
                statuses.append((await connection.ask(data)).status)
            return statuses, upstream, inside

    statuses, upstream, inside = run(scenario)

    assert set(statuses) <= {200, 400}
    assert 200 in statuses
    assert (inside.heads, inside.bodies, inside.open) == ([], [], 0)
    hosts = [line for head in upstream.heads for line in head.split(b"\r\n") if b"ost:" in line]
    assert {host.partition(b": ")[2].decode() for host in hosts} == {upstream.url[7:]}
    assert all(inside.url.encode() not in head for head in upstream.heads)
