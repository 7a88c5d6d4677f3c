"""Tools of a Messages request, and the choice among them, for a Chat server."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Raw

from server.errors import InvalidRequest
from server.protocols.compat import Compat
from server.protocols.translation.json_text import AT_MOST, NULL, array, is_null, quoted, read
from server.protocols.translation.tool_names import is_fit, shortened


class Names:
    """The names of one request's tools, as a Chat server may be sent them.

    A name becomes the same one in every request, whatever other tools there are. `changed` leads
    from those that had to become another back to the client's.
    """

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def sent(self, name: str) -> str:
        """Give the name to send for a client's.

        Raises:
            InvalidRequest: another tool of this request has taken it.
        """
        sent = name if is_fit(name) else shortened(name, name.encode())
        if self._owners.setdefault(sent, name) != name:
            raise InvalidRequest(f'The tool "{name}" needs another name.', param="tools")
        if sent != name:
            self.changed[sent] = name
        return sent


def tool_fields(fields: Mapping[str, Raw], compat: Compat, names: Names) -> dict[str, Raw]:
    """Give `tools`, `tool_choice` and `parallel_tool_calls`; nothing where no tool is left.

    A tool that the provider itself would run, or whose input it alone knows, is dropped or
    refused, as `compat` says. A deferred tool is offered like any other, but for a placeholder.

    Raises:
        InvalidRequest: a tool cannot be sent, or the choice is none of those that are.
    """
    tools = [] if is_null(asked := fields.get("tools", NULL)) else read(asked, _TOOLS, "tools")
    offered = {tool.name: tool for tool in tools if _is_function(tool, compat)}
    choice = _Choice("auto")
    if not is_null(chosen := fields.get("tool_choice", NULL)):
        choice = read(chosen, _CHOICE, "tool_choice")
        _check(choice, offered)
    if not offered:
        return {}
    sent = {"tools": Raw(array([_function(tool, names) for tool in offered.values()]))}
    if choice.type == "tool":
        sent["tool_choice"] = Raw(_NAMED % names.sent(choice.name or "").encode())
    elif not is_null(chosen):
        sent["tool_choice"] = CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        sent["parallel_tool_calls"] = Raw(b"false")
    return sent


CHOICES: Mapping[str, Raw] = MappingProxyType(
    {
        "auto": Raw(b'"auto"'),
        "any": Raw(b'"required"'),
        "none": Raw(b'"none"'),
    }
)


class _Tool(msgspec.Struct):
    name: str
    type: str | None = None
    description: Raw = NULL
    input_schema: Raw = NULL
    strict: Raw = NULL
    defer_loading: bool | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


_TOOLS = msgspec.json.Decoder(Annotated[list[_Tool], AT_MOST])
_CHOICE = msgspec.json.Decoder(_Choice)
_NAMED = b'{"type":"function","function":{"name":"%b"}}'


def _is_function(tool: _Tool, compat: Compat) -> bool:
    if tool.type not in (None, "custom"):
        if compat.server_tools == "refuse":
            raise InvalidRequest(
                f'The tool "{tool.name}" ({tool.type}) is not available with this model; '
                "leave it out.",
                param="tools",
            )
        return False
    return not (tool.defer_loading and is_null(tool.input_schema))


def _function(tool: _Tool, names: Names) -> bytes:
    members = [b'"name":"%b"' % names.sent(tool.name).encode()]
    for name, value in (
        (b"description", tool.description),
        (b"parameters", tool.input_schema),
        (b"strict", tool.strict),
    ):
        if not is_null(value):
            members.append(b'"%b":%b' % (name, bytes(value)))
    return b'{"type":"function","function":{%b}}' % b",".join(members)


def _check(choice: _Choice, offered: Mapping[str, _Tool]) -> None:
    if choice.type == "tool":
        if choice.name not in offered:
            raise InvalidRequest(
                f"tool_choice names {quoted(choice.name or '').decode()}, a tool that is not "
                "offered to this model.",
                param="tool_choice",
            )
    elif choice.type not in CHOICES:
        raise InvalidRequest(
            "tool_choice.type must be auto, any, none or tool.", param="tool_choice"
        )
    elif choice.type == "any" and not offered:
        raise InvalidRequest(
            "tool_choice asks for a tool, and none is offered to this model.", param="tool_choice"
        )
