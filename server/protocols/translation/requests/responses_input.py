"""The input of a Responses request as the messages of a Chat request.

Responses                          Chat
instructions, system, developer    system; those side by side become one
user message                       user
assistant message, reasoning,      one assistant message for all that stand side by side
  calls of any kind
output of a call                   tool, right behind the message that called
image or file in an output         user, behind the tool messages
reasoning                          reasoning_details: what we sealed, or else the summary
additional_tools                   tools
a hosted tool's call               nothing
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.body import join
from server.protocols.translation.json_text import AT_MOST, NULL, is_null, read
from server.protocols.translation.requests.responses_tools import Tools
from server.protocols.translation.sealed_thinking import unseal


def messages(fields: Mapping[str, Raw], tools: Tools) -> list[dict[str, Any]]:
    """Give the Chat messages; tools that stand among the input are added to `tools`.

    Raises:
        InvalidRequest: an item cannot be read, or refers to what only a provider stores.
    """
    conversation = _Conversation(tools)
    instructions = read(fields.get("instructions", NULL), _INSTRUCTIONS, "instructions")
    if instructions:
        conversation.instruct(instructions)
    said = read(fields.get("input", NULL), _INPUT, "input")
    if isinstance(said, str):
        conversation.ask([_text_part(said)])
    for number, raw in enumerate(said if isinstance(said, list) else ()):
        conversation.take(raw, f"input[{number}]")
    if not (all_of_it := conversation.messages()):
        raise InvalidRequest("input is required and must not be empty.", param="input")
    return all_of_it


class _Part(Struct):
    type: str
    text: str = ""
    refusal: str = ""
    image_url: str | None = None
    detail: str | None = None
    file_data: str | None = None
    filename: str | None = None
    input_audio: Raw = NULL
    encrypted_content: str = ""


class _Item(Struct):
    type: str | None = None
    role: str | None = None
    content: str | list[_Part] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str = ""
    namespace: str | None = None
    arguments: Raw = Raw(b'""')
    input: Raw = Raw(b'""')
    action: dict[str, Raw] | None = None
    output: str | list[_Part] | None = None
    encrypted_content: str | None = None
    summary: list[_Part] | None = None
    tools: Raw = NULL


class _Kind(Struct):
    type: str | None = None


class _Turn:
    """What the assistant said and called without a break, and what the calls gave."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.details: list[Raw] = []
        self.calls: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.shown: list[dict[str, Any]] = []

    def messages(self) -> list[dict[str, Any]]:
        said = [self._said()] if self.texts or self.calls else []
        shown = [{"role": "user", "content": self.shown}] if self.shown else []
        return [*said, *self.results, *shown]

    def _said(self) -> dict[str, Any]:
        said: dict[str, Any] = {"role": "assistant", "content": "\n\n".join(self.texts) or None}
        if self.details:
            said["reasoning_details"] = self.details
        if self.calls:
            said["tool_calls"] = self.calls
        return said


class _Instructions:
    """System messages side by side: some models' templates want one, and ahead of all else."""

    def __init__(self, text: str) -> None:
        self.texts = [text]

    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "system", "content": "\n\n".join(self.texts)}]


