"""What lies between one provider's answer and the relay: metering, whole events, its end."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from server.errors import AnswerTooLong, GatewayError, UpstreamError
from server.protocols import Protocol, envelopes, sse, usage
from server.protocols.by_protocol import METER, without_usage_chunk
from server.protocols.content import has_content
from server.protocols.endings import TRACKER
from server.protocols.translation.ways import Answers
from server.upstream.connection import Exchange, Head
from server.upstream.inflate import Inflater
from server.upstream.screen import screen, screen_lines, up_to_end

if TYPE_CHECKING:
    from server.upstream.relay import Relay

LINGER_S = 1.0  # how long a provider may keep a stream open behind its last event
WHOLE_LIMIT_BYTES = 64 * 1024 * 1024
FRAME_LIMIT_BYTES = 64 * 1024
CUT_REASON = {Protocol.ANTHROPIC: "max_tokens", Protocol.OPENAI: "length"}


class Attempt:
    """The sink of one exchange; the pump awaits `over`.

    Whole events reach the relay as they were received, or as `answers` translates them. Those
    before the first content wait here: until then another provider may be asked, and the client
    never learns of it. `protocol` is the provider's.
    """

    def __init__(
        self, relay: "Relay", protocol: Protocol, answers: Answers, *, hide_usage: bool
    ) -> None:
        self._relay = relay
        self._loop = relay.loop
        self._protocol = protocol
        self._streamed = relay.streaming or answers.is_gathered
        self._machine, self._translate = answers.machine, answers.whole
        self._hide_usage = hide_usage
        self._inflater: Inflater | None = None
        self._frame: list[bytes] | None = []  # what waits for content; None once that has come
        self._frame_bytes = 0  # as they were received: translated, they may be none
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._splitter: sse.EventSplitter | None = None  # there once events come
        self._connection: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_ending = False
        self.meter: usage.Meter = METER[protocol]()
        self._tracker = TRACKER[protocol]() if self._streamed else None
        self.head: Head | None = None
        self.first_byte_at: float | None = None
        self.was_sent = False
        self.on_content: Callable[[], None] = _nothing
        self.over: asyncio.Future[GatewayError | None] = self._loop.create_future()

    def attach(self, connection: Exchange) -> None:
        """Learn which connection to pause, resume and end."""
        self._connection = connection
        self.was_sent = True
        if not self._relay.may_read:  # an earlier attempt's bytes may have been its reason
            connection.pause()

    def detach(self) -> None:
        """Drop the connection; close it unless its answer came to an end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def restart(self) -> None:
        """Get ready for another connection; only where nothing of an answer has come."""
        self.over = self._loop.create_future()

    def forget_relay(self) -> None:
        """Drop the relay: it is over, and nothing comes any more."""
        self.fail(AnswerTooLong("The answer is over."))  # where it was cut off in the middle
        del self._relay

    def pause(self) -> None:
        """Stop reading from the provider."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Go on reading from the provider."""
        if self._connection is not None:
            self._connection.resume()

    @property
    def has_content(self) -> bool:
        """Tell whether a part of the answer has come: from then on no other can be asked."""
        return self._frame is None

    @property
    def answered_ok(self) -> bool:
        """Tell whether the provider said 200: from then on it bills."""
        return self.head is not None and self.head.status == 200

    @property
    def told_error(self) -> GatewayError | None:
        """Give what the provider says went wrong in the midst of its answer."""
        told = self.meter.error
        return None if told is None else envelopes.from_event(told, self._protocol)

    @property
    def ending(self) -> list[bytes]:
        """Give what is kept back until the request is settled."""
        return [*(self._frame or ()), *self._whole]

    def cut(self, spent: usage.Usage, output_tokens: int, refusal: GatewayError) -> bool:
        """End the stream as `Relay.cut` says; False where it was ending anyway."""
        if self.over.done() or self._is_ending or self._tracker is None:
            return False
        ending = self._tracker.ending(
            output_tokens=output_tokens, usage=spent, include_usage=not self._hide_usage
        )
        if ending is None:
            self._finish(refusal)
            return True
        self._is_ending = True
        self.meter.stop_reason = self.meter.stop_reason or CUT_REASON[self._protocol]
        self._whole.append(ending)
        self._finish(None)
        return True

    def fail(self, error: GatewayError) -> None:
        """End the answer with an error, unless it is ending anyway."""
        if not self._is_ending:
            self._finish(error)

    # the sink's three methods

    def on_head(self, head: Head) -> None:
        self.head = head
        encoding = (head.get(b"content-encoding") or b"").strip().lower()
        if encoding not in (b"", b"identity"):
            self._inflater = Inflater(encoding)
        kind = (head.get(b"content-type") or b"").lower()
        if self._streamed and head.status == 200 and kind.startswith(b"text/event-stream"):
            self._splitter = sse.EventSplitter()

    def on_data(self, data: bytes) -> None:
        if self.over.done():
            return
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
        try:
            self._take(data)
        except GatewayError as err:
            self._finish(err)

    def on_end(self, error: GatewayError | None) -> None:
        # The connection may carry another exchange from now on: it is not ours to pause or close.
        self._connection = None
        if self.over.done():
            return
        if self._is_ending:
            error = None  # the answer was whole; how the connection ended does not matter
        elif error is None:
            try:
                self._check_end()
            except GatewayError as err:
                error = err
        self._finish(error)

    # inside

    def _take(self, data: bytes) -> None:
        if self._inflater is not None:
            data = self._inflater.feed(data)
        if self._splitter is not None:
            events = self._splitter.feed(data)
            if not events:
                return
            if not self._is_ending and self.meter.feed_deltas(events):
                self._put(events)  # as almost always
            else:
                self._take_mixed(events)
        else:
            self._collect(data)

    def _take_mixed(self, events: bytes) -> None:
        """Take events of which only some, if any, are deltas: those need not be looked through."""
        for run in self.meter.runs(events):
            if self._is_ending or self.over.done():
                return
            if self.meter.feed_deltas(run):
                self._put(run)
            else:
                self._meter_events(screen(run, self._protocol))

    def _finish(self, error: GatewayError | None) -> None:
        if self.over.done():
            return
        if self._timer is not None:
            self._timer.cancel()
        if error is None and self._machine is not None and self._splitter is not None:
            try:
                rest = [self._machine.feed(piece) for piece in self._whole]
                self._whole = [*rest, self._machine.finish()]
            except GatewayError as err:
                error = err
        self.over.set_result(error)

    def _collect(self, data: bytes) -> None:
        self._count(data)
        self._whole.append(data)

    def _count(self, data: bytes) -> None:
        self._whole_bytes += len(data)
        if self._whole_bytes > WHOLE_LIMIT_BYTES:
            raise AnswerTooLong("The provider's answer is larger than the gateway takes.")

    def _meter_events(self, events: bytes) -> None:
        if self._is_ending:  # whatever follows the last event is not relayed
            return
        meter = self.meter
        meter.feed(events)
        if meter.finished or meter.error is not None:
            self._keep_back(events)
        elif shown := self._shown(events):
            if self._tracker is not None:
                self._tracker.feed(shown)
            self._put(shown)

    def _shown(self, events: bytes) -> bytes:
        if self._hide_usage and b'"usage"' in events:
            return without_usage_chunk(events)
        return events

    def _keep_back(self, events: bytes) -> None:
        """Begin the end, with the events up to the last that a client may see."""
        self._is_ending = True
        error = self.meter.error
        if error is not None and (self._machine is not None or self._is_frame(events)):
            if self._machine is not None:
                self._put(events)  # what came before the error, which machines pass over
            self._finish(envelopes.from_event(error, self._protocol))
            return
        last = events.find(_LAST[self._protocol])
        if error is not None or events.find(b"\n\n", last) != len(events) - 2:
            events = up_to_end(events, self._protocol)
        self._whole.append(self._shown(events))
        if error is not None:
            self._finish(None)
        else:
            self._timer = self._loop.call_later(LINGER_S, partial(self._finish, None))

    def _is_frame(self, events: bytes) -> bool:
        return self._frame is not None and not has_content(events, self._protocol)

    def _put(self, events: bytes) -> None:
        if not self._relay.streaming:
            self._count(events)
        if self._frame is not None:
            self._gather_frame(events)
        else:
            piece = events if self._machine is None else self._machine.feed(events)
            if piece:
                self._relay.give(piece)
        self._relay.count(len(events))

    def _gather_frame(self, events: bytes) -> None:
        """Let events wait for the first content; with that, or where they are many, all go."""
        assert self._frame is not None  # noqa: S101 - it is gathered until content has come
        if piece := events if self._machine is None else self._machine.feed(events):
            self._frame.append(piece)
        self._frame_bytes += len(events)
        if self._frame_bytes > FRAME_LIMIT_BYTES or has_content(events, self._protocol):
            waiting, self._frame = self._frame, None
            self.on_content()
            if piece := b"".join(waiting):
                self._relay.give(piece)

    def _check_end(self) -> None:
        if self._inflater is not None and not self._inflater.is_whole:
            raise UpstreamError("The provider cut its answer short.")
        if self._splitter is None:
            self._check_whole()
            return
        if self._splitter.pending:  # the last event may lack its blank line
            rest = screen_lines(self._splitter.pending + b"\n\n", self._protocol)
            self._meter_events(rest)
        # Compatible servers may leave out [DONE]; SDKs, and so their clients, do not mind.
        has_stopped = self._protocol is Protocol.OPENAI and self.meter.stop_reason is not None
        if not self._is_ending and not has_stopped:
            raise UpstreamError("The provider cut its stream before the end.")

    def _check_whole(self) -> None:
        assert self.head is not None  # noqa: S101 - an end without an error follows a head
        body = b"".join(self._whole)
        if self.head.status != 200:
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in self.head.headers
            }
            raise envelopes.from_upstream(self.head.status, headers, body, self._protocol)
        self.meter.read_body(body)
        if self.meter.error is not None:
            raise envelopes.from_event(self.meter.error, self._protocol)
        if self._relay.streaming:
            raise UpstreamError("The provider answered a streaming request without a stream.")
        if self._translate is not None:
            self._whole = [self._translate(body)]


_LAST = {Protocol.ANTHROPIC: b"event: message_stop\n", Protocol.OPENAI: b"data: [DONE]\n"}


def _nothing() -> None:
    """Stand where nobody wants to be called."""
