"""Answers of a Messages upstream, for a client that speaks Chat Completions.

What Chat has no place for is left out: citations, and what the provider's own tools were asked
and found. Thinking becomes `reasoning_content`, never visible text; where it is signed, a whole
`reasoning_details` entry follows at its end, so that a client can send it back.
"""

from typing import Any

import msgspec
from msgspec import Raw

from server.errors import UpstreamError
from server.protocols import sse
from server.protocols.envelopes import OPENAI_PING
from server.protocols.translation import Context
from server.protocols.translation.answers.chat_answer_parts import (
    Block,
    Idents,
    arguments_of,
    chat_usage,
    encrypted_reasoning,
    envelope,
    finish_reason,
    message,
    read_block,
    signed_reasoning,
    thinking_tokens,
    tool_call,
)
from server.protocols.usage import MessagesMeter


def answer(body: bytes, context: Context) -> bytes:
    """Translate an answer that is not streamed.

    Raises:
        UpstreamError: the body is no Messages answer.
    """
    meter = MessagesMeter()
    meter.read_body(body)
    try:
        told = _ANSWER.decode(body)
    except (ValueError, RecursionError) as exc:
        raise UpstreamError("The provider's answer is not a message; try again.") from exc
    said = message([read_block(raw) for raw in told.content], context)
    choice = {
        "index": 0,
        "message": said,
        "logprobs": None,
        "finish_reason": finish_reason(meter.stop_reason, has_calls="tool_calls" in said),
    }
    completion = {**envelope("chat.completion", context), "choices": [choice]}
    if usage := chat_usage(meter.usage, thinking_tokens(told.usage)):
        completion["usage"] = usage
    return msgspec.json.encode(completion)


