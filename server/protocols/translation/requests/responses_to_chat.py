"""A Responses request as a Chat request.

Responses              Chat
instructions, input    messages
max_output_tokens      max_completion_tokens
reasoning.effort       reasoning_effort
text.format            response_format
tools, tool_choice     tools, tool_choice
model, stream, parallel_tool_calls, temperature, top_p, prompt_cache_key: as they are
all else: dropped, but for what would need a provider that remembers: refused
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.translation.json_text import NULL, is_null
from server.protocols.translation.requests.responses_input import messages
from server.protocols.translation.requests.responses_tools import Tool, Tools


class ResponsesAsked(Struct, frozen=True):
    """A Responses request in Chat's form, and what its answer has to know of it.

    `fields` are the Chat request's. `tools` leads from the name of each of its functions to what
    the client knows it as. `echo` holds the members that an answer repeats.
    """

    fields: dict[str, Raw]
    tools: Mapping[str, Tool]
    echo: Mapping[str, Raw]


def request(fields: Mapping[str, Raw]) -> ResponsesAsked:
    """Translate a request; each answer needs the whole conversation, for nothing is stored.

    Raises:
        InvalidRequest: it rests on something stored, or cannot be read; `param` names the member.
    """
    given = {name: value for name, value in fields.items() if not is_null(value)}
    _refuse_what_is_stored(given)
    tools = Tools()
    tools.offer(given.get("tools", NULL), "tools")
    chat: dict[str, object] = {"messages": messages(given, tools)}
    chat |= {name: given[name] for name in _KEPT if name in given}
    chat |= {new: given[old] for old, new in _RENAMED.items() if old in given}
    chat |= _reasoning_effort(given) | _response_format(given) | _tools(given, tools)
    return ResponsesAsked(
        {name: Raw(_encode(value)) for name, value in chat.items()},
        tools.known,
        {name: given.get(name, default) for name, default in _ECHOED.items()},
    )


class _Reasoning(Struct):
    effort: str | None = None


class _Format(Struct):
    type: str = "text"
    name: Raw = NULL
    description: Raw = NULL
    schema: Raw = NULL
    strict: Raw = NULL


class _Text(Struct):
    format: _Format | None = None


_encode = msgspec.json.Encoder().encode
_KEPT = ("model", "stream", "temperature", "top_p", "prompt_cache_key")
_RENAMED: Mapping[str, str] = {"max_output_tokens": "max_completion_tokens"}
_SENT_WHOLE = "the gateway stores no responses; send the whole conversation as input."
_STORED: Mapping[str, str] = {
    "previous_response_id": f"previous_response_id is not supported: {_SENT_WHOLE}",
    "conversation": f"conversation is not supported: {_SENT_WHOLE}",
    "prompt": "prompt is not supported: the gateway stores none; send instructions and input.",
    "background": "background is not supported: the gateway stores no responses to fetch later.",
}
_ECHOED: Mapping[str, Raw] = {
    "instructions": NULL,
    "max_output_tokens": NULL,
    "metadata": Raw(b"{}"),
    "parallel_tool_calls": Raw(b"true"),
    "reasoning": Raw(b'{"effort":null,"summary":null}'),
    "temperature": NULL,
    "text": Raw(b'{"format":{"type":"text"}}'),
    "tool_choice": Raw(b'"auto"'),
    "tools": Raw(b"[]"),
    "top_p": NULL,
    "truncation": Raw(b'"disabled"'),
    "user": NULL,
}


def _refuse_what_is_stored(given: Mapping[str, Raw]) -> None:
    for name, sentence in _STORED.items():
        if name in given and bytes(given[name]) != b"false":
            raise InvalidRequest(sentence, param=name)


def _reasoning_effort(given: Mapping[str, Raw]) -> dict[str, Any]:
    try:
        asked = msgspec.json.decode(given.get("reasoning", NULL), type=_Reasoning | None)
    except msgspec.ValidationError as exc:
        raise InvalidRequest("reasoning must be an object.", param="reasoning") from exc
    return {"reasoning_effort": asked.effort} if asked and asked.effort else {}


def _response_format(given: Mapping[str, Raw]) -> dict[str, Any]:
    try:
        asked = msgspec.json.decode(given.get("text", NULL), type=_Text | None)
    except msgspec.ValidationError as exc:
        raise InvalidRequest("text.format must be an object.", param="text.format") from exc
    layout = asked.format if asked else None
    if layout is None or layout.type == "text":
        return {}
    if layout.type != "json_schema":
        return {"response_format": {"type": layout.type}}
    if is_null(layout.schema):
        raise InvalidRequest("text.format has no schema.", param="text.format")
    members = {name: getattr(layout, name) for name in ("name", "description", "schema", "strict")}
    schema = {name: value for name, value in members.items() if not is_null(value)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _tools(given: Mapping[str, Raw], tools: Tools) -> dict[str, Any]:
    """Give tools and choice; Chat servers refuse a choice where nothing is offered."""
    choice = tools.choice(given.get("tool_choice", NULL))
    if not tools.offered:
        return {}
    said: dict[str, Any] = {"tools": tools.offered}
    if choice is not None:
        said["tool_choice"] = choice
    if "parallel_tool_calls" in given:
        said["parallel_tool_calls"] = given["parallel_tool_calls"]
    return said
