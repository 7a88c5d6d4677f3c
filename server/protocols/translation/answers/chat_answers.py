"""What a Chat Completions server says, read as far as a translation needs it.

Strings that are only moved stay escaped, as they stand between their quotes. Whatever is not of
the expected shape counts as missing.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from server.protocols import sse

NULL = Raw(b"null")
SIGNED_FORMAT = "anthropic-claude-v1"

Item = TypeVar("Item")


class _Function(msgspec.Struct, gc=False):
    name: Raw = NULL
    arguments: Raw = NULL


class ToolCall(msgspec.Struct, gc=False):
    """A tool call, or a fragment of one."""

    index: Raw = NULL
    id: Raw = NULL
    function: _Function | None = None

    @property
    def ident(self) -> str:
        """Its id, if it tells one."""
        return string(self.id)

    @property
    def name(self) -> str:
        """The tool's name, if it tells one."""
        return string(self.function.name) if self.function else ""

    @property
    def arguments(self) -> str:
        """The text of the arguments; some servers send the object itself."""
        raw = self.function.arguments if self.function else NULL
        if is_null(raw) or bytes(raw).startswith(b'"'):
            return string(raw)
        return bytes(raw).decode()


class Said(msgspec.Struct, gc=False):
    """A message, or a delta of one."""

    content: Raw = NULL
    refusal: Raw = NULL
    reasoning_content: Raw = NULL
    reasoning: Raw = NULL
    reasoning_details: Raw = NULL
    tool_calls: Raw = NULL
    function_call: Raw = NULL


class Choice(msgspec.Struct, gc=False):
    """A choice; `stop_reason` is vLLM's, and Moonshot's `usage` stands here."""

    index: Raw = NULL
    delta: Said | None = None
    message: Said | None = None
    finish_reason: Raw = NULL
    stop_reason: Raw = NULL
    usage: Raw = NULL

    @property
    def is_first(self) -> bool:
        """Tell whether this is the one that a Messages client asked for."""
        return self.index is NULL or bytes(self.index) in (b"0", b"null")


class Completion(msgspec.Struct, gc=False):
    """An answer, or a chunk of one."""

    choices: list[Choice] | None = None
    usage: Raw = NULL
    error: Raw = NULL


class Detail(msgspec.Struct):
    """One of the `reasoning_details`, in OpenRouter's manner."""

    type: str = ""
    text: Raw = NULL
    summary: Raw = NULL
    signature: Raw = NULL
    data: Raw = NULL
    format: str | None = None

    @property
    def words(self) -> bytes:
        """The readable reasoning, escaped."""
        return escaped(self.text) or escaped(self.summary)

    @property
    def is_signed(self) -> bool:
        """Tell whether its provider takes it back."""
        return bool(escaped(self.signature) or escaped(self.data))


class Heard(NamedTuple):
    """What was said beside tool calls, all of it escaped.

    `thoughts` are by the field that they stood in; some servers say the same in two. `details`
    matter for the signatures in them.
    """

    thoughts: Mapping[str, bytes]
    details: list[Detail]
    text: bytes
    refusal: bytes


