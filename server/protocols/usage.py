"""What an answer cost: token counts, read from the bytes as they go by.

Both meters look for a handful of byte patterns and decode only the events that hold one. What
an event says is then judged by the decoded value, so text that mentions a pattern is harmless.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from msgspec import Raw

from server.errors import UpstreamError
from server.protocols import sse

MAX_TOKENS = 2**53
MAX_DIGITS = 16
BYTES_PER_TOKEN = 4
MAX_TEXT_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one answer; None where the provider never reported the field.

    `input_tokens` excludes what was read from or written to a cache, on both protocols.
    """

    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    output_tokens: int | None = None

    @property
    def cache_write_tokens(self) -> int:
        """Tokens written to either cache; nothing reported counts as zero."""
        return (self.cache_write_5m_tokens or 0) + (self.cache_write_1h_tokens or 0)

    @property
    def total_input_tokens(self) -> int:
        """All input, cached or not; nothing reported counts as zero."""
        return (
            (self.input_tokens or 0) + (self.cache_read_input_tokens or 0) + self.cache_write_tokens
        )

    @property
    def total_tokens(self) -> int:
        """Input, cached or not, and output; nothing reported counts as zero."""
        return self.total_input_tokens + (self.output_tokens or 0)


@dataclass(frozen=True, slots=True)
class ReportedError:
    """An error that the provider reported inside an answer; for the log, not for a caller."""

    kind: str
    message: str


