"""The end of a stream that the gateway stops itself: as if the token limit had been reached.

A tracker sees what the client was given and remembers what is open. It looks for a few byte
patterns and decodes only the events that hold one, as the meters do.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from server.protocols import Protocol, sse
from server.protocols.usage import Usage


class Tracker:
    """What one stream has left open; `feed` it whole events once they are the client's.

    Pings and comments, and what `Meter.feed_deltas` takes, need not be fed.
    """

    def feed(self, whole_events: bytes) -> None:
        """Take note of one or more whole events; never raises, whatever they hold."""
        at = self._next_telling(whole_events, 0)
        if at < 0:
            return
        if b"\r" in whole_events:
            for piece in sse.pieces(whole_events):
                if self._next_telling(piece, 0) >= 0:
                    self._read_event(sse.fields(piece)[1])
            return
        while at >= 0:
            begin = whole_events.rfind(b"\n\n", 0, at)
            end = whole_events.find(b"\n\n", at)
            piece = whole_events[0 if begin < 0 else begin + 2 : None if end < 0 else end]
            self._read_event(sse.fields(piece)[1])
            at = -1 if end < 0 else self._next_telling(whole_events, end + 2)

    def ending(self, *, output_tokens: int, usage: Usage, include_usage: bool) -> bytes | None:
        """Give the events that are missing to end the stream; None where it has not begun.

        `output_tokens` is what was delivered, whatever `usage` says of it. `include_usage` is
        the Chat client's wish; a Messages stream always tells its usage. A block, choice or
        message that the provider has ended keeps the provider's reason.
        """
        raise NotImplementedError

    def _next_telling(self, events: bytes, begin: int) -> int:
        """Find where, from `begin` on, an event may open or end something; -1 where none does."""
        raise NotImplementedError

    def _read_event(self, data: bytes) -> None:
        raise NotImplementedError


class MessagesTracker(Tracker):
    """Tracks the content blocks of an Anthropic Messages stream."""

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # indices, in the order in which they were opened
        self._has_begun = self._has_reason = self._is_over = False

    def ending(
        self,
        *,
        output_tokens: int,
        usage: Usage,
        include_usage: bool,  # noqa: ARG002 - see Tracker
    ) -> bytes | None:
        if not self._has_begun:
            return None
        if self._is_over:
            return b""
        events = [_message_event("content_block_stop", index=index) for index in self._open]
        if not self._has_reason:
            delta = {"stop_reason": "max_tokens", "stop_sequence": None}
            counts = _messages_usage(output_tokens, usage)
            events.append(_message_event("message_delta", delta=delta, usage=counts))
        events.append(_message_event("message_stop"))
        return b"".join(events)

    def _next_telling(self, events: bytes, begin: int) -> int:
        places = (events.find(b'"content_block_st', begin), events.find(b'"message_', begin))
        return min((place for place in places if place >= 0), default=-1)

    def _read_event(self, data: bytes) -> None:
        try:
            event = _EVENT.decode(data)
        except (ValueError, RecursionError):
            return
        match event.type:
            case "message_start":
                self._has_begun = True
            case "content_block_start":
                self._open[event.index] = None
            case "content_block_stop":
                self._open.pop(event.index, None)
            case "message_delta":
                self._has_reason = bool(event.delta.stop_reason)
            case "message_stop":
                self._is_over = True


class ChatTracker(Tracker):
    """Tracks the choices of an OpenAI Chat Completions stream; those it has seen are those it has.

    Until a choice is open and once none is, each event is read; in between only those that
    finish a choice or speak of another than the first.
    """

    def __init__(self) -> None:
        self._first: _Chunk | None = None
        self._finished: dict[int, bool] = {}  # by the choice's index
        self._has_open = self._has_usage = self._is_over = False

    def ending(self, *, output_tokens: int, usage: Usage, include_usage: bool) -> bytes | None:
        if self._first is None:
            return None
        if self._is_over:
            return b""
        events = [
            _like(self._first, [_Choice(index=index, finish_reason="length")])
            for index, is_finished in self._finished.items()
            if not is_finished
        ]
        if include_usage and not self._has_usage:
            events.append(_like(self._first, [], _chat_usage(output_tokens, usage)))
        return b"".join((*events, b"data: [DONE]\n\n"))

    def _next_telling(self, events: bytes, begin: int) -> int:
        if not self._has_open:
            return begin if begin < len(events) else -1
        found = _TELLING.search(events, begin)
        return -1 if found is None else found.start()

    def _read_event(self, data: bytes) -> None:
        self._is_over = self._is_over or data == b"[DONE]"
        try:
            chunk = _CHUNK.decode(data)
        except (ValueError, RecursionError):
            return
        if chunk.choices and self._first is None:
            self._first = chunk  # Azure sends one without choices and with empty names before
        for choice in chunk.choices or ():
            # Some servers send one more chunk of a choice behind its finish.
            was_finished = self._finished.get(choice.index, False)
            self._finished[choice.index] = was_finished or bool(choice.finish_reason)
        self._has_open = not all(self._finished.values())
        self._has_usage = not self._has_open and (self._has_usage or bool(chunk.usage))


TRACKER: Mapping[Protocol, Callable[[], Tracker]] = {
    Protocol.ANTHROPIC: MessagesTracker,
    Protocol.OPENAI: ChatTracker,
}


class _Delta(msgspec.Struct, frozen=True):
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    delta: _Delta = _Delta()


class _Choice(msgspec.Struct):
    index: int = 0
    delta: Raw = Raw(b"{}")
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: Raw | UnsetType = UNSET
    object: Raw | UnsetType = UNSET
    created: Raw | UnsetType = UNSET
    model: Raw | UnsetType = UNSET
    choices: list[_Choice] | None = None
    usage: Any = UNSET  # left out of what is encoded


_EVENT = msgspec.json.Decoder(_Event)
_CHUNK = msgspec.json.Decoder(_Chunk)
_TELLING = re.compile(rb'"(?:finish_reason"\s*:\s*"[^"]|index"\s*:\s*[1-9])')


def _message_event(kind: str, **members: object) -> bytes:
    data = msgspec.json.encode({"type": kind, **members})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _messages_usage(output_tokens: int, usage: Usage) -> dict[str, int]:
    """Say the input again as the provider does, as far as it has told it."""
    has_writes = (usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) != (None, None)
    counts = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens if has_writes else None,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": output_tokens,
    }
    return {name: count for name, count in counts.items() if count is not None}


def _like(first: _Chunk, choices: list[_Choice], usage: Any = UNSET) -> bytes:
    """Give another chunk of the answer that began with `first`."""
    chunk = msgspec.structs.replace(first, choices=choices, usage=usage)
    return b"data: %b\n\n" % msgspec.json.encode(chunk)


def _chat_usage(output_tokens: int, usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": usage.total_input_tokens + output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }
