"""Streams, gathered into the body that the upstream sends to who asks for no stream.

Members that nobody here knows are kept.
"""

import msgspec
from msgspec import Raw

from server.protocols import sse
from server.protocols.body import join
from server.protocols.translation import arguments
from server.protocols.translation.answers.growing_objects import Growing, Shape


class MessagesWhole:
    """Gathers a Messages stream, see `Machine`; nothing comes before the end.

    A tool's input that is no JSON object becomes one in the manner of `arguments`.
    """

    def __init__(self) -> None:
        self._message = Growing()
        self._blocks: list[Growing] = []
        self._open: dict[int, Growing] = {}

    def feed(self, whole_events: bytes) -> bytes:
        for _, data in sse.events(_text(whole_events)):
            try:
                self._take(_EVENT.decode(data), data)
            except (ValueError, RecursionError):
                continue
        return b""

    def finish(self) -> bytes:
        content = [_written_block(block) for block in self._blocks]
        return join({**self._message.written(), "content": _array(content)})

    def _take(self, event: "_Event", data: bytes) -> None:
        match event.type:
            case "content_block_delta" if event.index in self._open:
                self._open[event.index].merge(_growth(event.delta))
            case "message_start":
                self._message.merge(event.message)
            case "content_block_start":
                self._open[event.index] = block = Growing(_BLOCK)
                self._blocks.append(block)
                block.merge(event.content_block)
            case "message_delta":
                self._message.merge(event.delta)
                self._message.merge(_beside_delta(data))


class ChatWhole:
    """Gathers a Chat Completions stream, see `Machine`; nothing comes before the end."""

    def __init__(self) -> None:
        self._completion = Growing(_COMPLETION)

    def feed(self, whole_events: bytes) -> bytes:
        for _, data in sse.events(_text(whole_events)):
            try:
                self._completion.add(data)
            except (ValueError, RecursionError):
                continue
        return b""

    def finish(self) -> bytes:
        members = self._completion.written()
        members.pop("obfuscation", None)  # stuffing, that hides how long a chunk is
        choices = [_written_choice(choice) for choice in self._completion.indexed("choices")]
        return join({**members, "object": b'"chat.completion"', "choices": _array(choices)})


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    index: int = 0
    message: dict[str, Raw] = {}
    content_block: dict[str, Raw] = {}
    delta: dict[str, Raw] = {}


_EVENT = msgspec.json.Decoder(_Event)
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_STRING = msgspec.json.Decoder(str)

_BLOCK = Shape(joined=frozenset({"text", "thinking", "citations", "partial_json"}))

_CALL = Shape(
    inner={
        "function": Shape(joined=frozenset({"arguments"})),
        "custom": Shape(joined=frozenset({"input"})),
    }
)
_DELTA = Shape(
    joined=frozenset({"content", "refusal", "reasoning_content", "reasoning", "reasoning_details"}),
    inner={
        "function_call": Shape(joined=frozenset({"arguments"})),
        "audio": Shape(joined=frozenset({"data", "transcript"})),
    },
    indexed={"tool_calls": _CALL},
)
_CHOICE = Shape(
    inner={"delta": _DELTA, "logprobs": Shape(joined=frozenset({"content", "refusal"}))}
)
_IN_PLACE_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio")
_NOTHING = (None, b"null", b'""', b"[]")
_COMPLETION = Shape(indexed={"choices": _CHOICE})


def _text(whole_events: bytes) -> bytes:
    """Replace what is not UTF-8; the body would be of use to nobody."""
    return whole_events.decode(errors="replace").encode()


def _growth(delta: dict[str, Raw]) -> dict[str, Raw]:
    """Give what a delta adds to the members of its block."""
    if "citation" in delta:
        return {"citations": Raw(b"[%b]" % delta["citation"])}
    return {name: value for name, value in delta.items() if name != "type"}


def _beside_delta(data: bytes) -> dict[str, Raw]:
    members = _MEMBERS.decode(data)
    return {name: value for name, value in members.items() if name not in ("type", "delta")}


def _written_block(block: Growing) -> bytes:
    members = block.written()
    fragments = members.pop("partial_json", b'""')
    if fragments.startswith(b'"') and fragments != b'""':
        members["input"] = arguments.whole(_STRING.decode(fragments)).encode()
    return join(members)


def _written_choice(choice: Growing) -> bytes:
    message = {"role": b'"assistant"', "content": b"null", **choice.inner("delta").written()}
    says_else = any(message.get(name) not in _NOTHING for name in _IN_PLACE_OF_CONTENT)
    if message["content"] == b'""' and says_else:
        message["content"] = b"null"
    members = choice.written()
    members.pop("delta", None)
    return join({"index": b"0", "message": join(message), **members})


def _array(items: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)
