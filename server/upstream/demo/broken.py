"""Answers that begin well and go wrong on the way."""

import asyncio
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from server.upstream.demo.call import Call
from server.upstream.demo.dialect import Event

_MEGABYTE = 1024 * 1024
_GARBAGE = b"<html>\r\n\xff\xfe\x00 not an event\nHTTP/1.1 200 OK\r\n}{\n\n"
_WEIRD: dict[str, list[Any]] = {
    "negative": [-5],
    "huge": [10**18],
    "string": ["12"],
    "float": [3.7],
    "null": [None],
    "bool": [True],
}


async def stall(call: Call) -> None:
    if not call.prompt.stream:
        body = call.whole()
        await call.exchange.start(200, {**call.headers, "content-length": str(len(body))})
        await call.exchange.raw(body[: len(body) // 2])
        await asyncio.sleep(call.number(5))
        await call.exchange.raw(body[len(body) // 2 :])
        call.entry.usage = call.reply.usage
    else:
        first, rest = _split(call)
        await call.start()
        await call.send_events(first)
        await asyncio.sleep(call.number(5))
        await call.send_events(rest)
        await call.exchange.end()
    call.entry.outcome = "completed"


async def cut(call: Call) -> None:
    await _begin_and_break(call)
    call.exchange.close()


async def rst_mid(call: Call) -> None:
    await _begin_and_break(call)
    await asyncio.sleep(0.05)  # a reset drops what the peer has not read yet
    call.exchange.reset()


async def cut_clean(call: Call) -> None:
    await call.start()
    if call.prompt.stream:
        await call.send_events(_split(call)[0])
    else:
        body = call.whole()
        await call.exchange.send(body[: len(body) // 2])
    await call.exchange.end()
    call.entry.outcome = "cut"


async def garbage(call: Call) -> None:
    if not call.prompt.stream:
        await call.respond(b'{"id": "demo", "usage": {]]\xff')
        return
    first, rest = _split(call)
    await call.start()
    await call.send_events(first)
    await call.exchange.send(_GARBAGE)
    await call.send_events(rest)
    await call.exchange.end()


async def endless_line(call: Call) -> None:
    await call.start()
    if call.prompt.stream:
        await call.send_events(_split(call)[0])
        await call.exchange.send(b"data: ")
    while True:
        await call.exchange.send(b" " * 65_536)
        await asyncio.sleep(0)


async def endless(call: Call) -> None:
    if not call.prompt.stream:
        await endless_line(call)  # never comes back
    call.say("The demo upstream goes on and on. ")
    first, _ = _split(call)
    await call.start()
    await call.send_events(first)
    delta = first[-1]
    while True:
        await asyncio.sleep(call.number(5) / 1000)
        await call.send_event(delta)


async def gzip(call: Call) -> None:
    call.entry.outcome = "completed"
    squeezed = zlib.compressobj(wbits=31)
    headers = {**call.headers, "content-encoding": "gzip"}
    if not call.prompt.stream:
        body = squeezed.compress(call.whole()) + squeezed.flush()
        await call.exchange.respond(200, headers, body)
        call.entry.usage = call.reply.usage
        return
    await call.exchange.start(200, headers)
    for event in call.events():
        data = squeezed.compress(event.data) + squeezed.flush(zlib.Z_SYNC_FLUSH)
        await call.send_event(event._replace(data=data))
    await call.exchange.send(squeezed.flush())
    await call.exchange.end()


async def gzipbomb(call: Call) -> None:
    squeezed = zlib.compressobj(wbits=31)
    await call.exchange.start(200, {**call.headers, "content-encoding": "gzip"})
    filler = b" " * _MEGABYTE  # JSON skips blanks; a line of them is no event
    for _ in range(int(call.number(256))):
        if data := squeezed.compress(filler):
            await call.exchange.send(data)
        await asyncio.sleep(0)
    await call.exchange.send(squeezed.flush())
    await call.exchange.end()


async def error_mid(call: Call) -> None:
    if not call.prompt.stream:
        await call.error(500, "Internal server error")
        return
    await call.start()
    await call.send_events(_split(call)[0])
    await call.send_event(call.dialect.error_event(500, "Internal server error"))
    await call.exchange.end()


async def no_usage(call: Call) -> None:
    await _with_usage(call, _nothing)
    call.entry.usage = None


def _nothing(_: Any) -> None:
    return None


async def weird_usage(call: Call) -> None:
    values = _WEIRD.get(call.argument) or [value for each in _WEIRD.values() for value in each]
    supply = itertools.cycle(values)

    def spoil(usage: Any) -> Any:
        if isinstance(usage, dict):
            return {key: spoil(value) for key, value in usage.items()}
        return next(supply) if isinstance(usage, int) else usage

    await _with_usage(call, spoil)


async def short_length(call: Call) -> None:
    body = b"".join(event.data for event in call.events()) if call.prompt.stream else call.whole()
    await call.exchange.start(200, {**call.headers, "content-length": str(len(body) + 1000)})
    await call.exchange.raw(body)
    call.entry.outcome = "cut"
    call.exchange.close()


async def tiny(call: Call) -> None:
    pause_s = call.number(1) / 1000
    if not call.prompt.stream:
        body = call.whole()
        await call.exchange.start(200, {**call.headers, "content-length": str(len(body))})
        await _drip(call, body, pause_s)
        call.entry.usage = call.reply.usage
    else:
        await call.start()
        for event in call.events():
            await _drip(call, b"%x\r\n%b\r\n" % (len(event.data), event.data), pause_s)
            call.count(event)
        await call.exchange.end()
    call.entry.outcome = "completed"


async def silent_close(call: Call) -> None:
    await call.start()
    call.entry.outcome = "cut"
    call.exchange.close()


def _split(call: Call) -> tuple[list[Event], Iterator[Event]]:
    """Give the events up to the third piece of content, and the others."""
    events = call.events()
    first: list[Event] = []
    for event in events:
        first.append(event)
        if sum(each.is_delta for each in first) == 3:
            break
    return first, events


async def _begin_and_break(call: Call) -> None:
    """Send half of an answer; a stream ends inside an event, inside its chunk."""
    call.entry.outcome = "cut"
    if not call.prompt.stream:
        body = call.whole()
        await call.exchange.start(200, {**call.headers, "content-length": str(len(body))})
        await call.exchange.raw(body[: len(body) // 2])
        return
    first, rest = _split(call)
    await call.start()
    await call.send_events(first)
    broken = next(rest, first[-1]).data
    await call.exchange.raw(b"%x\r\n%b" % (len(broken), broken[: len(broken) // 2]))


async def _drip(call: Call, data: bytes, pause_s: float) -> None:
    for at in range(len(data)):
        await call.exchange.raw(data[at : at + 1])
        await asyncio.sleep(pause_s)


async def _with_usage(call: Call, change: Callable[[Any], Any]) -> None:
    """Answer normally, but with every `usage` changed; None takes it out."""
    call.entry.outcome = "completed"
    if not call.prompt.stream:
        await call.respond(_changed(call.whole(), change))
        return
    await call.start()
    for event in call.events():
        lines = (
            b"data: " + _changed(line[6:], change) if line.startswith(b"data: {") else line
            for line in event.data.split(b"\n")
        )
        await call.send_event(event._replace(data=b"\n".join(lines)))
    await call.exchange.end()


def _changed(data: bytes, change: Callable[[Any], Any]) -> bytes:
    found = msgspec.json.decode(data)
    for holder in (found, found.get("message", {})):
        if holder.get("usage") is not None and (usage := change(holder.pop("usage"))) is not None:
            holder["usage"] = usage
    return msgspec.json.encode(found)
