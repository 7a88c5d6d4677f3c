"""The tools of a Responses request as the functions of a Chat request, and the way back.

Responses                         Chat
function                          function
custom                            function of one string, `input`; its grammar is described
namespace of these                each of them, named namespace__name
local_shell                       function of a command
tool_search, where the client     function of its own parameters
  itself searches
all else                          nothing: it would have to run at the provider
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.translation.json_text import AT_MOST, NULL, is_null, read
from server.protocols.translation.tool_names import is_fit, shortened


class Kind(StrEnum):
    """What a Responses client knows a tool as."""

    FUNCTION = "function"
    CUSTOM = "custom"
    LOCAL_SHELL = "local_shell"
    TOOL_SEARCH = "tool_search"


class Tool(Struct, frozen=True):
    """What a function of the Chat request stands for."""

    kind: Kind
    name: str
    namespace: str | None = None


class Tools:
    """The tools that a request offers, wherever in it they stand.

    `offered` are those of the Chat request. `known` leads from their names to what they stand
    for. A name that Chat does not take, or that two would share, is replaced.
    """

    def __init__(self) -> None:
        self.offered: list[dict[str, Any]] = []
        self.known: dict[str, Tool] = {}
        self._names: dict[tuple[str | None, str], str] = {}
        self._taken: set[str] = set()
        self._spaces: dict[str | None, list[str]] = {}

    def offer(self, raw: Raw, param: str) -> list[str]:
        """Add an array of tools; give the names of those that Chat has a place for.

        Raises:
            InvalidRequest: it is no array, or holds a tool that cannot be read.
        """
        try:
            items = _TOOLS.decode(raw) or []
        except msgspec.DecodeError as exc:
            raise InvalidRequest(f"{param} must be an array of tools.", param=param) from exc
        return [name for item in items for name in self._offer(item, None, param)]

    def name_of(self, name: str, namespace: str | None = None) -> str:
        """Give the name that a tool has in the Chat request, offered or not."""
        key = (namespace, name)
        if key not in self._names:
            readable = name if namespace is None else f"{namespace}__{name}"
            is_free = is_fit(readable) and readable not in self._taken
            sent = readable if is_free else shortened(readable, msgspec.json.encode(key))
            self._names[key] = sent
            self._taken.add(sent)
        return self._names[key]

    def choice(self, raw: Raw) -> object:
        """Give the Chat request's `tool_choice`; None where nothing is to be said.

        Raises:
            InvalidRequest: it is of no known form, or wants what the gateway does not offer.
        """
        chosen: Any = read(raw, _ANY, "tool_choice")
        match chosen:
            case None | "auto" | "none" | "required":
                return chosen
            case {"type": "allowed_tools", "tools": list(refs)}:
                unlike = {msgspec.json.encode(ref): ref for ref in refs}.values()
                named = [_choose(name) for ref in unlike for name in self._named(ref)]
                mode = chosen.get("mode", "auto")
                allowed = {"mode": mode, "tools": named}
                return {"type": "allowed_tools", "allowed_tools": allowed} if named else "none"
            case _:
                named = [_choose(name) for name in self._named(chosen)]
        if len(named) != 1:
            raise InvalidRequest(
                'tool_choice must be "auto", "none", "required", or name a function, a custom '
                "tool or several allowed_tools; tools of a provider's own are not offered here.",
                param="tool_choice",
            )
        return named[0]

    def _offer(self, item: "_Item", namespace: str | None, param: str) -> list[str]:
        if item.type == "namespace":
            if item.name is None:
                raise InvalidRequest("A namespace needs a name.", param=param)
            return [
                name for tool in item.tools or () for name in self._offer(tool, item.name, param)
            ]
        tool = _tool(item, namespace, param)
        if tool is None:
            return []
        name = self.name_of(tool.name, namespace)
        if name not in self.known:  # a search may find again what is already there
            self.known[name] = tool
            self._spaces.setdefault(namespace, []).append(name)
            self.offered.append({"type": "function", "function": _function(name, tool, item)})
        return [name]

    def _named(self, ref: object) -> list[str]:
        match ref:
            case {"type": "function" | "custom", "name": str(name), "namespace": str(namespace)}:
                return [self.name_of(name, namespace)]
            case {"type": "function" | "custom", "name": str(name)}:
                return [self.name_of(name)]
            case {"type": "namespace", "name": str(namespace)}:
                return self._spaces.get(namespace, [])
            case {"type": str(kind)}:
                name = self._names.get((None, kind), "")
                return [name] if name in self.known and self.known[name].kind == kind else []
            case _:
                return []


class _Format(Struct):
    syntax: str = ""
    definition: str = ""


class _Item(Struct):
    type: str = "function"
    name: str | None = None
    description: str | None = None
    parameters: Raw = NULL
    strict: Raw = NULL
    format: _Format | None = None
    tools: list["_Item"] | None = None
    execution: str | None = None


_ANY = msgspec.json.Decoder(Any)
_TOOLS = msgspec.json.Decoder(Annotated[list[_Item], AT_MOST] | None)
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_INPUT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The tool's input, as it is."}},
    "required": ["input"],
    "additionalProperties": False,
}
_COMMAND: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}},
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    },
    "required": ["command"],
}
_RUNS = "Runs a command, given as its arguments, in a shell on the user's machine."


def _tool(item: _Item, namespace: str | None, param: str) -> Tool | None:
    match item.type:
        case "function" | "custom":
            if not item.name:
                raise InvalidRequest(f"A {item.type} tool needs a name.", param=param)
            return Tool(Kind(item.type), item.name, namespace)
        case "local_shell":
            return Tool(Kind.LOCAL_SHELL, item.type)
        case "tool_search" if item.execution == "client":
            return Tool(Kind.TOOL_SEARCH, item.type)
    return None


def _function(name: str, tool: Tool, item: _Item) -> dict[str, Any]:
    function: dict[str, Any] = {"name": name}
    if description := _description(tool, item):
        function["description"] = description
    function["parameters"] = _parameters(tool, item)
    if tool.kind is Kind.FUNCTION and not is_null(item.strict):
        function["strict"] = item.strict
    return function


def _description(tool: Tool, item: _Item) -> str | None:
    if tool.kind is Kind.LOCAL_SHELL:
        return item.description or _RUNS
    if tool.kind is Kind.CUSTOM and item.format is not None and item.format.definition:
        grammar = f"The input must follow this {item.format.syntax} grammar:"
        return "\n\n".join((*filter(None, [item.description]), grammar, item.format.definition))
    return item.description


def _parameters(tool: Tool, item: _Item) -> object:
    match tool.kind:
        case Kind.CUSTOM:
            return _INPUT
        case Kind.LOCAL_SHELL:
            return _COMMAND
    return _NO_PARAMETERS if is_null(item.parameters) else item.parameters


def _choose(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}
