"""The demo upstream's side of OpenAI Chat Completions.

Source: the protocol as read in the vendor's SDK 3.54 (2026-11).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from server.upstream.demo.agent import Tool, ToolResult, has_failed
from server.upstream.demo.dialect import Event, Stamp
from server.upstream.demo.model import (
    BadRequestError,
    Prompt,
    Reply,
    ToolCall,
    Turn,
    field,
    fragments,
    words,
)
from server.upstream.demo.usage import Piece, PrefixCache, Usage, hash_pieces, measure_automatic

NAME = "openai"
_FINISH = {
    "end": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_use": "tool_calls",
    "refusal": "stop",
}
_ROLE: Mapping[Any, Any] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}
_ERROR_CODE = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
_ANY_OBJECT = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
}


def read(body: Mapping[str, Any]) -> Prompt:
    """Understand a request."""
    turns = [_turn(message) for message in field(body, "messages", list, needed=True)]
    if not turns:
        raise BadRequestError("Invalid 'messages': empty array.", param="messages")
    tools, must_call = _tools(body)
    stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
    options = field(body, "stream_options", dict) or {}
    newer = field(body, "max_completion_tokens", int)
    prompt = Prompt(
        model=field(body, "model", str, needed=True),
        turns=tuple(turns),
        tools=tools,
        must_call=must_call,
        may_call_several=body.get("parallel_tool_calls") is not False,
        stream=bool(field(body, "stream", bool)),
        include_usage=options.get("include_usage") is True,
        max_tokens=newer if newer is not None else field(body, "max_tokens", int),
        stops=tuple(stop for stop in stops if isinstance(stop, str)),
        schema=_schema(field(body, "response_format", dict) or {}),
    )
    is_thinking = prompt.has("thinking") and body.get("reasoning_effort") != "none"
    return replace(prompt, thinking="shown") if is_thinking else prompt


def measure(body: Mapping[str, Any], cache: PrefixCache) -> tuple[Usage, str]:
    """Count the input: tools, then messages, cached without being asked."""
    pieces = [Piece(tool) for tool in _dicts(body.get("tools"))]
    pieces += [Piece(message) for message in body["messages"]]
    stable = [
        piece for piece in pieces if _ROLE.get(piece.content.get("role"), "system") == "system"
    ]
    return measure_automatic(body["model"], pieces, cache), hash_pieces(stable)


def headers(stamp: Stamp) -> dict[str, str]:
    """Give what the provider sends with every answer."""
    return {
        "x-request-id": f"req_{stamp.id}",
        "openai-organization": "demo",
        "openai-processing-ms": "1",
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
    }


def tool_call_id(ident: str) -> str:
    """Give the id of a tool call."""
    return f"call_{ident}"


def whole(prompt: Prompt, reply: Reply, stamp: Stamp) -> bytes:
    """Render a chat.completion."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.stop == "refusal":
        message |= {"content": None, "refusal": reply.text}
    elif reply.calls:
        message["tool_calls"] = [_call(call, call.arguments) for call in reply.calls]
    elif not reply.text:
        message["content"] = ""
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _FINISH[reply.stop],
    }
    shared = _shared("chat.completion", prompt, stamp)
    return msgspec.json.encode({**shared, "choices": [choice], "usage": _usage(reply.usage)})


def events(prompt: Prompt, reply: Reply, stamp: Stamp) -> Iterator[Event]:
    """Render chunks, the usage chunk if it was asked for, and `[DONE]`."""
    shared = _shared("chat.completion.chunk", prompt, stamp)
    if prompt.include_usage:
        shared["usage"] = None
    for delta, finish in _deltas(reply):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        yield _event({**shared, "choices": [choice]}, is_delta="role" not in delta and not finish)
    if prompt.include_usage:
        counted = {**shared, "choices": [], "usage": _usage(reply.usage)}
        yield _event(counted, usage=reply.usage)
    yield Event(b"data: [DONE]\n\n")


def error(status: int, message: str, *, param: str | None, request_id: str) -> bytes:
    """Render an error body; the request's id is in a header only."""
    del request_id
    return msgspec.json.encode(_error(status, message, param))


def error_event(status: int, message: str) -> Event:
    """Render an error inside a stream."""
    return _event(_error(status, message, None))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (part.get("text") for part in _dicts(content))
    return "\n".join(text for text in parts if isinstance(text, str))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _turn(message: Any) -> Turn:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLE:
        raise BadRequestError(
            f"Invalid value: {role!r}. Supported roles: {', '.join(_ROLE)}.", param="messages"
        )
    text = _text(message.get("content"))
    if role in ("tool", "function"):
        return Turn("user", results=(ToolResult(text, failed=has_failed(text)),))
    return Turn(_ROLE[role], text)


def _tools(body: Mapping[str, Any]) -> tuple[tuple[Tool, ...], bool]:
    offered = (tool.get("function") for tool in _dicts(body.get("tools")))
    tools = tuple(
        Tool(str(function.get("name")), function.get("parameters") or {})
        for function in offered
        if isinstance(function, dict)
    )
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        allowed = choice.get("allowed_tools") or {"mode": "required", "tools": [choice]}
        names = {(tool.get("function") or {}).get("name") for tool in allowed["tools"]}
        kept = tuple(tool for tool in tools if tool.name in names)
        return kept, allowed.get("mode") == "required"
    return () if choice == "none" else tools, choice == "required"


def _schema(form: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if form.get("type") == "json_schema":
        return (form.get("json_schema") or {}).get("schema") or _ANY_OBJECT
    return _ANY_OBJECT if form.get("type") == "json_object" else None


def _shared(kind: str, prompt: Prompt, stamp: Stamp) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{stamp.id}",
        "object": kind,
        "created": stamp.created,
        "model": prompt.model,
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_input_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.thinking_tokens,
            "audio_tokens": 0,
        },
    }


def _call(call: ToolCall, arguments: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _deltas(reply: Reply) -> Iterator[tuple[dict[str, Any], str | None]]:
    yield {"role": "assistant", "content": "", "refusal": None}, None
    for word in words(reply.thinking or ""):
        yield {"reasoning_content": word}, None
    for word in words(reply.text):
        yield {"refusal" if reply.stop == "refusal" else "content": word}, None
    for index, call in enumerate(reply.calls):
        yield {"tool_calls": [{"index": index, **_call(call, "")}]}, None
        for piece in fragments(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None
    yield {}, _FINISH[reply.stop]


def _event(
    fields: Mapping[str, Any], *, usage: Usage | None = None, is_delta: bool = False
) -> Event:
    return Event(b"data: " + msgspec.json.encode(fields) + b"\n\n", usage, is_delta)


def _error(status: int, message: str, param: str | None) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    kind = "rate_limit_error" if status == 429 else kind
    code = "context_length_exceeded" if "prompt is too long" in message else _ERROR_CODE.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
