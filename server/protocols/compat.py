"""What an OpenAI-compatible server needs to be told differently from OpenAI."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import Raw, Struct

Effort = Literal["low", "medium", "high", "xhigh", "max"]


class Compat(Struct, frozen=True):
    """The ways of one server.

    `reasoning_field` is where it wants a turn's reasoning back, None: it does not;
    `reasoning_details` takes it in OpenRouter's manner, with signatures. `reasoning_required`: a
    turn without reasoning needs the field too, empty. `reasoning_as_sent`: a Chat client's
    turns stay as they are, in whatever member they have it.

    `reasoning_effort` tells whether it knows that member, `max_effort` the highest that it takes,
    and `effort_with_tools` what to say, whatever was asked, where a request offers tools.
    `reasoning_off` is the member that turns reasoning off, None: nothing does.

    `late_system` is the role of a system message that is not the first, `text_parts` whether
    several texts may be an array, `json_schema` whether `response_format` takes a schema,
    `cache_control` whether it knows Anthropic's marks, and `stream_usage` whether it knows
    `stream_options`. `drop_params` are members that never leave.
    """

    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    reasoning_field: str | None = None
    reasoning_required: bool = False
    reasoning_as_sent: bool = False
    reasoning_effort: bool = False
    max_effort: Effort = "high"
    effort_with_tools: str | None = None
    reasoning_off: Literal["reasoning_effort", "thinking"] | None = None
    supports_top_k: bool = False
    late_system: Literal["system", "user"] = "system"
    text_parts: bool = True
    json_schema: bool = True
    cache_control: bool = False
    stream_usage: bool = True
    server_tools: Literal["drop", "refuse"] = "drop"
    drop_params: tuple[str, ...] = ()


# `reasoning_effort` is off: models before the reasoning ones refuse it, and the newer ones refuse
# it beside tools ("Function tools with reasoning_effort are not supported … in
# /v1/chat/completions", openai/openai-openapi, 2026-05). From gpt-5.6 on, tools need
# `effort_with_tools: none`. The highest effort is as in OpenAI's Python SDK 3.54 (2026-11).
OPENAI = Compat(max_effort="max")

# For a server that nobody named: OpenAI's ways for what is translated, while what a Chat client
# says goes on as it is. Many want back what OpenAI would refuse.
UNNAMED = Compat(max_effort="max", reasoning_as_sent=True, cache_control=True)

# docs.vllm.ai, "Reasoning Outputs" (v0.26, read 2026-11): `reasoning`, once `reasoning_content`.
# Its request model takes `top_k` and both limits; efforts above high came late. Templates of
# Qwen 3.5 and later refuse a system message that is not the first (vllm-project/vllm, 2026-04).
VLLM = Compat(
    reasoning_field="reasoning",
    reasoning_effort=True,
    supports_top_k=True,
    late_system="user",
)

# SGLang's request model (sgl-project/sglang, read 2026-11); the templates are the same as vLLM's.
SGLANG = Compat(
    reasoning_field="reasoning_content",
    reasoning_effort=True,
    supports_top_k=True,
    late_system="user",
)

# docs.ollama.com/api/openai-compatibility (read 2026-11): no `max_completion_tokens`, no `top_k`.
# A model that cannot reason refuses any effort but none. Some renderers refuse a late system
# message (ollama/ollama, 2026-08).
OLLAMA = Compat(
    max_tokens_field="max_tokens",
    reasoning_field="reasoning",
    reasoning_off="reasoning_effort",
    late_system="user",
)

# api-docs.deepseek.com, "Thinking Mode", "JSON Output" and "Create Chat Completion" (read
# 2026-11): it reasons unless told not to, and then wants its reasoning back in every turn
# beside tools; without any an empty one will do. Content has to be a string (QwenLM/qwen-code,
# 2026-03).
DEEPSEEK = Compat(
    max_tokens_field="max_tokens",
    reasoning_field="reasoning_content",
    reasoning_required=True,
    reasoning_effort=True,
    max_effort="max",
    reasoning_off="thinking",
    text_parts=False,
    json_schema=False,
)

# openrouter.ai/docs, "API Reference", "Reasoning Tokens" and "Prompt Caching" (read 2026-11).
# Nothing turns reasoning off: models that always reason refuse to be asked.
OPENROUTER = Compat(
    max_tokens_field="max_tokens",
    reasoning_field="reasoning_details",
    reasoning_effort=True,
    max_effort="xhigh",
    supports_top_k=True,
    cache_control=True,
)

# For a server of which nothing is known: what the oldest and strictest take. The others pass over
# members that they do not know; `prompt_cache_key` comes with every request of codex.
GENERIC = Compat(
    max_tokens_field="max_tokens",
    late_system="user",
    text_parts=False,
    drop_params=("prompt_cache_key",),
)

SERVERS: Mapping[str, Compat] = MappingProxyType(
    {
        "openai": OPENAI,
        "vllm": VLLM,
        "sglang": SGLANG,
        "ollama": OLLAMA,
        "deepseek": DEEPSEEK,
        "openrouter": OPENROUTER,
        "generic": GENERIC,
    }
)


def ready_set(server: str | None, base_url: str | None) -> Compat:
    """Give the ways of a server by its name; OpenAI itself is known by its address too."""
    if server is not None:
        return SERVERS[server]
    return OPENAI if (base_url or "").startswith(_OPENAI_URL) else UNNAMED


_OPENAI_URL = "https://api.openai.com/"


def dropped(fields: Mapping[str, Raw], compat: Compat) -> dict[str, Raw]:
    """Give the members that a server may see: all but its `drop_params`, and what it knows not."""
    refused = compat.drop_params if compat.stream_usage else (*compat.drop_params, "stream_options")
    return {name: value for name, value in fields.items() if name not in refused}