def as_utf8(data: bytes) -> bytes:
    """Replace what is not UTF-8; a JSON reader does not look into what it passes over."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace").encode()
    return data


def read(data: bytes) -> Completion | None:
    """Read an answer or a chunk, in sound UTF-8; None for what is none.

    What only a strict reader refuses, such as half of a surrogate pair, is replaced.
    """
    try:
        return _COMPLETION.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        return _COMPLETION.decode(_mended(data))
    except (ValueError, RecursionError):
        return None


def chunks(whole_events: bytes) -> Iterator[tuple[Completion, bytes]]:
    """Give each chunk in whole events, with the bytes that it was read from; errors are none."""
    for piece in sse.pieces(as_utf8(whole_events)):
        if piece.startswith(b"data: {") and b"\n" not in piece and b"\r" not in piece:
            data = piece[6:]  # nearly every event looks like this, and this is the short way
        else:
            data = sse.fields(piece)[1]
        chunk = read(data) if data.startswith(b"{") else None
        if chunk is not None and is_null(chunk.error):
            yield chunk, data


def heard(said: Said) -> Heard:
    """Read all that was said but the tool calls."""
    text, refusal, thinking = escaped(said.content), escaped(said.refusal), b""
    if not text and bytes(said.content).startswith(b"["):
        found = _listed(said.content, _PARTS)
        thinking = b"".join([escaped(part.thinking) + _plain(part.thinking) for part in found])
        text = b"".join([escaped(part.text) for part in found])
        refusal += b"".join([escaped(part.refusal) for part in found])
    details = _details(said.reasoning_details)
    thoughts = {
        "reasoning_content": escaped(said.reasoning_content),
        "reasoning": escaped(said.reasoning),
        "reasoning_details": b"".join([detail.words for detail in details]),
        "content": thinking,
    }
    thoughts = {field: words for field, words in thoughts.items() if words}
    return Heard(thoughts, details, text, refusal)


def calls(said: Said) -> list[ToolCall]:
    """Read the tool calls, or the one `function_call` of old."""
    if said.tool_calls is NULL and said.function_call is NULL:
        return []
    found = _listed(said.tool_calls, _CALLS)
    if not found and not is_null(said.function_call):
        found = _listed(Raw(b'[{"index":0,"function":%b}]' % bytes(said.function_call)), _CALLS)
    return found


def told_usage(completion: Completion) -> Raw:
    """Find the usage, wherever it stands; null where there is none."""
    if not is_null(completion.usage):
        return completion.usage
    told = [choice.usage for choice in completion.choices or () if not is_null(choice.usage)]
    return told[0] if told else NULL


def is_null(raw: Raw) -> bool:
    """Tell whether a member is null or missing."""
    return raw is NULL or bytes(raw) == b"null"


def is_blank(text: bytes) -> bool:
    """Tell whether an escaped text is empty or nothing but space."""
    return _BLANK.fullmatch(text) is not None


def escaped(raw: Raw) -> bytes:
    """Give what stands between the quotes of a string, as it stands; nothing of all else."""
    if raw is NULL:
        return b""
    written = bytes(raw)
    return written[1:-1] if written.startswith(b'"') else b""


def string(raw: Raw) -> str:
    """Read a string; anything else is an empty one."""
    text = escaped(raw)
    return _STRING.decode(b'"%b"' % text) if text else ""


class _Part(msgspec.Struct):
    text: Raw = NULL
    refusal: Raw = NULL
    thinking: Raw = NULL


_COMPLETION = msgspec.json.Decoder(Completion)
_CALLS = msgspec.json.Decoder(list[ToolCall] | None)
_DETAILS = msgspec.json.Decoder(list[Detail] | None)
_PARTS = msgspec.json.Decoder(list[_Part] | None)
_STRING = msgspec.json.Decoder(str)
_BLANK = re.compile(rb"(?: ++|(?:\\[nrt])++)*+")


def _listed(raw: Raw, decoder: msgspec.json.Decoder[list[Item] | None]) -> list[Item]:
    try:
        return decoder.decode(raw) or []
    except (ValueError, RecursionError):
        return []


def _plain(thinking: Raw) -> bytes:
    return b"".join([escaped(part.text) for part in _listed(thinking, _PARTS)])


def _details(raw: Raw) -> list[Detail]:
    """Read the `reasoning_details`; of others than Claude, the signatures mean nothing here."""
    found = [] if raw is NULL else _listed(raw, _DETAILS)
    for detail in found:
        if detail.format != SIGNED_FORMAT:
            detail.signature = detail.data = NULL
    return found


def _mended(data: bytes) -> bytes:
    value = json.loads(data, strict=False)
    return json.dumps(value, ensure_ascii=False).encode(errors="replace")