class Meter:
    """What is known of one answer; `feed` it whole events as they are relayed.

    Per field the last count wins; counts are never summed. A count that cannot be (negative,
    not an integer, above 2**53) is passed over and told in `anomaly`; null is a missing count.
    `finished` means that the protocol's own last event came by, `error` that an error did.
    `output_is_partial`: the output was counted at the start of the answer and never again.
    """

    _delta: ClassVar[bytes]

    def __init__(self) -> None:
        self.usage = Usage()
        self.started = False
        self.finished = False
        self.stop_reason: str | None = None
        self.message_id: str | None = None
        self.model: str | None = None
        self.error: ReportedError | None = None
        self.anomaly: str | None = None
        self.output_is_partial = False
        self._counts: dict[str, int] = {}
        self._bytes = 0
        self._deltas = 0
        self._bytes_per_delta = 0

    def feed(self, whole_events: bytes) -> None:
        """Take note of one or more whole events; never raises, whatever they hold."""
        deltas = whole_events.count(self._delta)
        self._bytes += len(whole_events)
        self._deltas += deltas
        if b"\r" in whole_events:
            for piece in sse.pieces(whole_events):
                if self._next_telling(piece, 0) >= 0:
                    self._read_event(piece)
            return
        at = self._next_telling(whole_events, 0)
        while at >= 0:
            begin = whole_events.rfind(b"\n\n", 0, at)
            end = whole_events.find(b"\n\n", at)
            if end < 0:
                end = len(whole_events)
            self._read_event(whole_events[0 if begin < 0 else begin + 2 : end])
            at = self._next_telling(whole_events, end + 2)

    def feed_deltas(self, whole_events: bytes) -> bool:  # noqa: ARG002 - see MessagesMeter
        """Take note of events that are nothing but sound deltas; False, and no note, of others.

        Such events neither tell usage nor end a stream, so nothing else needs to look at them.
        """
        return False

    @property
    def output_bytes_seen(self) -> int:
        """Bytes of output delivered so far: all bytes but those that wrap the deltas.

        Some small events that are no deltas stay in, so this errs upward.
        """
        return max(0, self._bytes - self._deltas * self._bytes_per_delta)

    def estimated_output_tokens(self) -> int:
        """Guess the output tokens delivered so far, for when no usage ever comes.

        One token per four bytes of output, and at least one per delta event.
        """
        return max(self._deltas, self.output_bytes_seen // BYTES_PER_TOKEN)

    def read_body(self, body: bytes) -> None:
        """Take note of a whole answer that was not streamed.

        Raises:
            UpstreamError: the body is not a JSON object.
        """
        try:
            members = _MEMBERS.decode(body)
        except (ValueError, RecursionError) as exc:
            raise UpstreamError("The provider's answer is not JSON; try again.") from exc
        if members is None:
            raise UpstreamError("The provider's answer is not a JSON object; try again.")
        self.started = self.finished = True
        self._bytes += len(body)
        self.error = _reported(members.get("error"))
        self._take_answer(members)

    def _next_telling(self, block: bytes, begin: int) -> int:
        """Find the next event worth reading, from `begin` on: before the first, any is."""
        if self.started:
            return self._find_telling(block, begin)
        return begin if begin < len(block) else -1

    def _find_telling(self, block: bytes, begin: int) -> int:
        """Find where, from `begin` on, something may be told; -1 where nothing is."""
        raise NotImplementedError

    def _read_event(self, piece: bytes) -> None:
        raise NotImplementedError

    def _take_answer(self, members: Mapping[str, Raw]) -> None:
        raise NotImplementedError

    def _take_names(self, members: Mapping[str, Raw]) -> None:
        self.message_id = self.message_id or _text(members.get("id"))
        self.model = self.model or _text(members.get("model"))

    def _take_counts(self, members: Mapping[str, Raw], *names: str) -> None:
        for name in names:
            raw = members.get(name)
            if raw is None or bytes(raw) == b"null":
                continue
            text = bytes(raw)
            if text.isdigit() and len(text) <= MAX_DIGITS and int(text) <= MAX_TOKENS:
                self._counts[name] = int(text)
            else:
                self._flag(f"{name} is not a count: {_excerpt(raw)}")

    def _members(self, raw: bytes | Raw | None, name: str) -> Mapping[str, Raw]:
        """Read an object that may be missing; anything else in its place is an anomaly."""
        try:
            return _MEMBERS.decode(raw or b"null") or {}
        except (ValueError, RecursionError):
            self._flag(f"{name} is not an object: {_excerpt(raw or b'')}")
            return {}

    def _flag(self, anomaly: str) -> None:
        self.anomaly = self.anomaly or anomaly


class MessagesMeter(Meter):
    """Meters an Anthropic Messages answer."""

    _delta = b'"content_block_delta"'
    _telling = (b'"message_', b'"usage"', b"event: error", b"event:error", b'"error"')

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
        kind = _text(event.get("type"))
        if kind != "content_block_delta":
            self._bytes -= len(piece) + len(b"\n\n")
        if kind == "error" or name == b"error":
            self.error = _reported(event.get("error")) or ReportedError("error", _excerpt(data))
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
        self.stop_reason = _text(members.get("stop_reason")) or self.stop_reason

    def _take_usage(self, raw: Raw | None) -> None:
        usage = self._members(raw, "usage")
        if not usage:
            return
        self._take_counts(usage, "input_tokens", "cache_read_input_tokens", "output_tokens")
        self._take_counts(usage, "cache_creation_input_tokens")
        writes = self._members(usage.get("cache_creation"), "cache_creation")
        self._take_counts(writes, "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
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
        self.error = _reported(chunk.get("error")) or self.error
        self._take_answer(chunk)

    def _take_answer(self, members: Mapping[str, Raw]) -> None:
        self._take_names(members)
        for choice in _choices(members):
            self.stop_reason = _text(choice.finish_reason) or self.stop_reason
            self._take_usage(choice.usage)  # Moonshot's place for it
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
_EMPTY_DELTA = b'{"content":""}\n\n'
_MEMBERS = msgspec.json.Decoder(dict[str, Raw] | None)
_ANY = msgspec.json.Decoder(object)
_CHOICES = msgspec.json.Decoder(list[_Choice] | None)


def _choices(members: Mapping[str, Raw]) -> list[_Choice]:
    """Read the choices; whatever is not a list of objects counts as none."""
    try:
        return _CHOICES.decode(members.get("choices") or b"null") or []
    except (ValueError, RecursionError):
        return []


def _text(raw: Raw | None) -> str | None:
    """Read a short string; anything else counts as missing."""
    value = _decoded(raw)
    return value[:MAX_TEXT_LENGTH] if isinstance(value, str) else None


def _reported(raw: Raw | None) -> ReportedError | None:
    """Read a reported error; nothing and null are none, an odd shape is one all the same."""
    match _decoded(raw):
        case None:
            return None
        case {"type": str(kind), "message": str(message)}:
            return ReportedError(kind[:MAX_TEXT_LENGTH], message[:MAX_TEXT_LENGTH])
        case {"message": str(message)} | str(message):
            return ReportedError("error", message[:MAX_TEXT_LENGTH])
        case odd:
            return ReportedError("error", str(odd)[:MAX_TEXT_LENGTH])


def _decoded(raw: Raw | None) -> object:
    """Decode a small value; what cannot be decoded is told as it stands."""
    try:
        return _ANY.decode(raw or b"null")
    except (ValueError, RecursionError):
        return {"message": _excerpt(raw or b"")}


def _excerpt(raw: bytes | Raw) -> str:
    return bytes(raw)[:40].decode(errors="replace")
