"""One inference request on its way to an answer, right or deliberately wrong."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from server.upstream.demo.dialect import Dialect, Event, Stamp
from server.upstream.demo.journal import Entry
from server.upstream.demo.model import Prompt, Reply
from server.upstream.demo.usage import count_tokens
from server.upstream.demo.wire import Exchange

_EVENTS_BETWEEN_YIELDS = 64  # so that a long answer leaves the loop to the others


@dataclass(slots=True)
class Call:
    """A request that was understood, the reply to it, and where it goes."""

    exchange: Exchange
    entry: Entry
    dialect: Dialect
    prompt: Prompt
    reply: Reply
    stamp: Stamp
    pause_s: float = 0.0  # before each word
    argument: str = ""  # of the fault, if the model's name has one

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a normal answer."""
        kind = "text/event-stream; charset=utf-8" if self.prompt.stream else "application/json"
        return {
            "content-type": kind,
            "cache-control": "no-cache",
            **self.dialect.headers(self.stamp),
        }

    def events(self) -> Iterator[Event]:
        """The normal stream, the terminal event included."""
        return self.dialect.events(self.prompt, self.reply, self.stamp)

    def whole(self) -> bytes:
        """The normal body of an answer that does not stream."""
        return self.dialect.whole(self.prompt, self.reply, self.stamp)

    def number(self, default: float) -> float:
        """Read the fault's argument as a number, not negative."""
        try:
            return max(float(self.argument), 0.0) if self.argument else default
        except ValueError:
            return default

    def say(self, text: str) -> None:
        """Answer `text` instead, for which `max_tokens` does not count."""
        usage = replace(self.reply.usage, output_tokens=count_tokens(text), thinking_tokens=0)
        self.reply = Reply(text, usage)

    async def complete(self) -> None:
        """Answer as a healthy provider does."""
        if self.prompt.stream:
            await self.start()
            await self.send_events(self.events())
            await self.exchange.end()
        else:
            await self.respond(self.whole())
        self.entry.outcome = "completed"

    async def start(self) -> None:
        """Send the head of a stream."""
        await self.exchange.start(200, self.headers)

    async def respond(self, body: bytes) -> None:
        """Send a whole body; its usage counts as reported."""
        if self.pause_s:
            await asyncio.sleep(self.pause_s * self.reply.usage.output_tokens)
        await self.exchange.respond(200, self.headers, body)
        self.entry.usage = self.reply.usage

    async def send_events(self, events: Iterable[Event]) -> None:
        """Send events, at the pace of the options."""
        for count, event in enumerate(events, 1):
            if event.is_delta and self.pause_s:
                await asyncio.sleep(self.pause_s)
            elif count % _EVENTS_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)
            await self.send_event(event)

    async def send_event(self, event: Event) -> None:
        """Send one event as a chunk of its own."""
        await self.exchange.send(event.data)
        self.count(event)

    def count(self, event: Event) -> None:
        """Note in the journal that `event` is out."""
        self.entry.events += 1
        self.entry.usage = event.usage or self.entry.usage

    async def error(
        self,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        """Answer with the protocol's error body."""
        ident = f"req_{self.stamp.id}"
        body = self.dialect.error(status, message, param=param, request_id=ident)
        shown = {**self.dialect.headers(self.stamp), "content-type": "application/json"}
        await self.exchange.respond(status, {**shown, **(headers or {})}, body)