class _Conversation:
    """Grows item by item."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._told: list[_Turn | _Instructions | dict[str, Any]] = []
        self._called_in: dict[str, _Turn] = {}
        self._details: list[Raw] = []  # of reasoning, for whatever it led to

    def messages(self) -> list[dict[str, Any]]:
        told = ([each] if isinstance(each, dict) else each.messages() for each in self._told)
        return [message for some in told for message in some]

    def take(self, raw: Raw, where: str) -> None:
        kind = read(raw, _KIND, where).type or "message"
        if kind in _STORED:
            raise InvalidRequest(f"{where}: {_STORED[kind]}", param=where)
        take = _TAKES.get(kind)
        if take is not None:
            take(self, read(raw, _ITEM, where), where)

    def instruct(self, text: str) -> None:
        last = self._told[-1] if self._told else None
        if isinstance(last, _Instructions):
            last.texts.append(text)
        elif text:
            self._told.append(_Instructions(text))

    def ask(self, parts: list[dict[str, Any]]) -> None:
        is_plain = len(parts) == 1 and parts[0]["type"] == "text"
        self._details = []
        self._told.append({"role": "user", "content": parts[0]["text"] if is_plain else parts})

    def take_message(self, item: _Item, where: str) -> None:
        parts = _parts(item.content, where)
        match item.role:
            case "user":
                self.ask(parts or [_text_part("")])
            case "system" | "developer":
                self.instruct("\n\n".join(_texts(parts)))
            case "assistant":
                self._turn().texts += filter(None, ["".join(_texts(parts))])
            case _:
                raise InvalidRequest(f"{where}: unknown role.", param=f"{where}.role")

    def take_agent_message(self, item: _Item, where: str) -> None:
        self.ask([_text_part("".join(_texts(_parts(item.content, where))))])

    def take_reasoning(self, item: _Item, where: str) -> None:  # noqa: ARG002 - as all in _TAKES
        if item.encrypted_content:
            self._details += unseal(item.encrypted_content)
        elif item.summary:  # all that an upstream without signatures thought
            text = "\n\n".join(part.text for part in item.summary)
            self._details.append(Raw(_encode({"type": "reasoning.text", "text": text})))

    def take_function_call(self, item: _Item, where: str) -> None:
        self._call(item, where, item.name, _string(item.arguments))

    def take_custom_tool_call(self, item: _Item, where: str) -> None:
        self._call(item, where, item.name, join({"input": item.input}).decode())

    def take_local_shell_call(self, item: _Item, where: str) -> None:
        action = {
            name: value
            for name, value in (item.action or {}).items()
            if name != "type" and not is_null(value)
        }
        self._call(item, where, "local_shell", join(action).decode())

    def take_tool_search_call(self, item: _Item, where: str) -> None:
        if item.call_id:  # a search without one was the provider's own
            self._call(item, where, "tool_search", _string(item.arguments))

    def take_output(self, item: _Item, where: str) -> None:
        parts = _parts(item.output, where)
        self._answer(item, where, "\n".join(_texts(parts)))
        shown = [part for part in parts if part["type"] != "text"]
        if shown:
            self._turn_of(item).shown += shown

    def take_tool_search_output(self, item: _Item, where: str) -> None:
        names = self._tools.offer(item.tools, f"{where}.tools")
        if item.call_id:
            self._answer(item, where, f"Tools found: {', '.join(names) or 'none'}.")

    def take_additional_tools(self, item: _Item, where: str) -> None:
        self._tools.offer(item.tools, f"{where}.tools")

    def _call(self, item: _Item, where: str, name: str, arguments: Raw | str) -> None:
        ident = _call_id(item, where)
        function = {"name": self._tools.name_of(name, item.namespace), "arguments": arguments}
        turn = self._turn()
        turn.calls.append({"id": ident, "type": "function", "function": function})
        self._called_in[ident] = turn

    def _answer(self, item: _Item, where: str, text: str) -> None:
        result = {"role": "tool", "tool_call_id": _call_id(item, where), "content": text}
        self._turn_of(item).results.append(result)

    def _turn(self) -> _Turn:
        """Give the turn that still goes on, or a new one; reasoning belongs to what follows it."""
        turn = self._told[-1] if self._told else None
        if not isinstance(turn, _Turn) or turn.results:
            turn = _Turn()
            self._told.append(turn)
        turn.details += self._details
        self._details = []
        return turn

    def _turn_of(self, item: _Item) -> _Turn:
        """Give the turn that made the call: its results must stand right behind it."""
        called_in = self._called_in.get(item.call_id or item.id or "")
        return self._turn() if called_in is None else called_in


_encode = msgspec.json.Encoder().encode
_KIND = msgspec.json.Decoder(_Kind)
_ITEM = msgspec.json.Decoder(_Item)
_INPUT = msgspec.json.Decoder(str | Annotated[list[Raw], AT_MOST] | None)
_INSTRUCTIONS = msgspec.json.Decoder(str | None)
_TAKES: Mapping[str, Callable[[_Conversation, _Item, str], None]] = {
    "message": _Conversation.take_message,
    "agent_message": _Conversation.take_agent_message,
    "reasoning": _Conversation.take_reasoning,
    "function_call": _Conversation.take_function_call,
    "function_call_output": _Conversation.take_output,
    "custom_tool_call": _Conversation.take_custom_tool_call,
    "custom_tool_call_output": _Conversation.take_output,
    "local_shell_call": _Conversation.take_local_shell_call,
    "local_shell_call_output": _Conversation.take_output,
    "tool_search_call": _Conversation.take_tool_search_call,
    "tool_search_output": _Conversation.take_tool_search_output,
    "additional_tools": _Conversation.take_additional_tools,
}
_DETAIL: Mapping[str, str] = {"low": "low", "high": "high", "original": "high"}
_STORED: Mapping[str, str] = {
    "item_reference": "the gateway stores no items; send the item itself.",
    "compaction": "only the provider that compacted a conversation can read it.",
    "compaction_trigger": "the gateway cannot compact a conversation; ask for a summary.",
}


def _call_id(item: _Item, where: str) -> str:
    ident = item.call_id or item.id
    if not ident:
        raise InvalidRequest(f"{where}: call_id is missing.", param=f"{where}.call_id")
    return ident


def _string(arguments: Raw) -> Raw | str:
    """Give arguments as Chat has them: a JSON string that holds JSON."""
    return arguments if bytes(arguments).startswith(b'"') else bytes(arguments).decode()


def _parts(content: str | list[_Part] | None, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [_text_part(content)]
    return [_part(part, where) for part in content or ()]


def _part(part: _Part, where: str) -> dict[str, Any]:
    match part.type:
        case "input_text" | "output_text" | "text" | "summary_text":
            return _text_part(part.text)
        case "refusal":
            return _text_part(part.refusal)
        case "encrypted_content":
            # OpenAI's models encrypt what they tell another agent. Those behind us do not, and
            # codex hands on under this name what they wrote.
            return _text_part(part.encrypted_content)
        case "input_image" if part.image_url:
            detail = {} if part.detail is None else {"detail": _DETAIL.get(part.detail, "auto")}
            return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
        case "input_file" if part.file_data:
            named = {} if part.filename is None else {"filename": part.filename}
            return {"type": "file", "file": {**named, "file_data": part.file_data}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.input_audio}
    raise InvalidRequest(
        f"{where}: {part.type} is not supported here; files and images must be in the request.",
        param=where,
    )


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _texts(parts: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for part in parts if part["type"] == "text"]
