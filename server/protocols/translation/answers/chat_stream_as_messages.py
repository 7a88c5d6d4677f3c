"""Streams of a Chat upstream, for a client that speaks Messages."""

import msgspec

from server.protocols.translation import Context
from server.protocols.translation.answers import chat_answers
from server.protocols.translation.answers import messages_answer_parts as parts
from server.protocols.translation.answers.messages_blocks import Kind, SerialBlocks
from server.protocols.translation.answers.streamed_calls import Call, StreamedCalls
from server.protocols.usage import ChatMeter


class ChatAsMessages:
    """Translates one stream; see `Machine`.

    Text and the open call's arguments go on as they come. What comes while a call is not whole
    yet waits for its end, because the blocks of a Messages stream follow one another.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._blocks = SerialBlocks()
        self._calls = StreamedCalls()
        self._idents = parts.Idents(context)
        self._open: Call | None = None
        self._waiting: dict[Call, None] = {}  # in their order
        self._late: list[chat_answers.Heard] = []
        self._blanks: dict[Kind, list[bytes]] = {}  # counts only if more than space follows
        self._thinks_in = ""  # the field that is read; some servers say the same in two
        self._meter = ChatMeter()
        self._usage = chat_answers.NULL
        self._last = chat_answers.Choice()  # with the reason why the answer ended
        self._has_begun = self._has_calls = self._has_refused = False

    def feed(self, whole_events: bytes) -> bytes:
        for chunk, data in chat_answers.chunks(whole_events):
            self._begin()
            usage = chat_answers.told_usage(chunk)
            if usage is not chat_answers.NULL:
                self._usage = usage
                self._meter.feed(b"data: %b\n\n" % data)
            for choice in chunk.choices or ():
                if choice.is_first:
                    self._take(choice)
        return self._blocks.drain()

    def finish(self) -> bytes:
        self._begin()
        if self._open is not None:
            self._end_call(self._open)
        for call in list(self._waiting):
            if call.name:
                self._begin_call(call)
                self._end_call(call)
        self._catch_up()
        self._blocks.close()
        self._end()
        return self._blocks.drain()

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            usage = {
                "input_tokens": self._context.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
            }
            self._blocks.event("message_start", message=parts.message(self._context, usage=usage))

    def _end(self) -> None:
        stop = parts.stop(self._last, has_calls=self._has_calls, has_refused=self._has_refused)
        usage = parts.usage(
            self._meter.usage,
            self._usage,
            input_tokens=self._context.input_tokens,
            output_tokens=self._blocks.estimated_tokens,
        )
        delta = {"stop_reason": stop.reason, "stop_sequence": stop.sequence}
        self._blocks.event("message_delta", delta=delta, usage=usage)
        self._blocks.event("message_stop")

    def _take(self, choice: chat_answers.Choice) -> None:
        if not chat_answers.is_null(choice.finish_reason):
            self._last = choice
        said = choice.delta or choice.message
        if said is None:
            return
        heard = chat_answers.heard(said)
        if self._open is None and not self._waiting:
            self._say(heard)
        elif any(heard):
            self._late.append(heard)
        for fragment in chat_answers.calls(said):
            self._take_call(fragment)

    def _say(self, heard: chat_answers.Heard) -> None:
        for field, words in heard.thoughts.items():
            self._thinks_in = self._thinks_in or field
            if field == self._thinks_in:
                self._add("thinking", words)
        for detail in heard.details:
            self._sign(detail)
        if heard.text:
            self._add("text", heard.text)
        if heard.refusal:
            self._has_refused = True
            self._add("text", heard.refusal)

    def _add(self, kind: Kind, words: bytes) -> None:
        if self._blocks.kind != kind:
            if chat_answers.is_blank(words):
                self._blanks.setdefault(kind, []).append(words)
                return
            words = b"".join([*self._blanks.pop(kind, ()), words])
            self._blocks.open(kind)
        self._blocks.delta(words)

    def _sign(self, detail: chat_answers.Detail) -> None:
        """Sign the thinking that is open, or that which was never shown."""
        if data := chat_answers.string(detail.data):
            self._blocks.redacted(data)
        elif signature := chat_answers.escaped(detail.signature):
            if not self._thinks_in:
                self._blocks.open("thinking")
            self._blocks.sign(signature)

    def _take_call(self, fragment: chat_answers.ToolCall) -> None:
        call, is_new = self._calls.take(fragment)
        if is_new:
            self._waiting[call] = None
        if call is self._open:
            self._go_on(call)
        while self._open is None:
            known = self._known_call()
            if known is None:
                break
            self._begin_call(known)
            self._go_on(known)
        if self._open is None and not self._waiting:
            self._catch_up()

    def _known_call(self) -> Call | None:
        """Find the next call that can begin; behind the start of another no id comes late."""
        for call in self._waiting:
            if call.is_known or (call.name and call is not next(reversed(self._waiting))):
                return call
        return None

    def _begin_call(self, call: Call) -> None:
        self._open, self._has_calls = call, True
        del self._waiting[call]
        self._blanks.clear()
        name = self._context.names.get(call.name, call.name)
        self._blocks.open("tool_use", id=self._idents.unique(call.ident), name=name, input={})

    def _go_on(self, call: Call) -> None:
        if ready := call.drain():
            self._blocks.delta(msgspec.json.encode(ready)[1:-1])
        if call.arguments.is_complete:
            self._end_call(call)

    def _end_call(self, call: Call) -> None:
        if rest := call.end():
            self._blocks.delta(msgspec.json.encode(rest)[1:-1])
        self._blocks.close()
        self._open = None

    def _catch_up(self) -> None:
        """Say what has waited for the calls to end."""
        late, self._late = self._late, []
        for heard in late:
            self._say(heard)
