"""What a request asks for, beyond tokens, that changes the provider's bill.

Read from the members of a split body. Tools are judged by the decoded `type`, never by the
bytes, so that no JSON escape can hide one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec import Raw

from server.errors import InvalidRequest

MAX_USES = 10**9
MAX_DIGITS = 9
MAX_NAME_LENGTH = 64

# Values that leave the bill as it is, in a request or as an answer reports them.
PLAIN = {
    "service_tier": frozenset({"auto", "default", "standard", "standard_only"}),
    "speed": frozenset({"standard"}),
    "inference_geo": frozenset({"global", "not_available"}),
}

# OpenAI's answers say `priority` for both.
SYNONYMS = {("service_tier", "fast"): "priority"}

# Tools that cost nothing but their tokens: the client's own, and the free ones of the provider.
# Source: Anthropic's tool reference and its Python SDK 2.12 (2026-11).
FREE_TOOLS = frozenset(
    {"bash", "browser_toolset", "computer", "computer_toolset", "custom", "function", "mcp_toolset"}
    | {"memory", "str_replace_based_edit_tool", "str_replace_editor", "text_editor", "tool_search"}
    | {"tool_search_tool", "tool_search_tool_bm25", "tool_search_tool_regex", "web_fetch"}
)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Extras:
    """What a request asks for that changes the provider's bill.

    `uses` are server tools, each with the most uses it allows, None where it names no limit;
    `settings` the values of request fields. `unreported` are tools whose uses no answer tells.
    """

    uses: tuple[tuple[str, int | None], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    unreported: tuple[str, ...] = ()


NONE = Extras()


def asked_messages(fields: Mapping[str, Raw]) -> Extras:
    """Read what a Messages request asks for.

    Raises:
        InvalidRequest: a field that may cost extra cannot be read; `param` names it.
    """
    uses, settings = _server_tools(fields), _settings(fields)
    return Extras(uses, settings) if uses or settings else NONE


def asked_chat(fields: Mapping[str, Raw]) -> Extras:
    """Read what a Chat Completions request asks for; a search is made once, and not reported.

    Raises:
        InvalidRequest: a field that may cost extra cannot be read; `param` names it.
    """
    uses, settings = _server_tools(fields), _settings(fields)
    if "audio" in (_read(fields, "modalities", _STRINGS, "an array of strings") or ()):
        settings += (("modalities", "audio"),)
    if "web_search_options" in fields and bytes(fields["web_search_options"]) != b"null":
        return Extras((*uses, ("web_search", 1)), settings, unreported=("web_search",))
    return Extras(uses, settings) if uses or settings else NONE


def is_plain(setting: str, value: str) -> bool:
    """Tell whether a setting's value is one that costs nothing extra."""
    return value in PLAIN.get(setting, ())


class _Tool(msgspec.Struct):
    type: str | None = None
    max_uses: Raw = Raw(b"null")


_TOOLS = msgspec.json.Decoder(list[_Tool] | None)
_STRING = msgspec.json.Decoder(str | None)
_STRINGS = msgspec.json.Decoder(list[str] | None)
_VERSION = re.compile(r"_20[0-9]{6}\Z")


def _server_tools(fields: Mapping[str, Raw]) -> tuple[tuple[str, int | None], ...]:
    # A search for "_20" in the bytes would take longer than this, and miss what is escaped.
    tools = _read(fields, "tools", _TOOLS, "an array of objects whose type is a string") or ()
    named = (
        (_VERSION.sub("", tool.type), tool)
        for tool in tools
        if tool.type is not None and tool.type not in FREE_TOOLS
    )
    return tuple(
        (name[:MAX_NAME_LENGTH], _max_uses(tool)) for name, tool in named if name not in FREE_TOOLS
    )


def _max_uses(tool: _Tool) -> int | None:
    text = bytes(tool.max_uses)
    if text == b"null":
        return None
    if not text.isdigit():
        raise InvalidRequest("max_uses must be a whole number, 0 or more.", param="tools")
    return MAX_USES if len(text) > MAX_DIGITS else int(text)


def _settings(fields: Mapping[str, Raw]) -> tuple[tuple[str, str], ...]:
    asked = ((name, _read(fields, name, _STRING, "a string")) for name in PLAIN)
    return tuple(
        (name, SYNONYMS.get((name, value), value)[:MAX_NAME_LENGTH])
        for name, value in asked
        if value is not None and not is_plain(name, value)
    )


def _read(
    fields: Mapping[str, Raw], name: str, decoder: msgspec.json.Decoder[Value], wanted: str
) -> Value | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidRequest(f"{name} must be {wanted}.", param=name) from exc
