"""What Cursor sends to a Chat route, as a Chat request.

    Cursor                                           Chat
    a true Chat request                              itself, byte for byte
    `input` in place of `messages`                   see `responses_to_chat`
    a flat tool; Anthropic's {name, input_schema}    function
    a custom tool                                    function of one string, `input`
    a tool that a provider would run                 nothing
    tool_choice of these                             Chat's
    `system`                                         a system message
    tool_use, tool_result in content                 tool_calls, a tool message
    image, document, search_result in content        image_url, file, text
    thinking in content                              nothing: it is not ours to send back

Seen by others on Cursor's way to a base URL of one's own (2026-11); nobody has it documented.
"""

from collections.abc import Callable, Mapping

import msgspec
from msgspec import Raw, Struct

from server.protocols.body import join
from server.protocols.translation.json_text import NULL, array, is_null, joined, quoted, read
from server.protocols.translation.requests import messages_content, responses_to_chat
from server.protocols.translation.requests.chat_parts import text_block
from server.protocols.translation.requests.messages_content import Block
from server.protocols.translation.requests.responses_tools import Tools


def as_chat(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    """Give the members of a Chat request for those that Cursor sent, whatever their shape.

    To be called before the body is read as a Chat request: it may have no `messages` yet.

    Raises:
        InvalidRequest: something cannot be read; `param` names the member.
    """
    tools = _tool_fields(fields)
    others = {name: value for name, value in fields.items() if name not in _TOOL_FIELDS}
    messages = fields.get("messages", NULL)
    if is_null(messages):
        chat = _from_responses(others) if "input" in fields else others
        return {**chat, **tools}
    # The members stay in their order, for the sake of a true Chat request.
    chat = {name: value for name, value in fields.items() if name in others or name in tools}
    system = chat.pop("system", NULL)
    return {**chat, **tools, "messages": _with_system(system, _messages(messages))}


class _Choice(Struct):
    type: str | None = None
    name: str | None = None
    custom: "_Choice | None" = None
    function: Raw = NULL
    allowed_tools: Raw = NULL
    mode: str = "auto"
    tools: "list[_Choice]" = []
    disable_parallel_tool_use: bool | None = None


_encode = msgspec.json.Encoder().encode
_BLOCK = msgspec.json.Decoder(Block)
_CHOICE = msgspec.json.Decoder(_Choice)
_ITEMS = msgspec.json.Decoder(list[Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
# The ids of the Responses API are never ours: what Cursor has of them, nobody here stored.
_STORED = frozenset({"previous_response_id", "conversation", "prompt", "background"})
_CHATS_OWN = ("stream_options", "max_tokens", "max_completion_tokens")
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls")
_CHOICES: Mapping[str | None, bytes] = {
    "auto": b'"auto"',
    "any": b'"required"',
    "none": b'"none"',
}
_CALLABLE = frozenset({"tool", "function", "custom"})
_FUNCTION = Raw(b'"function"')


def _from_responses(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    asked = {name: value for name, value in fields.items() if name not in _STORED}
    kept = {name: fields[name] for name in _CHATS_OWN if name in fields}
    return {**responses_to_chat.request(asked).fields, **kept}


def _tool_fields(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    """Give tools and choice; nothing at all where no tool is left."""
    given = {name: fields[name] for name in _TOOL_FIELDS if name in fields}
    if not is_null(fields.get("tools", NULL)):
        items = read(fields["tools"], _ITEMS, "tools")
        tools = [tool for item in items for tool in _tool(item)]
        if items and not tools:
            return {}
        if tools != items:
            given["tools"] = Raw(array([bytes(tool) for tool in tools]))
    if bytes(fields.get("tool_choice", NULL)).startswith(b"{"):
        given |= _tool_choice(fields["tool_choice"])
    return given


def _tool(item: Raw) -> list[Raw]:
    """Give a tool as a function; none for what a provider would have to run."""
    tool = read(item, _MEMBERS, "tools")
    if "function" in tool:
        return [item]
    if "custom" in tool:
        inner: dict[str, Raw] = read(tool["custom"], _MEMBERS, "tools")
        tool |= inner
    if "input_schema" in tool:
        tool = {**tool, "type": _FUNCTION, "parameters": tool["input_schema"]}
    if not is_null(layout := tool.get("format", NULL)):
        # Chat's own custom tools have the grammar one level deeper.
        tool = {**tool, "format": read(layout, _MEMBERS, "tools").get("grammar", layout)}
    offer = Tools()
    offer.offer(Raw(array([join(tool)])), "tools")
    return [Raw(_encode(function)) for function in offer.offered]


def _tool_choice(raw: Raw) -> dict[str, Raw]:
    choice = read(raw, _CHOICE, "tool_choice")
    given = {"tool_choice": Raw(_chosen(choice, raw))}
    if choice.disable_parallel_tool_use:
        given["parallel_tool_calls"] = Raw(b"false")
    return given


def _chosen(choice: _Choice, raw: Raw) -> bytes:
    if not (is_null(choice.function) and is_null(choice.allowed_tools)):
        return bytes(raw)
    if choice.type == "allowed_tools":
        tools = array([_chosen(tool, NULL) for tool in choice.tools if tool.type in _CALLABLE])
        allowed = b'{"mode":%b,"tools":%b}' % (quoted(choice.mode), tools)
        return b'{"type":"allowed_tools","allowed_tools":%b}' % allowed
    name = choice.custom.name if choice.custom is not None else choice.name
    if choice.type in _CALLABLE and name is not None:
        return b'{"type":"function","function":{"name":%b}}' % quoted(name)
    return _CHOICES.get(choice.type, b'"auto"')


def _with_system(system: Raw, messages: Raw) -> Raw:
    """Put `system` first; its blocks of text are written as Chat's parts are."""
    if is_null(system):
        return messages
    first = b'{"role":"system","content":%b}' % system
    others: list[Raw] = read(messages, _ITEMS, "messages")
    return Raw(array([first, *(bytes(message) for message in others)]))


def _messages(raw: Raw) -> Raw:
    messages = read(raw, _ITEMS, "messages")
    made = [each for message in messages for each in _message(message)]
    return raw if made == messages else Raw(array([bytes(message) for message in made]))


def _message(raw: Raw) -> list[Raw]:
    """Give a message as it is, unless a block of Anthropic's stands in it."""
    message = read(raw, _MEMBERS, "messages")
    content = message.get("content", NULL)
    if not bytes(content).startswith(b"["):
        return [raw]
    said = _Said()
    for item in read(content, _ITEMS, "messages"):
        said.take(read(item, _BLOCK, "messages"), item)
    return said.messages(message) if said.has_changed else [raw]


class _Said:
    """What a message's blocks become: its own parts, calls, and messages ahead of it."""

    def __init__(self) -> None:
        self.has_changed = False
        self._parts: list[bytes] = []
        self._calls: list[bytes] = []
        self._results: list[bytes] = []

    def take(self, block: Block, item: Raw) -> None:
        """Take a block; `item` is what was written."""
        take = _TAKES.get(block.type)
        if take is None:
            self._parts.append(bytes(item))
            return
        self.has_changed = True
        take(self, block)

    def call(self, block: Block) -> None:
        """Take a tool_use."""
        given = "{}" if is_null(block.input) else bytes(block.input).decode()
        function = b'{"name":%b,"arguments":%b}' % (quoted(block.name or ""), quoted(given))
        ident = quoted(block.id or "")
        self._calls.append(b'{"id":%b,"type":"function","function":%b}' % (ident, function))

    def answer(self, block: Block) -> None:
        """Take a tool_result; a tool message holds text only, so all else is the user's."""
        inner = [
            part
            for each in messages_content.blocks(block.content)
            for part in messages_content.parts(each)
        ]
        texts = [part for part in inner if messages_content.is_text(part)]
        self._parts += [part for part in inner if not messages_content.is_text(part)]
        text = joined(texts, rb"\n")
        if block.is_error:
            text = b'"Error: %b' % text[1:]
        ident = quoted(block.tool_use_id or "")
        self._results.append(b'{"role":"tool","tool_call_id":%b,"content":%b}' % (ident, text))

    def show(self, block: Block) -> None:
        """Take an image, a document or a search result."""
        parts = messages_content.parts(block)
        is_text = messages_content.is_text
        self._parts += [text_block(part) if is_text(part) else part for part in parts]

    def leave_out(self, block: Block) -> None:
        """Take thinking, of which nothing is left."""

    def messages(self, message: Mapping[str, Raw]) -> list[Raw]:
        """Give the results, and then `message` with what else it says, if anything."""
        made = [Raw(result) for result in self._results]
        if self._parts or self._calls:
            content = array(self._parts) if self._parts else b"null"
            own: dict[str, Raw | bytes] = {**message, "content": content}
            if self._calls:
                calls = message.get("tool_calls", NULL)
                known = [] if is_null(calls) else read(calls, _ITEMS, "messages")
                own["tool_calls"] = array([bytes(call) for call in known] + self._calls)
            made.append(Raw(join(own)))
        return made


_TAKES: Mapping[str, Callable[[_Said, Block], None]] = {
    "tool_use": _Said.call,
    "tool_result": _Said.answer,
    "thinking": _Said.leave_out,
    "redacted_thinking": _Said.leave_out,
    "image": _Said.show,
    "document": _Said.show,
    "search_result": _Said.show,
}
