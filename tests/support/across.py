"""Clients of all three protocols on an upstream of the other one, or of either."""

import json
from typing import Any

from support.responses_rules import check_responses_stream
from support.stream_rules import check_chat_stream, check_messages_stream

PATHS = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
}
CHECK = {
    "anthropic": check_messages_stream,
    "openai": check_chat_stream,
    "responses": check_responses_stream,
}
WAYS = [  # of a translation: the client's protocol, and the upstream's
    ("anthropic", "openai"),
    ("openai", "anthropic"),
    ("responses", "anthropic"),
    ("responses", "openai"),
]
EVERY_WAY = [*WAYS, ("anthropic", "anthropic"), ("openai", "openai")]
CONTENT = "Tell me what you are."
PRICE = '{input: "4", output: "20", cache_read: "0.4"}'


def crossing(url: str, targets: dict[str, str], *, billing: str = "{}", more: str = "") -> str:
    """Write a config: a model NAME-PROTOCOL for each of `targets`, NAME: upstream model."""
    models = "".join(
        f'  {name}-{spoken}: {{targets: [{{upstream: {spoken}, model: "{model}"}}], '
        f"price: {PRICE}}}\n"
        for name, model in targets.items()
        for spoken in ("anthropic", "openai")
    )
    return f"""
upstreams:
  anthropic: {{protocol: anthropic, base_url: "{url}", api_key: sk-fake-upstream-key}}
  openai: {{protocol: openai, base_url: "{url}/v1", api_key: sk-fake-upstream-key}}
billing: {billing}
models:
{models}{more}"""


def asking(client: str, model: str, *, stream: bool = True, limit: int = 400) -> dict[str, Any]:
    """Write a request of a client's protocol; a Chat stream's usage is asked for."""
    if client == "responses":
        return {"model": model, "input": CONTENT, "max_output_tokens": limit, "stream": stream}
    messages = [{"role": "user", "content": CONTENT}]
    ask = {"model": model, "messages": messages, "max_tokens": limit, "stream": stream}
    if client == "openai" and stream:
        ask["stream_options"] = {"include_usage": True}
    return ask


def said(client: str, body: bytes, *, stream: bool) -> dict[str, Any]:
    """Give the answer; a stream has to keep to the rules of its protocol."""
    return CHECK[client](body) if stream else json.loads(body)


def text_of(answer: dict[str, Any]) -> str:
    """Give what an answer of any protocol says."""
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"] or ""
    blocks = answer.get("content")
    if blocks is None:
        items = [item for item in answer["output"] if item["type"] == "message"]
        blocks = [part for item in items for part in item["content"]]
    return "".join(block.get("text", "") for block in blocks)


def stop_of(answer: dict[str, Any]) -> str | None:
    """Give why it ended; of a response that is incomplete, the reason for that."""
    if "choices" in answer:
        return answer["choices"][0]["finish_reason"]
    if "stop_reason" in answer:
        return answer["stop_reason"]
    return (answer["incomplete_details"] or {}).get("reason", answer["status"])


def output_tokens_of(answer: dict[str, Any]) -> int:
    """Give the output that an answer tells."""
    usage = answer["usage"]
    return usage["completion_tokens" if "choices" in answer else "output_tokens"]


def has_fake_end(client: str, body: bytes) -> bool:
    """Tell whether a stream that failed pretends to have ended."""
    ends = {
        "anthropic": (b"\nevent: message_delta\n", b"\nevent: message_stop\n"),
        "openai": (b"\ndata: [DONE]\n", b'"finish_reason":"'),
        "responses": (b"\nevent: response.completed\n", b"\nevent: response.incomplete\n"),
    }
    return any(end in b"\n" + body for end in ends[client])
