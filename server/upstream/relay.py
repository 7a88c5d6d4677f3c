"""What one client is given, whoever of the providers gives it: pieces, pings, an end."""

import asyncio
from collections.abc import Callable

from server.errors import AnswerTooLong, GatewayError
from server.protocols import Protocol, usage
from server.protocols.translation.ways import AS_THEY_ARE, Answers
from server.upstream.attempt import Attempt
from server.upstream.handoff import Handoff

PING_AFTER_S = 15.0  # Claude Code shows a banner after 20 s without a byte
NEVER = 2**59  # more bytes than a stream has


class Relay:
    """The client's side of a request; the handler awaits `started` and reads `handoff`.

    What is given comes from the latest `attempt`; an earlier one gave nothing but its place.
    The piece with the terminal event is kept back until `release`, which the pump calls once the
    request is settled: a client never holds an answer that a crash could forget. `started` is
    done as soon as the client can be answered: with the first content, the first ping, or the
    end. `streaming` tells whether the client was promised a stream. An answer that goes on for
    more than `most_s`, or `most_bytes`, ends with an error.
    """

    attempt: Attempt  # the latest; `begin` makes the first before anything else is asked

    def __init__(
        self,
        *,
        streaming: bool,
        ping: bytes,
        ping_after_s: float = PING_AFTER_S,
        most_s: float = NEVER,
        most_bytes: int = NEVER,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.streaming = streaming
        self._ping_event, self._ping_after_s = ping, ping_after_s
        self._timer: asyncio.TimerHandle | None = None
        self._last_put = self.loop.time()
        self._released = self._has_put = self._is_held_back = self._is_late = False
        self._quiet_bytes, self._left_bytes = NEVER, most_bytes
        self._alert: Callable[[], None] = _nothing
        self._error: GatewayError | None = None
        self.was_cut = False
        self.body: bytes | None = None
        self.handoff = Handoff()
        self.handoff.pause, self.handoff.resume = self._pause, self.resume
        self.started: asyncio.Future[None] = self.loop.create_future()
        if streaming:
            self._timer = self.loop.call_later(ping_after_s, self._ping)
        self._end_timer = self.loop.call_later(most_s, self._end_late)

    def begin(
        self, protocol: Protocol, answers: Answers = AS_THEY_ARE, *, hide_usage: bool = False
    ) -> Attempt:
        """Make the attempt whose answer the client will get; `protocol` is its provider's."""
        self.attempt = Attempt(self, protocol, answers, hide_usage=hide_usage)
        self._is_held_back = self.was_cut = False  # an earlier attempt was, if any
        if self._is_late:
            self._end_late()
        return self.attempt

    @property
    def meter(self) -> usage.Meter:
        """Give what is known of the latest attempt's answer."""
        return self.attempt.meter

    def release(self, error: GatewayError | None) -> None:
        """Give the client the kept-back end of its answer, or `error`; later calls do nothing."""
        if self._released:
            return
        self._released, self._error = True, error
        self._end_timer.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if error is None and self.streaming:
            for piece in self.attempt.ending:
                self.handoff.put(piece)
        elif error is None:
            self.body = b"".join(self.attempt.ending)
        self.handoff.close(error)
        self._start()
        self._let_go()

    def _let_go(self) -> None:
        """Hold nothing that holds this: a request that has ended is not left to the collector."""
        self._alert = _nothing
        self.handoff.pause = self.handoff.resume = _nothing
        self.attempt.forget_relay()

    @property
    def has_delivered(self) -> bool:
        """Tell whether the client was given anything: a 200 that cannot be taken back."""
        return self._has_put

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
        meter = self.meter
        return max(meter.estimated_output_tokens(), meter.usage.output_tokens or 0)

    def alert_after(self, size_bytes: int, alert: Callable[[], None]) -> None:
        """Call `alert` once, when more than that has been relayed from now on."""
        self._quiet_bytes, self._alert = size_bytes, alert

    def hold_back(self, *, is_on: bool) -> None:
        """Stop reading from the provider, or go on."""
        self._is_held_back = is_on
        if is_on:
            self._pause()
        else:
            self.resume()

    def discard(self) -> None:
        """Go on to the answer's end for a client that has gone."""
        self.handoff.discard()

    def cut(self, spent: usage.Usage, output_tokens: int, refusal: GatewayError) -> None:
        """End a stream as if the model had reached its token limit; `spent` tells its input.

        Where it has not begun, nothing could follow its beginning: it ends with `refusal`.
        """
        if self.attempt.cut(spent, output_tokens, refusal):
            self.was_cut = True

    # what the attempt calls

    def give(self, piece: bytes) -> None:
        """Give the client a piece of its stream."""
        self._last_put = self.loop.time()
        self._has_put = True
        self.handoff.put(piece)
        if not self.started.done():
            self.started.set_result(None)

    def count(self, size_bytes: int) -> None:
        """Take note of what was relayed, before it was translated."""
        self._quiet_bytes -= size_bytes
        self._left_bytes -= size_bytes
        if self._quiet_bytes < 0:
            self._quiet_bytes = NEVER
            self._alert()
        if self._left_bytes < 0:
            self.attempt.fail(AnswerTooLong("The provider's answer is longer than is relayed."))

    @property
    def may_read(self) -> bool:
        """Tell whether the client, and its hold, can take more."""
        return not self._is_held_back and not self.handoff.is_full

    def resume(self) -> None:
        """Read from the provider, unless something speaks against it."""
        if self.may_read:
            self.attempt.resume()

    # inside

    def _pause(self) -> None:
        self.attempt.pause()

    def _start(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    def _end_late(self) -> None:
        self._is_late = True
        self.attempt.fail(AnswerTooLong("The provider's answer took longer than is waited for."))

    def _ping(self) -> None:
        silent_s = self.loop.time() - self._last_put
        if silent_s >= self._ping_after_s:
            self.give(self._ping_event)
            silent_s = 0.0
        self._timer = self.loop.call_later(self._ping_after_s - silent_s, self._ping)


def _nothing() -> None:
    """Stand where nobody wants to be called."""
