"""The turns of a Messages request, as Chat messages.

Each message is made of its own turn and of those before it, never of later ones, so that what a
request says first is said in the same bytes when the session has grown.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import chain, groupby
from typing import Annotated

import msgspec
from msgspec import Raw

from server.errors import InvalidRequest
from server.protocols.compat import Compat
from server.protocols.translation.answers.chat_answers import SIGNED_FORMAT
from server.protocols.translation.idents import from_safe
from server.protocols.translation.json_text import (
    AT_MOST,
    NULL,
    array,
    is_null,
    joined,
    optional,
    quoted,
    read,
    string,
)
from server.protocols.translation.requests import messages_content
from server.protocols.translation.requests.messages_content import Block
from server.protocols.translation.requests.messages_tools import Names

# Claude Code's first system block: only Anthropic takes it out of the prompt, and it differs
# from version to version, so elsewhere it would stand in front of every cached prefix.
ATTRIBUTION = b'"x-anthropic-billing-header:'

_SIGNED = quoted(SIGNED_FORMAT)


def messages(
    fields: Mapping[str, Raw], compat: Compat, names: Names, instruction: bytes | None = None
) -> Raw:
    """Give the `messages` of a Chat request: `system` first, then the turns.

    `instruction` is a written string that the first system message ends with.

    Raises:
        InvalidRequest: something cannot be sent, or tool calls and results do not match.
    """
    conversation = Conversation(compat, names)
    conversation.add_system(fields.get("system", NULL), instruction)
    turns = read(fields["messages"], _TURNS, "messages")
    for role, run in groupby(turns, _role):
        if role == "assistant":
            conversation.add_assistant(chain.from_iterable(map(_blocks, run)))
        elif role == "user":
            for turn in run:
                conversation.add_user(_blocks(turn))
        elif role == "system":
            for turn in run:
                conversation.add_system(turn.content)
        else:
            raise InvalidRequest(
                "A message's role must be user, assistant or system.", param="messages"
            )
    return conversation.end()


class Conversation:
    """Chat messages in the making.

    The results of a turn's tool calls follow it at once. What comes before the last of them
    waits behind it.
    """

    def __init__(self, compat: Compat, names: Names) -> None:
        self._compat = compat
        self._names = names
        self._sent: list[bytes] = []
        self._unanswered: dict[str, str] = {}  # by their ids: the ids that the client gave them
        self._waiting: list[bytes] = []

    def add_system(self, content: Raw, instruction: bytes | None = None) -> None:
        """Take `system`, or a system message from among the turns."""
        texts = [text for block in messages_content.blocks(content) for text in _system(block)]
        if instruction is not None:
            texts.append(instruction)
        if not texts:
            return
        text = joined(texts, rb"\n\n")
        if self._compat.late_system == "user" and (self._sent or self._waiting):
            # As Claude Code itself sends it where it has no such role.
            text = rb'"<system-reminder>\n%b\n</system-reminder>"' % text[1:-1]
            self._send(b'{"role":"user","content":%b}' % text)
        else:
            self._send(b'{"role":"system","content":%b}' % text)

    def add_user(self, blocks: Iterable[Block]) -> None:
        """Take a user's turn: its tool results first, each a message, then all else as one."""
        moved: list[bytes] = []
        own: list[bytes] = []
        for block in blocks:
            if block.type == "tool_result":
                moved += self._answer(block)
            else:
                own += messages_content.parts(block)
        if parts := moved + own:
            written = messages_content.content(parts, text_parts=self._compat.text_parts)
            self._send(b'{"role":"user","content":%b}' % written)

    def add_assistant(self, blocks: Iterable[Block]) -> None:
        """Take all that the assistant said and called between two turns of others."""
        self._check_answered()
        texts: list[bytes] = []
        thoughts: list[Block] = []
        calls: list[bytes] = []
        for kind, run in groupby(blocks, _type):
            match kind:
                case "text":  # cut where a citation begins or ends, in the middle of a sentence
                    texts.append(joined([text for each in run for text in _text(each)], b""))
                case "compaction":
                    texts += [text for each in run for text in optional(each.content, "content")]
                case "thinking" | "redacted_thinking":
                    thoughts += run
                case "tool_use":
                    calls += map(self._call, run)
                case _:
                    pass  # what another provider's own tools did: the texts tell what came of it
        texts = [text for text in texts if text != b'""']
        reasoning = self._reasoning(thoughts)
        if not texts and not calls and not reasoning:
            return
        members = [b'"role":"assistant"', b'"content":%b' % _said(texts, has_calls=bool(calls))]
        members += reasoning or self._no_reasoning()
        if calls:
            members.append(b'"tool_calls":' + array(calls))
        self._sent.append(b"{%b}" % b",".join(members))

    def end(self) -> Raw:
        """Give the messages.

        Raises:
            InvalidRequest: there are none, or the last tool calls have no results.
        """
        self._check_answered()
        if not self._sent:
            raise InvalidRequest("messages must say something.", param="messages")
        return Raw(array(self._sent))

    def _send(self, message: bytes) -> None:
        (self._waiting if self._unanswered else self._sent).append(message)

    def _call(self, block: Block) -> bytes:
        if not block.id or not block.name:
            raise InvalidRequest("A tool_use block needs an id and a name.", param="messages")
        ident = from_safe(block.id)
        if ident in self._unanswered:
            raise InvalidRequest(
                f"messages: `tool_use` ids must be unique: {block.id} stands twice.",
                param="messages",
            )
        self._unanswered[ident] = block.id
        name = self._names.sent(block.name).encode()
        return b'{"id":%b,"type":"function","function":{"name":"%b","arguments":%b}}' % (
            quoted(ident),
            name,
            _arguments(block.input),
        )

    def _answer(self, block: Block) -> list[bytes]:
        """Send a tool's result; give the parts of it that only a user may send."""
        ident = from_safe(block.tool_use_id or "")
        if ident not in self._unanswered:
            raise InvalidRequest(
                "messages: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{block.tool_use_id}. "
                "Each needs its `tool_use` block in the message before.",
                param="messages",
            )
        texts, moved = self._result(block)
        text = joined(texts, rb"\n")
        if block.is_error:
            text = b'"Error: %b' % text[1:]
        written = quoted(ident)
        self._sent.append(b'{"role":"tool","tool_call_id":%b,"content":%b}' % (written, text))
        del self._unanswered[ident]
        if not self._unanswered:
            self._sent += self._waiting
            self._waiting.clear()
        # Where several calls brought images, only this tells which one brought which.
        return [b'"From the result of %b:"' % written[1:-1], *moved] if moved else []

    def _result(self, block: Block) -> tuple[list[bytes], list[bytes]]:
        texts: list[bytes] = []
        moved: list[bytes] = []
        for inner in messages_content.blocks(block.content):
            if inner.type == "tool_reference":
                texts.append(quoted(self._names.sent(inner.tool_name or "")))
                continue
            for part in messages_content.parts(inner):
                (texts if messages_content.is_text(part) else moved).append(part)
        return texts, moved

    def _reasoning(self, thoughts: list[Block]) -> list[bytes]:
        """Give the member in which this server wants a turn's reasoning back, if it does."""
        field = self._compat.reasoning_field
        if field is None:
            return []
        if field == "reasoning_details":
            details = [_detail(thought, index) for index, thought in enumerate(thoughts)]
            return [b'"reasoning_details":' + array(details)] if details else []
        texts = [text for thought in thoughts for text in optional(thought.thinking, "thinking")]
        return [b"%b:%b" % (quoted(field), joined(texts, rb"\n\n"))] if texts else []

    def _no_reasoning(self) -> list[bytes]:
        field = self._compat.reasoning_field
        return [quoted(field) + b':""'] if field and self._compat.reasoning_required else []

    def _check_answered(self) -> None:
        if self._unanswered:
            raise InvalidRequest(
                "messages: `tool_use` ids were found without `tool_result` blocks immediately "
                f"after: {', '.join(self._unanswered.values())}.",
                param="messages",
            )


