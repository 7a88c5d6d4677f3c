"""Answers of a Chat upstream, for a client that speaks Messages.

Reasoning becomes thinking, never visible text; it is signed only where it is Claude's own, told
in `reasoning_details`.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from server.errors import UpstreamError
from server.protocols.translation import Context, arguments, completions
from server.protocols.translation import completion_parts as parts
from server.protocols.translation.chat_stream_as_messages import ChatAsMessages
from server.protocols.usage import ChatMeter

__all__ = ["ChatAsMessages", "answer"]


def answer(body: bytes, context: Context) -> bytes:
    """Translate an answer that is not streamed.

    Raises:
        UpstreamError: the body is no Chat Completions answer.
    """
    body = completions.as_utf8(body)
    meter = ChatMeter()
    meter.read_body(body)
    choice, told = _first_choice(body)
    said = choice.message or choice.delta or completions.Said()
    heard = completions.heard(said)
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


def _first_choice(body: bytes) -> tuple[completions.Choice, Raw]:
    completion = completions.read(body)
    for choice in (completion and completion.choices) or ():
        if completion and choice.is_first:
            return choice, completions.told_usage(completion)
    raise UpstreamError("The provider's answer has no message; try again.")


def _thinking(heard: completions.Heard) -> list[dict[str, Any]]:
    if any(detail.is_signed for detail in heard.details):
        told = [detail for detail in heard.details if detail.is_signed or detail.words]
        return [_detail(detail) for detail in told]
    words = next(iter(heard.thoughts.values()), b"")
    if completions.is_blank(words):
        return []
    return [{"type": "thinking", "thinking": _written(words), "signature": ""}]


def _detail(detail: completions.Detail) -> dict[str, Any]:
    if not completions.is_null(detail.data):
        return {"type": "redacted_thinking", "data": detail.data}
    signature = _written(completions.escaped(detail.signature))
    return {"type": "thinking", "thinking": _written(detail.words), "signature": signature}


def _text(words: bytes) -> list[dict[str, Any]]:
    return [] if completions.is_blank(words) else [{"type": "text", "text": _written(words)}]


def _tool_uses(said: completions.Said, context: Context) -> Iterator[dict[str, Any]]:
    idents = parts.Idents(context)
    for call in completions.calls(said):
        if call.name:
            yield {
                "type": "tool_use",
                "id": idents.unique(call.ident),
                "name": context.names.get(call.name, call.name),
                "input": Raw(arguments.whole(call.arguments).encode()),
            }


def _written(words: bytes) -> Raw:
    return Raw(b'"%b"' % words)
