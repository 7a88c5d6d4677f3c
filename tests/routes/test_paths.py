"""Which path answers what: envelopes, methods, HEAD, and the paths that tools try."""

from support.gateways import started
from support.wires import ASK, ROOTS, TOOLS, check_refusal, request, run, wire

UNKNOWN = {
    "/": "openai",
    "/nowhere": "openai",
    "/v1": "openai",
    "/v1/nowhere": "openai",
    "/v2/messages": "anthropic",
    "/messages": "anthropic",
    "/v1/messages/batches": "anthropic",
    "//v1/messages": "anthropic",
    "/v1/./messages": "anthropic",
    "/v1/messages;x": "anthropic",
    "/chat/completions": "openai",
    "/v1/chat/completions/chatcmpl-1": "openai",
    "/claudecode/v1/chat/completions/x": "openai",
    "/claudecode": "anthropic",
    "/claudecode/": "anthropic",
    "/claudecode/api/hello": "anthropic",
    "/cline/api/v1/x": "anthropic",
    "/cursor/v1/embeddings": "anthropic",
    "/roocode/v1/v1/v1/messages": "anthropic",
    "/Claudecode/x": "openai",
    "/claudecodex": "openai",
    "/tenant": "openai",
    "/tenant/messages": "openai",
    "/pricing/x": "openai",
    "/v1/%6dodels": "openai",
    "/v1%2Fmessages": "openai",
    "/%00": "openai",
    "/%ff%zz": "openai",
    "/v1/../healthz": "openai",
    "/..%2f..%2fetc/passwd": "openai",
    "/v1/messages%20": "anthropic",
    "/v1/messages%00": "anthropic",
    "/v1/messages%0d%0ax:y": "anthropic",
    "/v1/x/../messages": "anthropic",
    "/v1/..;/messages": "anthropic",
    "/v1\\messages": "openai",
    "/%2e%2e/v1/models": "openai",
    "/x?/v1/messages": "openai",
    "/Healthz": "openai",
}
GETS = ("/healthz", "/readyz", "/pricing", "/pricing/tokens")
GETS_WITH_KEY = (
    *(f"{root}/models" for root in ROOTS),
    *(f"{root}/models/smart" for root in ROOTS),
    "/tenant/usage",
)


async def _ask(gateway, *requests):
    async with wire(gateway.url) as connection:
        return [await connection.ask(each, head_only=each.startswith(b"HEAD")) for each in requests]


