"""A Chat conversation as the turns of a Messages request.

    Chat                                Messages
    system, developer, before all else  blocks of `system`, one for each text
    system, developer, later on         user text in place, between <system-reminder> tags
    user                                user
    assistant                           assistant: signed thinking, texts, then tool_use
    tool, function                      user: tool_result, ahead of what the user says
    a call without its result           a tool_result that says so, with is_error
    a result without its call           user text

Turns alternate, whatever stood side by side. What a message becomes never depends on a later
one, but for the end of the last user turn: a growing conversation keeps its cached prefix.

A late system message would fit the API's own `role: "system"`. Only newer models take that,
each after a user turn and before an assistant one, and the gateway cannot tell which model it is.
"""

from collections import deque
from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.translation import idents
from server.protocols.translation.arguments import UNFIT
from server.protocols.translation.json_text import AT_MOST, NULL, array, quoted, read
from server.protocols.translation.requests.chat_parts import (
    Block,
    blocks,
    is_string,
    marked,
    text_block,
)


class Conversation(Struct, frozen=True):
    """The text blocks of `system`, and the user's and the assistant's turns."""

    system: list[bytes]
    turns: list[bytes]


def conversation(messages: Raw) -> Conversation:
    """Read the `messages` of a Chat request.

    Instructions alone become the user's turn: the API wants at least one.

    Raises:
        InvalidRequest: a message of no known role or shape.
    """
    said = read(messages, _MESSAGES, "messages")
    late = next((at for at, each in enumerate(said) if each.role not in _INSTRUCTING), len(said))
    system = [block for each in said[:late] for block in _whole(_content(each))]
    turns = _Turns()
    for each in said[late:]:
        _take(turns, each)
    turns.end()
    if system and not turns.done:
        return Conversation([], [_turn("user", system)])
    return Conversation(system, turns.done)


class _Function(Struct):
    name: str = ""
    arguments: Raw = NULL


class _Call(Struct):
    id: str | None = None
    function: _Function | None = None


class _Message(Struct):
    role: str
    content: Raw = NULL
    name: str | None = None
    refusal: Raw = NULL
    audio: Raw = NULL
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    reasoning_details: Raw = NULL
    cache_control: Raw = NULL


class _Detail(Struct):
    type: str | None = None
    text: str | None = None
    signature: str | None = None
    data: str | None = None
    format: str | None = None
    index: int | None = None


_encode = msgspec.json.Encoder().encode
_MESSAGES = msgspec.json.Decoder(Annotated[list[_Message], AT_MOST])
_DETAILS = msgspec.json.Decoder(list[_Detail])
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_STRING = msgspec.json.Decoder(str)
_INSTRUCTING = frozenset({"system", "developer"})
_SIGNED_BY_CLAUDE = "anthropic"
_NO_RESULT = b'"No result: the call was not carried out, or was cancelled."'
_NO_CALL = Block(text_block(b'"The result of a tool call that is no longer in this conversation:"'))
_TEXT_START, _TEXT_END = text_block(b'""')[:-2], b'"}'


