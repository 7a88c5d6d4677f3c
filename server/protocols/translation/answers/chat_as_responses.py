"""Answers of a Chat upstream, for a client that speaks the Responses protocol.

Chat                                   Responses
reasoning_content, reasoning           reasoning: its summary
reasoning_details, where signed        reasoning: encrypted_content
content, refusal                       message: output_text, refusal
tool_calls                             function_call, or what the client knows the tool as
finish length, content_filter          incomplete, with the reason
any other finish                       completed
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from server.errors import UpstreamError
from server.protocols.translation import Context
from server.protocols.translation.answers import chat_answers
from server.protocols.translation.answers.responses_output import Output
from server.protocols.translation.requests.responses_to_chat import ResponsesAsked


def answer(body: bytes, context: Context, asked: ResponsesAsked) -> bytes:
    """Translate an answer that is not streamed.

    Raises:
        UpstreamError: the body is no Chat answer.
    """
    completion = chat_answers.read(chat_answers.as_utf8(body))
    if completion is None or not completion.choices:
        raise UpstreamError("The provider's answer is no chat completion; try again.")
    choice = completion.choices[0]
    output = Output(context, asked)
    output.take(choice.message or choice.delta or chat_answers.Said())
    reason, usage = chat_answers.string(choice.finish_reason), chat_answers.told_usage(completion)
    return msgspec.json.encode(_ended(output, reason, usage, context, asked))


class ChatAsResponses:
    """Translates one stream; see `Machine`. Its last event is the whole response."""

    def __init__(self, context: Context, asked: ResponsesAsked) -> None:
        self._context, self._asked = context, asked
        self._output = Output(context, asked)
        self._events = self._output.events
        self._has_begun = False
        self._finish_reason = ""
        self._usage = chat_answers.NULL

    def feed(self, whole_events: bytes) -> bytes:
        if whole_events.startswith(b":"):
            self._begin()
            self._events.add_ping()
        for chunk, _ in chat_answers.chunks(whole_events):
            self._begin()  # not before: an error alone is still answered with its status
            if not chat_answers.is_null(usage := chat_answers.told_usage(chunk)):
                self._usage = usage
            for choice in chunk.choices or ():
                if choice.is_first:
                    self._take(choice)
        return self._events.take()

    def finish(self) -> bytes:
        self._begin()
        last = _ended(self._output, self._finish_reason, self._usage, self._context, self._asked)
        self._events.add(f"response.{last['status']}", response=last)
        return self._events.take()

    def _take(self, choice: chat_answers.Choice) -> None:
        if said := choice.delta or choice.message:
            self._output.take(said)
        self._finish_reason = chat_answers.string(choice.finish_reason) or self._finish_reason

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        begun = _response(self._context, self._asked, "in_progress")
        self._events.add("response.created", response=begun)
        self._events.add("response.in_progress", response=begun)


class _Details(Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


_USAGE = msgspec.json.Decoder(_Usage | None)
_WHY_INCOMPLETE: Mapping[str, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


def _ended(
    output: Output,
    finish_reason: str,
    usage: Raw,
    context: Context,
    asked: ResponsesAsked,
) -> dict[str, Any]:
    """End the output; give the whole response."""
    why = _WHY_INCOMPLETE.get(finish_reason)
    items = output.end(is_incomplete=why is not None)
    response = _response(context, asked, "completed" if why is None else "incomplete")
    details = None if why is None else {"reason": why}
    told = {"output": items, "usage": _usage(usage), "incomplete_details": details}
    return {**response, **told}


def _response(context: Context, asked: ResponsesAsked, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{context.ident}",
        "object": "response",
        "created_at": context.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": context.model,
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
        **asked.echo,
    }


def _usage(raw: Raw) -> dict[str, Any] | None:
    try:
        usage = _USAGE.decode(raw)
    except (ValueError, RecursionError):
        return None
    if usage is None:
        return None
    read, written = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cache = usage.prompt_tokens_details or _Details()
    thought = usage.completion_tokens_details or _Details()
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": cache.cached_tokens or 0,
            "cache_write_tokens": cache.cache_write_tokens or 0,
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought.reasoning_tokens or 0},
        "total_tokens": read + written,
    }