def test_an_unknown_path_is_a_404_in_the_envelope_that_its_caller_reads(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            key = {"x_api_key": gateway.secret}
            got = await _ask(gateway, *(request("GET", path, **key) for path in UNKNOWN))
            posted = await _ask(gateway, *(request("POST", path, b"{}", **key) for path in UNKNOWN))
        return got, posted

    for replies in run(scenario):
        for (path, protocol), reply in zip(UNKNOWN.items(), replies, strict=True):
            kind = "not_found_error" if protocol == "anthropic" else "not_found"
            assert path.partition("?")[0][:20] in check_refusal(reply, protocol, 404, kind)
            assert reply.header("x-should-retry") == "false"


def test_an_unknown_model_is_told_in_the_envelope_of_the_version_header(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            key = {"x_api_key": gateway.secret}
            return await _ask(
                gateway,
                request("GET", "/cline/v1/models/nobody", **key),
                request("GET", "/cline/models/nobody", anthropic_version="2023-06-01", **key),
                request("GET", "/v1/models"),
                request("GET", "/v1/models", anthropic_version="2023-06-01"),
                request("POST", "/claudecode/v1/models", b"{}"),
            )

    chat, messages, no_key, no_key_there, method = run(scenario)

    check_refusal(chat, "openai", 404, "model_not_found")
    check_refusal(messages, "anthropic", 404, "not_found_error")
    check_refusal(no_key, "openai", 401, "invalid_api_key")
    check_refusal(no_key_there, "anthropic", 401, "authentication_error")
    check_refusal(method, "openai", 405, "method_not_allowed")


ALLOWED = [
    ("/v1/messages", "anthropic", "POST"),
    ("/claudecode/messages", "anthropic", "POST"),
    ("/cline/v1/messages/count_tokens", "anthropic", "POST"),
    ("/v1/chat/completions", "openai", "POST"),
    ("/cursor/v1/v1/chat/completions", "openai", "POST"),
    ("/v1/models", "openai", "GET, HEAD"),
    ("/healthz", "openai", "GET, HEAD"),
    ("/pricing", "openai", "GET, HEAD"),
    ("/tenant/keys", "openai", "GET, HEAD, POST"),
    ("/tenant/keys/key_x", "openai", "DELETE, GET, HEAD"),
]
METHODS = ("DELETE", "GET", "POST", "PUT", "PATCH", "OPTIONS", "TRACE", "BREW", "PROPFIND")


def test_another_method_is_a_405_that_names_the_right_ones(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            return [
                await _ask(
                    gateway,
                    *(request(each, path) for each in METHODS if each not in allowed),
                )
                for path, _, allowed in ALLOWED
            ]

    for (_, protocol, allowed), replies in zip(ALLOWED, run(scenario), strict=True):
        kind = "invalid_request_error" if protocol == "anthropic" else "method_not_allowed"
        for reply in replies:
            assert allowed.rpartition(" ")[2] in check_refusal(reply, protocol, 405, kind)
            assert reply.header("allow") == allowed
            assert not [name for name, _ in reply.headers if name.startswith("access-control")]


def test_head_tells_what_get_would_without_its_body(tmp_path):
    async def scenario():
        async with started(tmp_path) as gateway:
            key = {"x_api_key": gateway.secret}
            paths = (*GETS, *GETS_WITH_KEY)
            got = await _ask(gateway, *(request("GET", path, **key) for path in paths))
            heads = await _ask(gateway, *(request("HEAD", path, **key) for path in paths))
        return got, heads

    got, heads = run(scenario)

    for whole, head in zip(got, heads, strict=True):
        assert (whole.status, head.status) == (200, 200)
        assert head.header("content-length") == str(len(whole.body))
        assert whole.header("content-length") == str(len(whole.body))


def test_the_heads_that_claude_code_sends_at_its_start_do_no_harm(tmp_path):
    """Both without a key; a 404 is what it expects. The connection stays usable."""

    async def scenario():
        async with started(tmp_path) as gateway:
            paths = ("/claudecode", "/claudecode/api/hello", "/v1/messages", "/v1/models")
            return await _ask(
                gateway,
                *(request("HEAD", path) for path in paths),
                request("GET", "/healthz"),
            )

    replies = run(scenario)

    assert [reply.status for reply in replies] == [404, 404, 405, 401, 200]
    assert all(reply.header("connection") == "keep-alive" for reply in replies)


def test_each_spelling_and_a_trailing_slash_serve_the_same(tmp_path):
    """Some clients append `/v1`, some do not, some do it twice."""

    async def scenario():
        async with started(tmp_path) as gateway, gateway.client() as client:
            seen = []
            for root in ROOTS:
                for path in ("messages", "messages/count_tokens", "chat/completions"):
                    for end in ("", "/", "?beta=true", "?%ff&a=b&a=c&="):
                        answer = await client.post(f"{root}/{path}{end}", json=ASK)
                        seen.append((path, answer.status_code, answer.json().get("object")))
            rows = await gateway.rows()
        return seen, rows

    seen, rows = run(scenario)

    assert {status for _, status, _ in seen} == {200}
    assert {kind for path, _, kind in seen if "chat" in path} == {"chat.completion"}
    assert len(rows) == 2 * 4 * len(ROOTS)
    assert {row["tool"] for row in rows} == {None, *TOOLS}