class _Turns:
    """The turns that are `done`, and the one or two that still grow."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self._said: list[bytes] = []  # by the assistant
        self._calls: list[bytes] = []
        self._results: list[bytes] = []
        self._asked: list[bytes] = []  # by the user
        self._open: dict[str, str] = {}  # calls without result: our id, and the client's
        self._ours: dict[str, deque[str]] = {}  # the same the other way, the first call first
        self._idents: set[str] = set()
        self._again: dict[str, int] = {}

    def say(self, said: list[bytes], calls: list[tuple[str, _Function]]) -> None:
        """Let the assistant say something; texts go ahead of calls, whose results come next."""
        if self._results or self._asked:
            self._end_user()
        self._said += said
        for ident, function in calls:
            ours = self._own(ident)
            self._open[ours] = ident
            self._ours.setdefault(ident, deque()).append(ours)
            self._calls.append(_tool_use(ours, function))

    def ask(self, asked: list[Block]) -> None:
        """Let the user say something; nothing is no turn."""
        if asked:
            self._end_assistant()
            self._asked += _whole(asked)

    def answer(self, ident: str, result: list[Block]) -> None:
        """Give a call its result; one without its call is told as text."""
        waiting = self._ours.get(ident)
        if not waiting:
            self.ask([_NO_CALL, *result] if result else [])
            return
        self._end_assistant()
        ours = waiting.popleft()
        del self._open[ours]
        self._results.append(_tool_result(ours, result))

    def end(self) -> None:
        """End what is open."""
        self._end_assistant()
        if self._results or self._asked or self._open:
            self._end_user()

    def _end_assistant(self) -> None:
        if self._said or self._calls:
            self.done.append(_turn("assistant", self._said + self._calls))
            self._said, self._calls = [], []

    def _end_user(self) -> None:
        missing = [_missing_result(ours) for ours in self._open]
        self.done.append(_turn("user", self._results + missing + self._asked))
        self._results, self._asked, self._open, self._ours = [], [], {}, {}

    def _own(self, ident: str) -> str:
        """Give the id that leaves; some servers begin anew with `call_0` in every turn."""
        safe = ours = idents.to_safe(ident or "call")
        while ours in self._idents:
            again = self._again[safe] = self._again.get(safe, 1) + 1
            ours = f"{safe}_{again}"
        self._idents.add(ours)
        return ours


def _take(turns: _Turns, message: _Message) -> None:
    match message.role:
        case "assistant":
            said, calls = _assistant(message), list(_calls(message))
            if said or calls:
                turns.say(said, calls)
        case "user":
            turns.ask(_content(message))
        case "tool":
            turns.answer(message.tool_call_id or "", _content(message))
        case "function":
            turns.answer(_legacy_ident(message.name or ""), _content(message))
        case "system" | "developer":
            turns.ask([_between_tags(block) for block in _content(message)])
        case _:
            raise InvalidRequest(
                f'"{message.role[:64]}" is no role of a message.', param="messages"
            )


def _content(message: _Message) -> list[Block]:
    return blocks(message.content, message.cache_control)


def _whole(found: list[Block]) -> list[bytes]:
    return [block.whole() for block in found]


def _turn(role: str, content: list[bytes]) -> bytes:
    return b'{"role":"%b","content":%b}' % (role.encode(), array(content))


def _between_tags(block: Block) -> Block:
    text = block.bare[len(_TEXT_START) : -len(_TEXT_END)]
    tagged = rb"%b<system-reminder>\n%b\n</system-reminder>%b" % (_TEXT_START, text, _TEXT_END)
    return Block(tagged, block.mark) if block.bare.startswith(_TEXT_START) else block


def _assistant(message: _Message) -> list[bytes]:
    """Give what the assistant said, behind the thinking that it signed."""
    if message.audio != NULL:
        raise InvalidRequest("This model knows no earlier audio answers.", param="messages")
    said = _content(message)
    if message.refusal != NULL:
        said += blocks(message.refusal)
    return [*_thinking(message.reasoning_details), *_whole(said)]


def _thinking(details: Raw) -> Iterator[bytes]:
    """Give the blocks of the thinking that Claude signed; what others thought is left out.

    A stream's pieces may come back one by one: texts of one index, and a signature at the end.
    """
    text, at = "", None
    for detail in _details(details):
        if detail.type == "reasoning.encrypted":
            yield _encode({"type": "redacted_thinking", "data": detail.data or ""})
            continue
        if detail.index != at:
            text, at = "", detail.index
        text += detail.text or ""
        if detail.signature:
            yield _encode({"type": "thinking", "thinking": text, "signature": detail.signature})
            text = ""


def _details(details: Raw) -> list[_Detail]:
    try:
        found = _DETAILS.decode(details)
    except (msgspec.DecodeError, RecursionError):
        return []
    return [each for each in found if (each.format or "").startswith(_SIGNED_BY_CLAUDE)]


def _calls(message: _Message) -> Iterator[tuple[str, _Function]]:
    for call in message.tool_calls or ():
        if call.function is None:
            raise InvalidRequest("Each of tool_calls must call a function.", param="messages")
        yield call.id or "", call.function
    if message.function_call is not None:
        yield _legacy_ident(message.function_call.name), message.function_call


def _legacy_ident(name: str) -> str:
    """Give `function_call` and its `function` message an id: they have only the name."""
    return f"call_{name}"


def _tool_use(ident: str, function: _Function) -> bytes:
    name, given = quoted(function.name), _input(function.arguments)
    return b'{"type":"tool_use","id":"%b","name":%b,"input":%b}' % (ident.encode(), name, given)


def _input(arguments: Raw) -> Raw | bytes:
    """Give a call's input as the text that the model wrote, numbers and spaces untouched.

    None is `{}`. What is no object, by a slip of the model's, stands as text under `UNFIT`.
    """
    if arguments == NULL:
        return b"{}"
    if not is_string(arguments):
        return arguments  # the object itself, as some clients send it
    text = read(arguments, _STRING, "messages")
    try:
        _OBJECT.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return b"{%b:%b}" % (quoted(UNFIT), arguments) if text.strip() else b"{}"
    return text.encode()


def _tool_result(ident: str, result: list[Block]) -> bytes:
    """Give a result; its mark goes on the whole of it, as that is what is cached."""
    content = b',"content":%b' % array([block.bare for block in result]) if result else b""
    bare = b'{"type":"tool_result","tool_use_id":"%b"%b}' % (ident.encode(), content)
    marks = [block.mark for block in result if block.mark != NULL]
    return marked(bare, marks[-1]) if marks else bare


def _missing_result(ident: str) -> bytes:
    return b'{"type":"tool_result","tool_use_id":"%b","content":%b,"is_error":true}' % (
        ident.encode(),
        _NO_RESULT,
    )
