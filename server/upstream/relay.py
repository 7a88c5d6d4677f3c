"""What lies between one provider's answer and one client: metering, whole events, pings."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from server.errors import GatewayError, UpstreamError
from server.protocols import Protocol, envelopes, sse, usage
from server.protocols.by_protocol import METER, PING, without_usage_chunk
from server.protocols.endings import TRACKER
from server.protocols.translation.ways import AS_THEY_ARE, Answers
from server.upstream.connection import Exchange, Head
from server.upstream.handoff import Handoff
from server.upstream.inflate import Inflater
from server.upstream.screen import screen, screen_lines, up_to_end

PING_AFTER_S = 15.0  # Claude Code shows a banner after 20 s without a byte
LINGER_S = 1.0  # how long a provider may keep a stream open behind its last event
WHOLE_LIMIT_BYTES = 64 * 1024 * 1024
NEVER = 2**59  # more bytes than a stream has
CUT_REASON = {Protocol.ANTHROPIC: "max_tokens", Protocol.OPENAI: "length"}


class Relay:
    """The sink of one exchange; the pump awaits `over`, the handler awaits `started`.

    Whole events reach the handoff as they were received, or as `answers` translates them. The
    piece with the terminal event is kept back until `release`, which the pump calls once the
    request is settled: a client never holds an answer that a crash could forget. `started` is
    done as soon as the client can be answered: with the first event, the first ping, or the end.

    `protocol` is the provider's; `streaming` tells whether the client was promised a stream.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        streaming: bool,
        answers: Answers = AS_THEY_ARE,
        hide_usage: bool = False,
        ping_after_s: float = PING_AFTER_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._streaming = streaming
        self._streamed = streaming or answers.is_gathered
        self._machine, self._translate = answers.machine, answers.whole
        self._ping_event = answers.ping or PING[protocol]
        self._hide_usage = hide_usage
        self._ping_after_s = ping_after_s
        self._inflater: Inflater | None = None
        self._whole: list[bytes] = []
        self._whole_bytes = 0
        self._splitter: sse.EventSplitter | None = None  # there once events come
        self._connection: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_put = self._loop.time()
        self._released = self._has_put = self._is_ending = self._is_held_back = False
        self._quiet_bytes = NEVER
        self._alert: Callable[[], None] = _nothing
        self._error: GatewayError | None = None
        self.meter: usage.Meter = METER[protocol]()
        self._tracker = TRACKER[protocol]() if self._streamed else None
        self.was_cut = False
        self.head: Head | None = None
        self.body: bytes | None = None
        self.first_byte_at: float | None = None
        self.was_sent = False
        self.handoff = Handoff()
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.over: asyncio.Future[GatewayError | None] = self._loop.create_future()
        if streaming:
            self._set_timer(ping_after_s, self._ping)

    def attach(self, connection: Exchange) -> None:
        """Learn which connection to pause, resume and end."""
        self._connection = connection
        self.was_sent = True
        self.handoff.pause, self.handoff.resume = connection.pause, self._resume

    def detach(self) -> None:
        """Drop the connection; close it unless its answer came to an end."""
        connection, self._connection = self._connection, None
        self.handoff.pause = self.handoff.resume = _nothing
        if connection is not None:
            connection.abort()

    def restart(self) -> None:
        """Get ready for another try; only where nothing of an answer has come."""
        self.over = self._loop.create_future()

    def release(self, error: GatewayError | None) -> None:
        """Give the client the kept-back end of its answer, or `error`; later calls do nothing."""
        if self._released:
            return
        self._released, self._error = True, error
        if self._timer is not None:
            self._timer.cancel()
        if error is None and self._streaming:
            for piece in self._whole:
                self.handoff.put(piece)
        elif error is None:
            self.body = b"".join(self._whole)
        self.handoff.close(error)
        self._start()

    @property
    def has_delivered(self) -> bool:
        """Tell whether the client was given anything: a 200 that cannot be taken back."""
        return self._has_put

    @property
    def answered_ok(self) -> bool:
        """Tell whether the provider said 200: from then on it bills."""
        return self.head is not None and self.head.status == 200

    @property
    def given_bytes(self) -> int:
        """Count the answer's bytes that were given to the client's handler."""
        return self.handoff.total_bytes + len(self.body or b"")

    def raise_early_error(self) -> None:
        """Raise what ended the request before the client was given anything."""
        if self._error is not None and not self._has_put:
            raise self._error

    @property
    def delivered_tokens(self) -> int:
        """Give the output delivered so far: counted here, or more where the provider said so."""
        return max(self.meter.estimated_output_tokens(), self.meter.usage.output_tokens or 0)

    def alert_after(self, size_bytes: int, alert: Callable[[], None]) -> None:
        """Call `alert` once, when more than that has been relayed from now on."""
        self._quiet_bytes, self._alert = size_bytes, alert

    def hold_back(self, *, is_on: bool) -> None:
        """Stop reading from the provider, or go on."""
        self._is_held_back = is_on
        if self._connection is not None:
            if is_on:
                self._connection.pause()
            else:
                self._resume()

    def discard(self) -> None:
        """Go on to the answer's end for a client that has gone."""
        self.handoff.discard()

    def cut(self, spent: usage.Usage, output_tokens: int, refusal: GatewayError) -> None:
        """End a stream as if the model had reached its token limit; `spent` tells its input.

        Where it has not begun, nothing could follow its beginning: it ends with `refusal`.
        """
        if self.over.done() or self._is_ending or self._tracker is None:
            return
        ending = self._tracker.ending(
            output_tokens=output_tokens, usage=spent, include_usage=not self._hide_usage
        )
        self.was_cut = True
        if ending is None:
            self._finish(refusal)
            return
        self._is_ending = True
        self.meter.stop_reason = self.meter.stop_reason or CUT_REASON[self._protocol]
        self._whole.append(ending)
        self._finish(None)

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
        self.handoff.pause = self.handoff.resume = _nothing
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
                self._meter_events(screen(events, self._protocol))
        else:
            self._collect(data)

    def _finish(self, error: GatewayError | None) -> None:
        if self.over.done():
            return
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
            raise UpstreamError("The provider's answer is larger than the gateway takes.")

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
        if self._machine is not None and self.meter.error is not None:
            self._put(events)  # what came before the error, which machines pass over
            self._finish(envelopes.from_event(self.meter.error, self._protocol))
            return
        last = events.find(_LAST[self._protocol])
        if self.meter.error is not None or events.find(b"\n\n", last) != len(events) - 2:
            events = up_to_end(events, self._protocol)
        self._whole.append(self._shown(events))
        if self.meter.error is not None:
            self._finish(None)
        else:
            self._set_timer(LINGER_S, partial(self._finish, None))

    def _put(self, events: bytes) -> None:
        if not self._streaming:
            self._count(events)
        self._give(events if self._machine is None else self._machine.feed(events))
        self._quiet_bytes -= len(events)
        if self._quiet_bytes < 0:
            self._quiet_bytes = NEVER
            self._alert()

    def _give(self, piece: bytes) -> None:
        if piece:
            self._last_put = self._loop.time()
            self._has_put = True
            self.handoff.put(piece)
            self._start()

    def _resume(self) -> None:
        if self._connection is not None and not self._is_held_back and not self.handoff.is_full:
            self._connection.resume()

    def _start(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def _ping(self) -> None:
        silent_s = self._loop.time() - self._last_put
        if silent_s >= self._ping_after_s:
            self._give(self._ping_event)
            silent_s = 0.0
        self._set_timer(self._ping_after_s - silent_s, self._ping)

    def _set_timer(self, after_s: float, step: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(after_s, step)

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
        if self._streaming:
            raise UpstreamError("The provider answered a streaming request without a stream.")
        if self._translate is not None:
            self._whole = [self._translate(body)]


_LAST = {Protocol.ANTHROPIC: b"event: message_stop\n", Protocol.OPENAI: b"data: [DONE]\n"}


def _nothing() -> None:
    """Stand where a connection's pause and resume were."""
