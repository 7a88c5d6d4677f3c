"""A fast scripted provider of both protocols, for measuring what stands in front of it.

A request's model says how it is answered: `bench-100-20` streams 100 deltas 20 ms apart, and with
a pause of 0 as fast as it can. Each delta's text holds the instant at which it was written.
Prints its port, serves until stdin ends, then prints how many requests it answered.
"""

import asyncio
import json
import re
import sys
import time

import uvloop

MARK = b"written@"  # and 19 digits: nanoseconds of the monotonic clock, one for all processes
DELTAS_PER_WRITE = 25  # without a pause; written on their own, the loop would join all of them

_BODY_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_MODEL = re.compile(rb'"model":"bench-(\d+)-(\d+)"')
_USAGE = {"input_tokens": 512, "output_tokens": 42}
_CHAT_USAGE = {"prompt_tokens": 512, "completion_tokens": 42, "total_tokens": 554}
_TEXT = "An answer of a sentence or two, as short answers are. " * 3


def _json(value):
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(kind, **members):
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json({"type": kind} | members))


def _chat_event(*choices, **members):
    named = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_790_000_000}
    return b"data: %b\n\n" % _json(named | {"model": "bench", "choices": choices} | members)


def _choice(delta, finish_reason=None):
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _whole(value):
    body = _json(value)
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"
    return head.format(len(body)).encode() + body


class _Script:
    """How a protocol answers: whole, or as an opening, deltas and a closing in chunks."""

    def __init__(self, whole, opening, delta, closing):
        self.whole = _whole(whole)
        self.opening = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + b"".join(map(_chunk, opening))
        )
        # Every delta is as long as the next, so its frame is made once.
        self._before, self._after = _chunk(delta).split(MARK + b"0" * 19)
        self.closing = b"".join(map(_chunk, closing)) + b"0\r\n\r\n"

    def delta(self):
        return b"%b%b%019d%b" % (self._before, MARK, time.monotonic_ns(), self._after)


_DELTA = MARK.decode() + "0" * 19 + " "
_MESSAGE = {"id": "msg_bench", "type": "message", "role": "assistant", "model": "bench"}
_MESSAGE |= {"stop_reason": None, "stop_sequence": None, "usage": _USAGE, "content": []}
_END = {"stop_reason": "end_turn", "stop_sequence": None}
_MESSAGES = _Script(
    whole=_MESSAGE | _END | {"content": [{"type": "text", "text": _TEXT}]},
    opening=(
        _event("message_start", message=_MESSAGE),
        _event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    ),
    delta=_event("content_block_delta", index=0, delta={"type": "text_delta", "text": _DELTA}),
    closing=(
        _event("content_block_stop", index=0),
        _event("message_delta", delta=_END, usage={"output_tokens": 42}),
        _event("message_stop"),
    ),
)
_COMPLETION = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1_790_000_000}
_ANSWER = {"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}
_CHAT = _Script(
    whole=_COMPLETION | {"model": "bench", "choices": [_ANSWER], "usage": _CHAT_USAGE},
    opening=(_chat_event(_choice({"role": "assistant", "content": ""})),),
    delta=_chat_event(_choice({"content": _DELTA})),
    closing=(
        _chat_event(_choice({}, "stop")),
        _chat_event(usage=_CHAT_USAGE),
        b"data: [DONE]\n\n",
    ),
)


class Provider(asyncio.Protocol):
    """One connection; requests come one after another, each with its length."""

    answered = 0

    def connection_made(self, transport):
        self._transport, self._received = transport, b""
        self._loop = asyncio.get_running_loop()

    def data_received(self, data):
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = _BODY_LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        Provider.answered += 1
        script = _CHAT if b"/chat/completions " in head.partition(b"\r\n")[0] else _MESSAGES
        if b'"stream":true' not in body:
            self._transport.write(script.whole)
            return
        model = _MODEL.search(body)
        self._deltas, self._pause_s = int(model[1]), int(model[2]) / 1000
        self._transport.write(script.opening)
        self._next_at = self._loop.time()
        self._play(script)

    def _play(self, script):
        if self._transport.is_closing():
            return
        count = 1 if self._pause_s else min(self._deltas, DELTAS_PER_WRITE)
        self._deltas -= count
        written = [script.delta() for _ in range(count)]
        if not self._deltas:
            written.append(script.closing)
        self._transport.write(b"".join(written))
        if self._deltas:
            self._next_at += self._pause_s
            self._loop.call_at(self._next_at, self._play, script)


async def _serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - for whoever started it
    await loop.run_in_executor(None, sys.stdin.read)
    print(Provider.answered, flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    uvloop.run(_serve())
