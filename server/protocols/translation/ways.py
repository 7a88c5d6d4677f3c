"""Which translation lies between what a client speaks and what an upstream does."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from msgspec import Raw, Struct

from server.protocols import Protocol
from server.protocols.by_protocol import PING
from server.protocols.compat import Compat
from server.protocols.translation import Context, Machine, Translated
from server.protocols.translation.answers import (
    chat_as_messages,
    chat_as_responses,
    messages_as_chat,
)
from server.protocols.translation.answers.whole import ChatWhole, MessagesWhole
from server.protocols.translation.requests import chat_to_messages, messages_to_chat

WHOLE: Mapping[Protocol, Callable[[], Machine]] = {
    Protocol.ANTHROPIC: MessagesWhole,
    Protocol.OPENAI: ChatWhole,
}


class Answers(Struct, frozen=True):
    """How an answer reaches its client: a stream through `machine`, a body through `whole`.

    None: as it is. `is_gathered`: the upstream streams, and the machine makes one body of it.
    `ping` keeps a client's stream alive, where it is not the upstream's protocol that it speaks.
    """

    machine: Machine | None = None
    whole: Callable[[bytes], bytes] | None = None
    is_gathered: bool = False
    ping: bytes | None = None


AS_THEY_ARE = Answers()


def request(
    fields: Mapping[str, Raw], spoken: Protocol, *, compat: Compat, max_tokens: int
) -> Translated:
    """Translate a request of the other protocol into one that speaks `spoken`.

    `max_tokens` is the limit of a Messages request where the client names none.
    """
    if spoken is Protocol.OPENAI:
        return messages_to_chat.request(fields, compat)
    return chat_to_messages.request(fields, max_tokens=max_tokens)


def answers(
    client: Protocol,
    spoken: Protocol,
    *,
    stream: bool,
    streamed: bool,
    context: Context,
    asked: Any = None,
) -> Answers:
    """Choose how an answer that speaks `spoken` reaches a client.

    `stream` is what the client asked for, `streamed` what the upstream was asked for. `asked` is
    what a Responses answer has to say again of its request.
    """
    if client is spoken and stream is streamed:
        return AS_THEY_ARE
    steps = _steps(client, spoken, context, asked)
    if stream:
        machine = _in_a_row([machine() for machine, _ in steps])
        return Answers(machine, ping=PING[client])
    whole = partial(_one_by_one, [step for _, step in steps]) if steps else None
    if streamed:
        return Answers(Gathered(WHOLE[spoken](), whole), whole, is_gathered=True)
    return Answers(whole=whole)


class Gathered:
    """A machine for a client that did not ask for a stream: gives one body, at the end."""

    def __init__(self, gathering: Machine, whole: Callable[[bytes], bytes] | None) -> None:
        self._gathering = gathering
        self._whole = whole

    def feed(self, whole_events: bytes) -> bytes:
        return self._gathering.feed(whole_events)

    def finish(self) -> bytes:
        """Give the body.

        Raises:
            UpstreamError: it is no answer.
        """
        body = self._gathering.finish()
        return body if self._whole is None else self._whole(body)


class Chain:
    """Two machines, one after the other."""

    def __init__(self, first: Machine, then: Machine) -> None:
        self._first, self._then = first, then

    def feed(self, whole_events: bytes) -> bytes:
        events = self._first.feed(whole_events)
        return self._then.feed(events) if events else b""

    def finish(self) -> bytes:
        return self._then.feed(self._first.finish()) + self._then.finish()


_Step = tuple[Callable[[], Machine], Callable[[bytes], bytes]]


def _steps(client: Protocol, spoken: Protocol, context: Context, asked: Any) -> list[_Step]:
    """List what an answer goes through; Responses are made of Chat."""
    if client is spoken:
        return []
    if client is Protocol.ANTHROPIC:
        return [
            (
                partial(chat_as_messages.ChatAsMessages, context),
                partial(chat_as_messages.answer, context=context),
            )
        ]
    as_chat: _Step = (
        partial(messages_as_chat.MessagesAsChat, context),
        partial(messages_as_chat.answer, context=context),
    )
    if client is Protocol.OPENAI:
        return [as_chat]
    as_responses: _Step = (
        partial(chat_as_responses.ChatAsResponses, context, asked),
        partial(chat_as_responses.answer, context=context, asked=asked),
    )
    return [as_chat, as_responses] if spoken is Protocol.ANTHROPIC else [as_responses]


def _in_a_row(machines: list[Machine]) -> Machine:
    return machines[0] if len(machines) == 1 else Chain(*machines)


def _one_by_one(steps: list[Callable[[bytes], bytes]], body: bytes) -> bytes:
    for step in steps:
        body = step(body)
    return body
