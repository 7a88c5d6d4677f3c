"""What is known of an answer while it goes by, whatever its protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from msgspec import Raw, Struct

from server.errors import UpstreamError
from server.protocols import sse

MAX_COUNT = 10**9  # a bill for more would not fit the database's 64-bit integers
MAX_DIGITS = 10
BYTES_PER_TOKEN = 4
MAX_TEXT_LENGTH = 500


class Usage(Struct, frozen=True):
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
    """An error that the provider reported inside an answer; for the log, not for a caller.

    `code` is the error's; some servers give an HTTP status there.
    """

    kind: str
    message: str
    code: str | None = None


class Meter:
    """What is known of one answer; `feed` it whole events as they are relayed.

    Per field the last count wins; counts are never summed. A count that cannot be (negative,
    not an integer, above 10**9) is passed over and told in `anomaly`; null is a missing count.
    `server_tool_uses` and `settings` are what else the answer says of its bill.
    `finished` means that the protocol's own last event came by, `error` that an error did.
    `output_is_partial`: the output was counted at the start of the answer and never again.
    """

    _delta: ClassVar[bytes]

    def __init__(self) -> None:
        self.usage = _NOTHING_TOLD
        self.server_tool_uses: dict[str, int] = {}
        self.settings: dict[str, str] = {}
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
        """Take note of one or more whole events; never raises, whatever they hold.

        What comes behind the last event of an answer is passed over: no client is given it.
        """
        end = self._read_events(whole_events)
        self._bytes += end
        self._deltas += whole_events.count(self._delta, 0, end)

    def _read_events(self, block: bytes) -> int:
        """Read the events that tell something; give where those that count end."""
        if b"\r" in block:
            for piece in sse.pieces(block):
                if self._next_telling(piece, 0) >= 0 and not self._is_over:
                    self._read_event(piece)
            return len(block)
        at = self._next_telling(block, 0)
        while at >= 0:
            begin = block.rfind(b"\n\n", 0, at)
            end = block.find(b"\n\n", at)
            if end < 0:
                end = len(block)
            self._read_event(block[0 if begin < 0 else begin + 2 : end])
            if self._is_over:
                return min(end + 2, len(block))
            at = self._next_telling(block, end + 2)
        return len(block)

    @property
    def _is_over(self) -> bool:
        return self.finished or self.error is not None

    def feed_deltas(self, whole_events: bytes) -> bool:  # noqa: ARG002 - see MessagesMeter
        """Take note of events that are nothing but sound deltas; False, and no note, of others.

        Such events neither tell usage nor end a stream, so nothing else needs to look at them.
        """
        return False

    def runs(self, whole_events: bytes) -> tuple[bytes, ...]:
        """Cut whole events apart so that `feed_deltas` takes as many of them as it can."""
        return (whole_events,)

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
        self.error = reported_error(members.get("error"))
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
        self.message_id = self.message_id or short_text(members.get("id"))
        self.model = self.model or short_text(members.get("model"))

    def _take_counts(self, members: Mapping[str, Raw], *names: str) -> None:
        for name in names:
            raw = members.get(name)
            if raw is None:
                continue
            text = bytes(raw)
            if text.isdigit() and len(text) <= MAX_DIGITS and (count := int(text)) <= MAX_COUNT:
                self._counts[name] = count
            elif text != b"null":
                self._flag(f"{name} is not a count: {excerpt(raw)}")

    def _take_uses(self, raw: Raw | None) -> None:
        if raw is None:
            return
        uses = self._members(raw, "server_tool_use")
        names = [name for name in uses if name.endswith("_requests")]
        self._take_counts(uses, *names)
        self.server_tool_uses |= {
            name.removesuffix("_requests"): self._counts[name]
            for name in names
            if name in self._counts
        }

    def _take_settings(self, members: Mapping[str, Raw], *names: str) -> None:
        for name in names:
            if name in members and (value := short_text(members[name])) is not None:
                self.settings[name] = value

    def _members(self, raw: bytes | Raw | None, name: str) -> Mapping[str, Raw]:
        """Read an object that may be missing; anything else in its place is an anomaly."""
        try:
            return _MEMBERS.decode(raw or b"null") or {}
        except (ValueError, RecursionError):
            self._flag(f"{name} is not an object: {excerpt(raw or b'')}")
            return {}

    def _flag(self, anomaly: str) -> None:
        self.anomaly = self.anomaly or anomaly


def short_text(raw: Raw | None) -> str | None:
    """Read a short string; anything else counts as missing."""
    value = _decoded(raw)
    return value[:MAX_TEXT_LENGTH] if isinstance(value, str) else None


def reported_error(raw: Raw | None) -> ReportedError | None:
    """Read a reported error; nothing and null are none, an odd shape is one all the same."""
    reported: Any = _decoded(raw)
    match reported:
        case None:
            return None
        case {"message": str(message)} as error:
            kind = error.get("type")
            return ReportedError(
                kind[:MAX_TEXT_LENGTH] if isinstance(kind, str) else "error",
                message[:MAX_TEXT_LENGTH],
                _code(error.get("code")),
            )
        case str(message):
            return ReportedError("error", message[:MAX_TEXT_LENGTH])
        case odd:
            return ReportedError("error", str(odd)[:MAX_TEXT_LENGTH])


def _code(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value[:MAX_TEXT_LENGTH] if isinstance(value, str) else None


def excerpt(raw: bytes | Raw) -> str:
    """Give the first 40 bytes, to be told in an anomaly or an error."""
    return bytes(raw)[:40].decode(errors="replace")


def _decoded(raw: Raw | None) -> object:
    """Decode a small value; what cannot be decoded is told as it stands."""
    try:
        return _ANY.decode(raw or b"null")
    except (ValueError, RecursionError):
        return {"message": excerpt(raw or b"")}


_NOTHING_TOLD = Usage()
_MEMBERS = msgspec.json.Decoder(dict[str, Raw] | None)
_ANY = msgspec.json.Decoder(object)
