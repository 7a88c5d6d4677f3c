"""A Messages request as a Chat Completions request.

What is not named here stays behind: `metadata`, whose `user_id` is longer than OpenAI's `user`
may be, `cache_control` wherever it stands, `container`, `context_management`, `diagnostics`,
`inference_geo`, `mcp_servers`, `service_tier`, `speed`, and all that is yet to come. To go on
with a `thread` is refused: the rest of the conversation is in a provider's store.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from server.errors import NotFound
from server.protocols.compat import Compat, Effort, dropped
from server.protocols.translation import Translated
from server.protocols.translation.json_text import NULL, is_null, quoted, read
from server.protocols.translation.requests.efforts import EFFORTS, NONE, effort_members
from server.protocols.translation.requests.fitted_chat import SCHEMA_TOLD
from server.protocols.translation.requests.messages_tools import Names, tool_fields
from server.protocols.translation.requests.messages_turns import messages

# The least budget of thinking tokens for each effort, where a client names no effort.
EFFORT_OF_BUDGET: tuple[tuple[int, Effort], ...] = ((16_384, "high"), (4_096, "medium"))


def request(fields: Mapping[str, Raw], compat: Compat) -> Translated:
    """Translate the members of a Messages request into those of a Chat request.

    A pure function: the same history gives the same bytes, however the session goes on.

    Raises:
        InvalidRequest: something cannot be read, or cannot be sent to such a server.
        NotFound: it goes on with a thread.
    """
    _refuse_thread(fields)
    names = Names()
    tools = tool_fields(fields, compat, names)
    layout, instruction = _layout(fields, compat)
    sent = {
        "model": fields["model"],
        "messages": messages(fields, compat, names, instruction),
        **tools,
        **_limit(fields, compat),
        **_kept(fields, {"stop_sequences": "stop", "temperature": "temperature", "top_p": "top_p"}),
        **(_kept(fields, {"top_k": "top_k"}) if compat.supports_top_k else {}),
        **layout,
        **_reasoning(fields, compat, has_tools="tools" in tools),
        **_kept(fields, {"stream": "stream"}),
    }
    return Translated(dropped(sent, compat), names.changed)


class _Thread(msgspec.Struct):
    type: str


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: int | None = None


class _Format(msgspec.Struct):
    schema: Raw = NULL


class _OutputConfig(msgspec.Struct):
    effort: Raw = NULL
    format: _Format | None = None


_THREAD = msgspec.json.Decoder(_Thread)
_THINKING = msgspec.json.Decoder(_Thinking)
_OUTPUT_CONFIG = msgspec.json.Decoder(_OutputConfig)
_INT = msgspec.json.Decoder(int)


def _refuse_thread(fields: Mapping[str, Raw]) -> None:
    """Refuse to go on with a thread, in the words on which Anthropic's SDK sends all of it again.

    Its tool runner asks for threads; the second time it does without them (SDK 2.12, 2026-11).
    """
    if is_null(raw := fields.get("thread", NULL)):
        return
    if read(raw, _THREAD, "thread").type == "continue":
        raise NotFound(
            "This model's provider keeps no threads; send the whole conversation.",
            param="thread",
            details={"error_code": "thread_not_found"},
        )


def _kept(fields: Mapping[str, Raw], names: Mapping[str, str]) -> dict[str, Raw]:
    """Give the members of these names, each under its name in a Chat request."""
    return {
        theirs: fields[ours]
        for ours, theirs in names.items()
        if ours in fields and bytes(fields[ours]) not in (b"null", b"[]")
    }


def _limit(fields: Mapping[str, Raw], compat: Compat) -> dict[str, Raw]:
    if is_null(raw := fields.get("max_tokens", NULL)):
        return {}
    # The Messages API takes 0, to warm its cache; Chat servers want one token at least.
    return {compat.max_tokens_field: Raw(b"%d" % max(1, read(raw, _INT, "max_tokens")))}


def _layout(fields: Mapping[str, Raw], compat: Compat) -> tuple[dict[str, Raw], bytes | None]:
    """Give `response_format`, and what a server that takes no schema has to be told instead."""
    config = _output_config(fields)
    if config.format is None or is_null(config.format.schema):
        return {}, None
    schema = bytes(config.format.schema)
    if compat.json_schema:
        wrapped = b'{"name":"output","schema":%b,"strict":true}' % schema
        return {"response_format": Raw(b'{"type":"json_schema","json_schema":%b}' % wrapped)}, None
    told = quoted(SCHEMA_TOLD + schema.decode())
    return {"response_format": Raw(b'{"type":"json_object"}')}, told


def _reasoning(fields: Mapping[str, Raw], compat: Compat, *, has_tools: bool) -> dict[str, Raw]:
    """Give the members that say how much to reason; none where nothing was asked."""
    raw = fields.get("thinking", NULL)
    thinking = _Thinking("adaptive") if is_null(raw) else read(raw, _THINKING, "thinking")
    asked = NONE if thinking.type == "disabled" else _effort(fields, thinking)
    return effort_members(asked, compat, has_tools=has_tools)


def _effort(fields: Mapping[str, Raw], thinking: _Thinking) -> Effort | None:
    asked = bytes(_output_config(fields).effort)
    for effort in EFFORTS:
        if asked == quoted(effort):
            return effort
    if thinking.budget_tokens is None:
        return None
    for least, effort in EFFORT_OF_BUDGET:
        if thinking.budget_tokens >= least:
            return effort
    return "low"


def _output_config(fields: Mapping[str, Raw]) -> _OutputConfig:
    raw = fields.get("output_config", NULL)
    return _OutputConfig() if is_null(raw) else read(raw, _OUTPUT_CONFIG, "output_config")
