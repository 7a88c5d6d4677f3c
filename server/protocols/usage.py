"""What an answer cost: token counts, read from the bytes as they go by.

Both meters look for a handful of byte patterns and decode only the events that hold one. What
an event says is then judged by the decoded value, so text that mentions a pattern is harmless.
"""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Raw

from server.protocols import sse
from server.protocols.meter import (
    Meter,
    ReportedError,
    Usage,
    excerpt,
    reported_error,
    short_text,
)

__all__ = ["ChatMeter", "MessagesMeter", "Meter", "ReportedError", "Usage"]


class MessagesMeter(Meter):
    """Meters an Anthropic Messages answer."""

    _delta = b'"content_block_delta"'
    _telling = (
        *(b'"message_', b'"usage"', b"event: error", b"event:error", b'"error"'),
        b'_tool_result"',  # what a server tool found is no output, however long
    )

    def __init__(self) -> None:
        super().__init__()
        self._bytes_per_delta = len(_EMPTY_TEXT_DELTA)

    def feed_deltas(self, whole_events: bytes) -> bool:
        if not (whole_events.startswith(_DELTA_HEAD) and whole_events.endswith(b"}\n\n")):
            return False
        # Each delta is two lines and a blank one; any other line upsets the sum.
        deltas = whole_events.count(_NEXT_DELTA) + 1
        if whole_events.count(b"\n") != 3 * deltas or b"\r" in whole_events:
            return False
        self.started = True
        self._bytes += len(whole_events)
        self._deltas += deltas
        return True

    def runs(self, whole_events: bytes) -> tuple[bytes, ...]:
        is_first = whole_events.startswith(_DELTA_HEAD)
        before = 0 if is_first else whole_events.find(b"\n\n" + _DELTA_HEAD)
        if before < 0:
            return (whole_events,)
        begin = 0 if is_first else before + 2
        end = whole_events.find(b"\n\n", whole_events.rfind(_DELTA_HEAD)) + 2
        parts = (whole_events[:begin], whole_events[begin:end], whole_events[end:])
        return tuple(part for part in parts if part)

    def _find_telling(self, block: bytes, begin: int) -> int:
        # Plain searches: a pattern would stop at every quotation mark.
        places = [block.find(mark, begin) for mark in self._telling]
        return min((place for place in places if place >= 0), default=-1)

    def _read_event(self, piece: bytes) -> None:
        name, data = sse.fields(piece)
        if not data:
            return
        self.started = True
        event = self._members(data, "event")
        kind = short_text(event.get("type"))
        if kind != "content_block_delta":
            self._bytes -= len(piece) + len(b"\n\n")
        if kind == "error" or name == b"error":
            self.error = reported_error(event.get("error")) or ReportedError("error", excerpt(data))
        elif kind == "message_start":
            self._take_answer(self._members(event.get("message"), "message"))
            self.output_is_partial = True
        elif kind == "message_delta":
            self._take_stop_reason(self._members(event.get("delta"), "delta"))
        elif kind == "message_stop":
            self.finished = True
        if "usage" in event:
            self._take_usage(event["usage"])
            self.output_is_partial = False

    def _take_answer(self, members: Mapping[str, Raw]) -> None:
        self._take_names(members)
        self._take_stop_reason(members)
        self._take_usage(members.get("usage"))

    def _take_stop_reason(self, members: Mapping[str, Raw]) -> None:
        self.stop_reason = short_text(members.get("stop_reason")) or self.stop_reason

    def _take_usage(self, raw: Raw | None) -> None:
        usage = self._members(raw, "usage")
        if not usage:
            return
        self._take_counts(usage, "input_tokens", "cache_read_input_tokens", "output_tokens")
        self._take_counts(usage, "cache_creation_input_tokens")
        writes = self._members(usage.get("cache_creation"), "cache_creation")
        self._take_counts(writes, "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
        self._take_uses(usage.get("server_tool_use"))
        self._take_settings(usage, "service_tier", "speed", "inference_geo")
        write_5m, write_1h = self._cache_writes()
        self.usage = Usage(
            input_tokens=self._counts.get("input_tokens"),
            cache_read_input_tokens=self._counts.get("cache_read_input_tokens"),
            cache_write_5m_tokens=write_5m,
            cache_write_1h_tokens=write_1h,
            output_tokens=self._counts.get("output_tokens"),
        )

    def _cache_writes(self) -> tuple[int | None, int | None]:
        """Split the cache writes by lifetime; where sum and parts differ the larger is billed."""
        total = self._counts.get("cache_creation_input_tokens")
        write_5m = self._counts.get("ephemeral_5m_input_tokens")
        write_1h = self._counts.get("ephemeral_1h_input_tokens")
        if total is None:
            return write_5m, write_1h
        rest = total - (write_5m or 0) - (write_1h or 0)
        if rest < 0 or (rest > 0 and None not in (write_5m, write_1h)):
            self._flag(f"cache_creation_input_tokens is {rest} off the sum of its parts")
        return (write_5m or 0) + max(0, rest), write_1h


class ChatMeter(Meter):
    """Meters an OpenAI Chat Completions answer."""

    _delta = b'"delta"'
    _telling = re.compile(
        rb'"(?:usage"\s*:\s*[^n\s]|finish_reason"\s*:\s*"|error"\s*:\s*[^n\s])|\[DONE\]'
    )

    def _find_telling(self, block: bytes, begin: int) -> int:
        found = self._telling.search(block, begin)
        return -1 if found is None else found.start()

    def _read_event(self, piece: bytes) -> None:
        _, data = sse.fields(piece)
        if not data:
            if piece.startswith(b":"):  # a comment; anything else is half of a line end
                self._bytes -= len(piece) + len(b"\n\n")
            return
        if data == b"[DONE]":
            self._bytes -= len(piece) + len(b"\n\n")
            self.started = self.finished = True
            return
        chunk = self._members(data, "event")
        choices = _choices(chunk)
        if not choices:
            self._bytes -= len(piece) + len(b"\n\n")
        elif not self.started:
            # The wrapping varies by provider and model, but hardly within one stream.
            self._bytes_per_delta = len(piece) - len(choices[0].delta) + len(_EMPTY_DELTA)
        self.started = True
        self.error = reported_error(chunk.get("error")) or self.error
        self._take_answer(chunk)

    def _take_answer(self, members: Mapping[str, Raw]) -> None:
        self._take_names(members)
        self._take_settings(members, "service_tier")
        for choice in _choices(members):
            self.stop_reason = short_text(choice.finish_reason) or self.stop_reason
            self._take_usage(choice.usage)  # Moonshot's place for it
        if self.stop_reason == _BROKEN and self.error is None:
            self.error = ReportedError("error", "the answer's finish_reason is error")
        self._take_usage(members.get("usage"))

    def _take_usage(self, raw: Raw | None) -> None:
        usage = self._members(raw, "usage")
        if not usage:
            return
        self._take_counts(usage, "prompt_tokens", "completion_tokens")
        details = self._members(usage.get("prompt_tokens_details"), "prompt_tokens_details")
        self._take_counts(details, "cached_tokens", "cache_write_tokens")
        cache_read = self._counts.get("cached_tokens")
        cache_write = self._counts.get("cache_write_tokens")
        self.usage = Usage(
            input_tokens=self._uncached((cache_read or 0) + (cache_write or 0)),
            cache_read_input_tokens=cache_read,
            cache_write_5m_tokens=cache_write,
            output_tokens=self._counts.get("completion_tokens"),
        )

    def _uncached(self, cached_tokens: int) -> int | None:
        prompt = self._counts.get("prompt_tokens")
        if prompt is None:
            return None
        if prompt < cached_tokens:
            self._flag(f"prompt_tokens is {cached_tokens - prompt} below its cached part")
        return max(0, prompt - cached_tokens)


class _Choice(msgspec.Struct):
    delta: Raw = Raw(b"")
    finish_reason: Raw = Raw(b"")
    usage: Raw = Raw(b"null")


_DELTA_HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta",'
_NEXT_DELTA = b"}\n\n" + _DELTA_HEAD
_EMPTY_TEXT_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":""}}\n\n'
)
_BROKEN = "error"  # OpenRouter's finish of what a provider did not finish
_EMPTY_DELTA = b'{"content":""}\n\n'
_CHOICES = msgspec.json.Decoder(list[_Choice] | None)


def _choices(members: Mapping[str, Raw]) -> list[_Choice]:
    """Read the choices; whatever is not a list of objects counts as none."""
    try:
        return _CHOICES.decode(members.get("choices") or b"null") or []
    except (ValueError, RecursionError):
        return []