class MessagesAsChat:
    """Translates one stream, see `Machine`.

    A delta becomes a chunk at once. What can only be said of a whole block waits for its end:
    the signature of its thinking, and a tool's input where no fragment of it came.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        shared = msgspec.json.encode(envelope("chat.completion.chunk", context))
        self._begin_chunk = b'data: %b,"choices":[' % shared.removesuffix(b"}")
        self._end_chunk = b'],"usage":null}\n\n' if context.include_usage else b"]}\n\n"
        self._begin_delta = self._begin_chunk + b'{"index":0,"delta":{'
        self._end_delta = b'},"logprobs":null,"finish_reason":null}' + self._end_chunk
        self._meter = MessagesMeter()
        self._idents = Idents(context)
        self._thinking_tokens: int | None = None
        self._open: dict[int, _Thinking | _Call] = {}
        self._has_begun = self._has_content = False
        self._calls = self._details = 0

    def feed(self, whole_events: bytes) -> bytes:
        chunks: list[bytes] = []
        text = whole_events.decode(errors="replace").encode()  # the reader skips some strings
        for piece in sse.pieces(text):
            try:
                event = _EVENT.decode(sse.fields(piece)[1])
            except (ValueError, RecursionError):
                continue
            if event.type == "content_block_delta":
                if not self._has_begun:
                    chunks += self._begin()
                chunks.append(self._take_delta(event.index, event.delta))
            else:
                chunks += self._take_other(event, piece)
        return b"".join(chunks)

    def finish(self) -> bytes:
        chunks = [*self._begin(), *(self._close(index) for index in list(self._open))]
        if not self._has_content and not self._calls:
            chunks.append(self._delta(b'"content":""'))
        reason = finish_reason(self._meter.stop_reason, has_calls=self._calls > 0).encode()
        last = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"%b"}' % reason
        chunks += (self._begin_chunk, last, self._end_chunk)
        usage = chat_usage(self._meter.usage, self._thinking_tokens)
        if usage and self._context.include_usage:
            chunks += (self._begin_chunk, b'],"usage":', msgspec.json.encode(usage), b"}\n\n")
        return b"".join((*chunks, b"data: [DONE]\n\n"))

    def _take_delta(self, index: int, delta: "_Delta") -> bytes:
        match delta.type:
            case "text_delta":
                return self._say(_string(delta.text))
            case "thinking_delta":
                return self._think(index, _string(delta.thinking))
            case "input_json_delta":
                return self._argue(index, _string(delta.partial_json))
            case "signature_delta" if isinstance(block := self._open.get(index), _Thinking):
                block.signature = _string(delta.signature)
        return b""

    def _take_other(self, event: "_Event", piece: bytes) -> list[bytes]:
        match event.type:
            case "ping":
                return [OPENAI_PING]
            case "message_start" | "message_delta":
                self._count(event, piece)
                return self._begin()
            case "content_block_start":
                return [*self._begin(), *self._start(event.index, read_block(event.content_block))]
            case "content_block_stop":
                return [self._close(event.index)]
        return []

    def _count(self, event: "_Event", piece: bytes) -> None:
        self._meter.feed(piece + b"\n\n")
        for usage in (event.message.usage, event.usage):
            if (tokens := thinking_tokens(usage)) is not None:
                self._thinking_tokens = tokens

    def _begin(self) -> list[bytes]:
        if self._has_begun:
            return []
        self._has_begun = True
        return [self._delta(b'"role":"assistant","content":null')]

    def _start(self, index: int, block: Block) -> list[bytes]:
        """Open a block; some servers send one with all that it says, and no delta."""
        match block.type:
            case "text":
                return [self._say(_quoted(block.text))]
            case "thinking":
                self._open[index] = _Thinking([], _quoted(block.signature))
                return [self._think(index, _quoted(block.thinking))]
            case "redacted_thinking":
                return [self._detail(encrypted_reasoning(block.data))]
            case "tool_use" if block.name:
                number, self._calls = self._calls, self._calls + 1
                self._open[index] = _Call(number, arguments_of(block))
                ident = self._idents.unique(block.id)
                return [self._call(number, tool_call(block, ident, "", self._context))]
        return []

    def _say(self, text: bytes) -> bytes:
        if not text:
            return b""
        self._has_content = True
        return b'%b"content":%b%b' % (self._begin_delta, text, self._end_delta)

    def _think(self, index: int, text: bytes) -> bytes:
        if not text:
            return b""
        if isinstance(block := self._open.get(index), _Thinking):
            block.texts.append(text[1:-1])
        return b'%b"reasoning_content":%b%b' % (self._begin_delta, text, self._end_delta)

    def _argue(self, index: int, fragment: bytes) -> bytes:
        call = self._open.get(index)
        if not fragment or not isinstance(call, _Call):
            return b""
        call.arguments = ""
        return self._call(call.number, {"function": {"arguments": Raw(fragment)}})

    def _close(self, index: int) -> bytes:
        block = self._open.pop(index, None)
        if isinstance(block, _Thinking) and block.signature:
            thinking = Raw(b'"%b"' % b"".join(block.texts))
            return self._detail(signed_reasoning(thinking, Raw(block.signature)))
        if isinstance(block, _Call) and block.arguments:
            return self._call(block.number, {"function": {"arguments": block.arguments}})
        return b""

    def _call(self, number: int, members: dict[str, Any]) -> bytes:
        call = msgspec.json.encode({"index": number, **members})
        return self._delta(b'"tool_calls":[%b]' % call)

    def _detail(self, detail: dict[str, Any]) -> bytes:
        told = msgspec.json.encode({**detail, "index": self._details})
        self._details += 1
        return self._delta(b'"reasoning_details":[%b]' % told)

    def _delta(self, members: bytes) -> bytes:
        return b"".join((self._begin_delta, members, self._end_delta))


class _Delta(msgspec.Struct, frozen=True):
    type: str = ""
    text: Raw = Raw(b"")
    thinking: Raw = Raw(b"")
    signature: Raw = Raw(b"")
    partial_json: Raw = Raw(b"")


class _Started(msgspec.Struct, frozen=True):
    usage: Raw = Raw(b"")


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    index: int = 0
    delta: _Delta = _Delta()
    content_block: Raw = Raw(b"")
    message: _Started = _Started()
    usage: Raw = Raw(b"")


class _Answer(msgspec.Struct, frozen=True):
    content: list[Raw]
    usage: Raw = Raw(b"")


class _Thinking(msgspec.Struct):
    """A thinking block that is open: its JSON text so far, without quotation marks."""

    texts: list[bytes]
    signature: bytes


class _Call(msgspec.Struct):
    """A tool_use block that is open; `arguments` are those to give if no fragment comes."""

    number: int
    arguments: str


_EVENT = msgspec.json.Decoder(_Event)
_ANSWER = msgspec.json.Decoder(_Answer)


def _string(raw: Raw) -> bytes:
    """Give a JSON string as it is; nothing for an empty one, and for what is no string."""
    text = bytes(raw)
    return text if text.startswith(b'"') and text != b'""' else b""


def _quoted(text: str | None) -> bytes:
    """Give a string's JSON; nothing for an empty one."""
    return msgspec.json.encode(text) if text else b""
