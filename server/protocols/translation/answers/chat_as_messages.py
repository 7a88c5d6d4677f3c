"""Answers of a Chat upstream, for a client that speaks Messages.

Reasoning becomes thinking, never visible text; it is signed only where it is Claude's own, told
in `reasoning_details`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from server.errors import UpstreamError
from server.protocols.translation import Context, arguments
from server.protocols.translation.answers import chat_answers
from server.protocols.translation.answers import messages_answer_parts as parts
from server.protocols.translation.answers.chat_stream_as_messages import ChatAsMessages
from server.protocols.usage import ChatMeter

__all__ = ["ChatAsMessages", "answer"]


def answer(body: bytes, context: Context) -> bytes:
    """Translate an answer that is not streamed.

    Raises:
        UpstreamError: the body is no Chat Completions answer.
    """
    body = chat_answers.as_utf8(body)
    meter = ChatMeter()
    meter.read_body(body)
    choice, told = _first_choice(body)
    said = choice.message or choice.delta or chat_answers.Said()
    heard = chat_answers.heard(said)
    calls = list(_tool_uses(said, context))
    stop = parts.stop(choice, has_calls=bool(calls), has_refused=bool(heard.refusal))
    message = parts.message(
        context,
        content=[*_thinking(heard), *_text(heard.text + heard.refusal), *calls],
        stop_reason=stop.reason,
        stop_sequence=stop.sequence,
        usage=parts.usage(
            meter.usage,
            told,
            input_tokens=context.input_tokens,
            output_tokens=meter.estimated_output_tokens(),
        ),
    )
    return msgspec.json.encode(message)


def _first_choice(body: bytes) -> tuple[chat_answers.Choice, Raw]:
    completion = chat_answers.read(body)
    for choice in (completion and completion.choices) or ():
        if completion and choice.is_first:
            return choice, chat_answers.told_usage(completion)
    raise UpstreamError("The provider's answer has no message; try again.")


def _thinking(heard: chat_answers.Heard) -> list[dict[str, Any]]:
    if any(detail.is_signed for detail in heard.details):
        told = [detail for detail in heard.details if detail.is_signed or detail.words]
        return [_detail(detail) for detail in told]
    words = next(iter(heard.thoughts.values()), b"")
    if chat_answers.is_blank(words):
        return []
    return [{"type": "thinking", "thinking": _written(words), "signature": ""}]


def _detail(detail: chat_answers.Detail) -> dict[str, Any]:
    if not chat_answers.is_null(detail.data):
        return {"type": "redacted_thinking", "data": detail.data}
    signature = _written(chat_answers.escaped(detail.signature))
    return {"type": "thinking", "thinking": _written(detail.words), "signature": signature}


def _text(words: bytes) -> list[dict[str, Any]]:
    return [] if chat_answers.is_blank(words) else [{"type": "text", "text": _written(words)}]


def _tool_uses(said: chat_answers.Said, context: Context) -> Iterator[dict[str, Any]]:
    idents = parts.Idents(context)
    for call in chat_answers.calls(said):
        if call.name:
            yield {
                "type": "tool_use",
                "id": idents.unique(call.ident),
                "name": context.names.get(call.name, call.name),
                "input": Raw(arguments.whole(call.arguments).encode()),
            }


def _written(words: bytes) -> Raw:
    return Raw(b'"%b"' % words)
