"""The calls in the output of a Responses stream, each told as the client knows its tool.

Chat call of                Responses item
function                    function_call: the arguments, as they come
custom                      custom_tool_call: its one string, once it is whole
local_shell                 local_shell_call: what to run, once it is whole
tool_search                 tool_search_call: the arguments, once they are whole
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from server.protocols.translation.answers.responses_items import Events, Item
from server.protocols.translation.arguments import Arguments
from server.protocols.translation.requests.responses_tools import Kind, Tool


class Call(Item):
    """A call of a tool; opens as soon as it has its name and its id."""

    delta = "response.function_call_arguments.delta"

    def __init__(self, events: Events, tools: Mapping[str, Tool]) -> None:
        super().__init__(events)
        self.call_id = ""
        self.tool: Tool | None = None
        self._tools = tools
        self._progress, self._read = Arguments(), 0

    def name(self, name: str) -> None:
        """Take the tool's name where it comes; some providers repeat it."""
        if self.tool is None and name:
            self.tool = self._tools.get(name, Tool(Kind.FUNCTION, name))

    def is_whole(self) -> bool:
        new, self._read = self.fragments[self._read :], len(self.fragments)
        if new:
            self._progress.take(msgspec.json.decode(b'"%b"' % b"".join(new), type=str))
        return self.tool is not None and self._progress.is_complete

    def is_ready(self) -> bool:
        return self.tool is not None and self.call_id != ""

    def open(self, ident: str, index: int) -> None:
        self.prefix = _PREFIX[self._known.kind]
        self.call_id = self.call_id or f"call_{ident}_{index}"
        super().open(ident, index)

    def close(self, status: str) -> dict[str, Any]:
        match self._known.kind:
            case Kind.FUNCTION:
                if not self.fragments:
                    self.grow(b"{}")
                self._say("function_call_arguments.done", arguments=self.text)
            case Kind.CUSTOM:
                if given := self._input():
                    self._say("custom_tool_call_input.delta", delta=given)
                self._say("custom_tool_call_input.done", input=given)
        return super().close(status)

    @property
    def _known(self) -> Tool:
        return self.tool or Tool(Kind.FUNCTION, "")

    def _tell(self, fragment: bytes) -> None:
        if self._known.kind is Kind.FUNCTION:
            self._events.add_delta(self._head, fragment)

    def _empty(self) -> dict[str, Any]:
        match self._known.kind:
            case Kind.FUNCTION:
                return self._item("in_progress", arguments="")
            case Kind.CUSTOM:
                return self._item("in_progress", input="")
            case Kind.LOCAL_SHELL:
                return self._item("in_progress", action=_action({}))
            case Kind.TOOL_SEARCH:
                return self._item("in_progress", execution="client", arguments={})

    def _full(self, status: str) -> dict[str, Any]:
        match self._known.kind:
            case Kind.FUNCTION:
                return self._item(status, arguments=self.text)
            case Kind.CUSTOM:
                return self._item(status, input=self._input())
            case Kind.LOCAL_SHELL:
                return self._item(status, action=_action(self._members()))
            case Kind.TOOL_SEARCH:
                return self._item(status, execution="client", arguments=self._members())

    def _item(self, status: str, **members: object) -> dict[str, Any]:
        tool = self._known
        item = {"id": self._ident, "type": _TYPE[tool.kind], "status": status}
        named = {"name": tool.name} if tool.kind in (Kind.FUNCTION, Kind.CUSTOM) else {}
        placed = {} if tool.namespace is None else {"namespace": tool.namespace}
        return {**item, "call_id": self.call_id, **named, **placed, **members}

    def _input(self) -> str:
        """Give a custom tool's string; all of it where the model kept to no form."""
        given = self._members().get("input")
        return given if isinstance(given, str) else self._arguments()

    def _members(self) -> dict[str, Any]:
        try:
            members = msgspec.json.decode(self._arguments())
        except (ValueError, RecursionError):
            return {}
        return members if isinstance(members, dict) else {}

    def _arguments(self) -> str:
        return msgspec.json.decode(self.text, type=str)


_PREFIX: Mapping[Kind, str] = {
    Kind.FUNCTION: "fc",
    Kind.CUSTOM: "ctc",
    Kind.LOCAL_SHELL: "lsh",
    Kind.TOOL_SEARCH: "tsc",
}
_TYPE: Mapping[Kind, str] = {
    Kind.FUNCTION: "function_call",
    Kind.CUSTOM: "custom_tool_call",
    Kind.LOCAL_SHELL: "local_shell_call",
    Kind.TOOL_SEARCH: "tool_search_call",
}


def _action(members: Mapping[str, Any]) -> dict[str, Any]:
    command = members.get("command")
    if isinstance(command, str):
        command = ["bash", "-lc", command]
    return {"env": {}, **members, "type": "exec", "command": command or []}
