"""The tools of a Chat request, and its choice among them, in the Messages protocol's form."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.body import join
from server.protocols.translation.json_text import AT_MOST, NULL, quoted, read
from server.protocols.translation.requests.chat_parts import is_string, marked

CHOICES = {"auto": "auto", "required": "any", "none": "none"}


class Tools(Struct, frozen=True):
    """The items of `tools`, and the `tool_choice`; None where the request says nothing."""

    items: list[bytes]
    choice: bytes | None


def tools(fields: Mapping[str, Raw]) -> Tools:
    """Read tools and choice of a Chat request, of the older `functions` too.

    Of `allowed_tools` only those named are offered: nothing else would bind the model to them,
    although it costs the cached prefix that OpenAI's way of saying it keeps.

    Raises:
        InvalidRequest: a tool that is no function, or a choice that cannot be read.
    """
    asked = _asked(fields)
    items = [
        _item(tool, function)
        for tool, function in _offered(fields)
        if asked is None or asked.allowed is None or function.name in asked.allowed
    ]
    if not items:
        return Tools([], None)
    parallel = fields.get("parallel_tool_calls") != _FALSE
    return Tools(items, _choice(asked, parallel=parallel))


class _Function(Struct):
    name: str
    description: Raw = NULL
    parameters: Raw = NULL
    strict: Raw = NULL
    cache_control: Raw = NULL


class _Tool(Struct):
    type: str = "function"
    function: _Function | None = None
    cache_control: Raw = NULL


class _Named(Struct):
    name: str


class _Allowed(Struct):
    mode: str = "auto"
    tools: list[_Tool] = []


class _Choice(Struct):
    name: str | None = None
    function: _Named | None = None
    allowed_tools: _Allowed | None = None


class _Asked(Struct, frozen=True):
    """A choice: its `type` in the Messages protocol, the one tool's name, or the allowed ones."""

    type: str
    name: str | None = None
    allowed: frozenset[str] | None = None


_encode = msgspec.json.Encoder().encode
_STRING = msgspec.json.Decoder(str)
_TOOLS = msgspec.json.Decoder(Annotated[list[_Tool], AT_MOST] | None)
_FUNCTIONS = msgspec.json.Decoder(list[_Function] | None)
_CHOICE = msgspec.json.Decoder(_Choice)
_SCHEMA = msgspec.json.Decoder(dict[str, Raw])
_FALSE = Raw(b"false")
_SCHEMA_NEEDS = {"type": Raw(b'"object"'), "properties": Raw(b"{}")}


def _offered(fields: Mapping[str, Raw]) -> list[tuple[_Tool, _Function]]:
    functions = read(fields.get("functions", NULL), _FUNCTIONS, "functions") or []
    offered = [(_Tool(), function) for function in functions]
    for tool in read(fields.get("tools", NULL), _TOOLS, "tools") or []:
        if tool.type != "function" or tool.function is None:
            raise InvalidRequest(
                f'This model takes tools of type "function" only, not "{tool.type[:64]}".',
                param="tools",
            )
        offered.append((tool, tool.function))
    return offered


def _item(tool: _Tool, function: _Function) -> bytes:
    item = {"name": quoted(function.name)}
    if function.description != NULL:
        item["description"] = bytes(function.description)
    item["input_schema"] = _schema(function.parameters)
    if function.strict != NULL:
        item["strict"] = bytes(function.strict)
    mark = function.cache_control if tool.cache_control == NULL else tool.cache_control
    return marked(join(item), mark)


def _schema(parameters: Raw) -> bytes:
    """Give a tool's schema; `type` and `properties` are added where it goes without them."""
    if parameters == NULL:
        return b'{"type":"object","properties":{}}'
    given = read(parameters, _SCHEMA, "tools")
    has_all = all(given.get(name, NULL) != NULL for name in _SCHEMA_NEEDS)
    if has_all:
        return bytes(parameters)
    kept = {name: value for name, value in given.items() if value != NULL}
    return join({**_SCHEMA_NEEDS, **kept})


def _asked(fields: Mapping[str, Raw]) -> _Asked | None:
    """Read `tool_choice`, or the older `function_call`."""
    name = "tool_choice" if fields.get("tool_choice", NULL) != NULL else "function_call"
    raw = fields.get(name, NULL)
    if raw == NULL:
        return None
    if is_string(raw):
        return _Asked(_type(read(raw, _STRING, name), name))
    choice = read(raw, _CHOICE, name)
    if choice.allowed_tools is not None:
        allowed = (tool.function for tool in choice.allowed_tools.tools)
        names = frozenset(function.name for function in allowed if function is not None)
        return _Asked(_type(choice.allowed_tools.mode, name), allowed=names)
    chosen = choice.function.name if choice.function is not None else choice.name
    if chosen is None:
        raise InvalidRequest(f"{name} names no function.", param=name)
    return _Asked("tool", chosen)


def _type(mode: str, name: str) -> str:
    if mode not in CHOICES:
        raise InvalidRequest(
            f"{name} must be one of {', '.join(CHOICES)}, or name a function.", param=name
        )
    return CHOICES[mode]


def _choice(asked: _Asked | None, *, parallel: bool) -> bytes | None:
    if asked is None and parallel:
        return None
    choice: dict[str, Any] = {"type": "auto" if asked is None else asked.type}
    if asked is not None and asked.name is not None:
        choice["name"] = asked.name
    if not parallel and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return _encode(choice)