class _Turn(msgspec.Struct):
    role: str
    content: Raw = NULL


_TURNS = msgspec.json.Decoder(Annotated[list[_Turn], AT_MOST])
_NO_MEMBERS = re.compile(rb"\{\s*\}")


def _role(turn: _Turn) -> str:
    return turn.role


def _type(block: Block) -> str:
    return block.type


def _text(block: Block) -> list[bytes]:
    return optional(block.text, "text")


def _blocks(turn: _Turn) -> list[Block]:
    return messages_content.blocks(turn.content)


def _system(block: Block) -> list[bytes]:
    """Give what a block of a system prompt says; what it changes about tools is passed over."""
    if block.type in ("tool_addition", "tool_removal"):
        return []
    if block.type != "text":
        raise InvalidRequest("system must be text.", param="system")
    return [text for text in _text(block) if not text.startswith(ATTRIBUTION)]


def _said(texts: list[bytes], *, has_calls: bool) -> bytes:
    if texts:
        return joined(texts, rb"\n\n")
    return b"null" if has_calls else b'""'


def _arguments(given: Raw) -> bytes:
    """Write a call's input as a string, with its numbers and its order as they are."""
    if is_null(given):
        return b'"{}"'
    text = bytes(given)
    if not text.startswith(b"{"):
        raise InvalidRequest("A tool_use block's input must be an object.", param="messages")
    return b'"{}"' if _NO_MEMBERS.fullmatch(text) else quoted(text.decode())


def _detail(thought: Block, index: int) -> bytes:
    """Write a thought in OpenRouter's manner, the only one that carries a signature."""
    if thought.type == "redacted_thinking":
        return b'{"type":"reasoning.encrypted","data":%b,"format":%b,"index":%d}' % (
            string(thought.data, "data"),
            _SIGNED,
            index,
        )
    text = string(thought.thinking, "thinking")
    signature = optional(thought.signature, "signature")
    if not signature:
        return b'{"type":"reasoning.text","text":%b,"format":"unknown","index":%d}' % (text, index)
    return b'{"type":"reasoning.text","text":%b,"signature":%b,"format":%b,"index":%d}' % (
        text,
        signature[0],
        _SIGNED,
        index,
    )
