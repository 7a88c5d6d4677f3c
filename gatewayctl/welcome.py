"""Ready-to-paste ways to call a gateway; no line is wider than a small terminal."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from server.billing.ledger import Balance
from server.billing.money import dollars


def ways_to_call(url: str, secret: str | None) -> Iterator[tuple[str, str]]:
    """Give titles and commands: the key, curl, Claude Code and the OpenAI SDK.

    Without a `secret` the first asks for the key that was made earlier.
    """
    base = _as_clients_see(url)
    if secret is None:
        yield (
            "Your key was shown when it was made; `gatewayctl keys create NAME` mints another",
            ("export GATEWAY_KEY=gwk_…"),
        )
    else:
        yield "Your key, shown only now", f"export GATEWAY_KEY={secret}"
    yield "curl, whole", _curl(base, "curl", "")
    yield "curl, streaming", _curl(base, "curl -N", '"stream":true,')
    yield "Claude Code", _CLAUDE_CODE.format(base=base)
    yield "OpenAI SDK (pip install openai)", _OPENAI.format(base=base)


def credit_left(balance: Balance) -> str:
    """Say what there is to spend; where there is nothing, how to give some."""
    available = balance.available_micros
    if available > 0:
        return f"{dollars(available)} of credit; `gatewayctl credits show` tells what is left."
    return (
        f"{dollars(available)} of credit; keys that pay per token need some:\n"
        '  gatewayctl credits grant 10 --reason "first credit"'
    )


def _curl(base: str, command: str, stream: str) -> str:
    return _CURL.replace("BASE", base).replace("CURL", command).replace("STREAM", stream)


def _as_clients_see(url: str) -> str:
    """Put loopback where the server listens on every interface."""
    host = urlsplit(url).hostname or ""
    return url.replace("0.0.0.0", "127.0.0.1") if host == "0.0.0.0" else url  # noqa: S104


_CURL = """\
CURL BASE/v1/messages -H "x-api-key: $GATEWAY_KEY" \\
  -H "content-type: application/json" -d '{STREAM
  "model":"auto","max_tokens":256,
  "messages":[{"role":"user","content":"Say hello."}]}'"""
_CLAUDE_CODE = """\
export ANTHROPIC_BASE_URL={base}/claudecode
export ANTHROPIC_AUTH_TOKEN=$GATEWAY_KEY
unset ANTHROPIC_API_KEY
claude"""
_OPENAI = """\
export OPENAI_BASE_URL={base}/v1 OPENAI_API_KEY=$GATEWAY_KEY
python3 -c '
from openai import OpenAI
print(OpenAI().chat.completions.create(
    model="auto", messages=[{{"role": "user", "content": "Say hello."}}]
).choices[0].message.content)'"""
