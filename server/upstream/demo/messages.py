"""The demo upstream's side of Anthropic Messages.

Source: the protocol as read in the vendor's SDK 2.12 (2026-11).
"""

import base64
import hashlib
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
    Thinking,
    Turn,
    field,
    fragments,
    words,
)
from server.upstream.demo.usage import (
    Piece,
    PrefixCache,
    Ttl,
    Usage,
    hash_pieces,
    measure_breakpoints,
)

NAME = "anthropic"
_MOST_BREAKPOINTS = 4
_STOP = {"end": "end_turn", "length": "max_tokens"}
_ERROR_TYPE = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def read(body: Mapping[str, Any]) -> Prompt:
    """Understand a request."""
    turns = [_turn(message) for message in field(body, "messages", list, needed=True)]
    if not turns:
        raise BadRequestError("messages: at least one message is required", param="messages")
    if system := _text(body.get("system")):
        turns.insert(0, Turn("system", system))
    tools, must_call = _tools(body)
    several = (field(body, "tool_choice", dict) or {}).get("disable_parallel_tool_use") is not True
    form = (field(body, "output_config", dict) or {}).get("format") or {}
    prompt = Prompt(
        model=field(body, "model", str, needed=True),
        turns=tuple(turns),
        tools=tools,
        must_call=must_call,
        may_call_several=several,
        stream=bool(field(body, "stream", bool)),
        max_tokens=field(body, "max_tokens", int, needed=True),
        stops=tuple(
            stop for stop in field(body, "stop_sequences", list) or () if isinstance(stop, str)
        ),
        schema=form.get("schema") if form.get("type") == "json_schema" else None,
    )
    if prompt.has("thinking"):
        _check_signatures(body)
    return replace(prompt, thinking=_thinking(field(body, "thinking", dict) or {}, prompt))


def measure(body: Mapping[str, Any], cache: PrefixCache) -> tuple[Usage, str]:
    """Count the input up to each `cache_control`, in the order tools, system, messages."""
    stable = [_piece(tool) for tool in _dicts(body.get("tools"))]
    stable += [_piece(block) for block in _blocks(body.get("system"))]
    pieces = list(stable)
    for message in body["messages"]:
        for block in _blocks(message.get("content")):
            piece = _piece(block)
            pieces.append(Piece([message.get("role"), piece.content], piece.ttl))
    if (automatic := _ttl(body)) and pieces:
        pieces[-1] = Piece(pieces[-1].content, pieces[-1].ttl or automatic)
    if (found := sum(piece.ttl is not None for piece in pieces)) > _MOST_BREAKPOINTS:
        raise BadRequestError(
            f"A maximum of {_MOST_BREAKPOINTS} blocks with cache_control may be provided. "
            f"Found {found}."
        )
    return measure_breakpoints(body["model"], pieces, cache), hash_pieces(stable)


def headers(stamp: Stamp) -> dict[str, str]:
    """Give what the provider sends with every answer."""
    return {
        "request-id": f"req_{stamp.id}",
        "anthropic-organization-id": "demo",
        "anthropic-ratelimit-requests-limit": "1000",
        "anthropic-ratelimit-requests-remaining": "999",
        "anthropic-ratelimit-requests-reset": "2030-01-01T00:00:00Z",
    }


def tool_call_id(ident: str) -> str:
    """Give the id of a tool_use block."""
    return f"toolu_{ident}"


def whole(prompt: Prompt, reply: Reply, stamp: Stamp) -> bytes:
    """Render a Message."""
    message = _message(prompt, stamp, reply.usage)
    return msgspec.json.encode({**message, **_ending(reply), "content": list(_content(reply))})


def events(prompt: Prompt, reply: Reply, stamp: Stamp) -> Iterator[Event]:
    """Render a Message as the provider's sequence of events."""
    begun = replace(reply.usage, output_tokens=min(1, reply.usage.output_tokens), thinking_tokens=0)
    yield _event("message_start", {"message": _message(prompt, stamp, begun)}, usage=begun)
    for index, block in enumerate(_content(reply)):
        yield from _block_events(index, block, with_ping=index == 0)
    delta = {"delta": _ending(reply), "usage": _usage(reply.usage)}
    yield _event("message_delta", delta, usage=reply.usage)
    yield _event("message_stop", {})


def error(status: int, message: str, *, param: str | None, request_id: str) -> bytes:
    """Render an error body; this protocol has no `param`."""
    del param
    return msgspec.json.encode({**_error(status, message), "request_id": request_id})


def error_event(status: int, message: str) -> Event:
    """Render `event: error`."""
    return Event(b"event: error\ndata: " + msgspec.json.encode(_error(status, message)) + b"\n\n")


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return _dicts(content)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(content: Any) -> str:
    texts = (block.get("text") for block in _blocks(content) if block.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _turn(message: Any) -> Turn:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("user", "assistant", "system"):
        raise BadRequestError("messages: role must be user, assistant or system", param="messages")
    results = tuple(
        _result(block)
        for block in _blocks(message.get("content"))
        if block.get("type") == "tool_result"
    )
    return Turn(role, _text(message.get("content")), results)


def _check_signatures(body: Mapping[str, Any]) -> None:
    for number, message in enumerate(body["messages"]):
        for block in _blocks(message.get("content")):
            if block.get("type") == "thinking" and block["signature"] != _seal(block["thinking"]):
                problem = f"messages.{number}: Invalid `signature` in `thinking` block"
                raise BadRequestError(problem, param="messages")


def _result(block: Mapping[str, Any]) -> ToolResult:
    text = _text(block.get("content"))
    return ToolResult(text, failed=block.get("is_error") is True or has_failed(text))


def _tools(body: Mapping[str, Any]) -> tuple[tuple[Tool, ...], bool]:
    tools = tuple(
        Tool(str(tool.get("name")), tool["input_schema"])
        for tool in _dicts(body.get("tools"))
        if isinstance(tool.get("input_schema"), dict)  # a server tool has none
    )
    choice = field(body, "tool_choice", dict) or {}
    if choice.get("type") == "tool":
        return tuple(tool for tool in tools if tool.name == choice.get("name")), True
    return () if choice.get("type") == "none" else tools, choice.get("type") == "any"


def _thinking(wanted: Mapping[str, Any], prompt: Prompt) -> Thinking:
    if not wanted and prompt.has("thinking"):
        return "shown"
    if wanted.get("type") not in ("enabled", "adaptive"):
        return "off"
    return "hidden" if wanted.get("display") == "omitted" else "shown"


def _ttl(block: Mapping[str, Any]) -> Ttl | None:
    control = block.get("cache_control")
    if not isinstance(control, dict):
        return None
    return "1h" if control.get("ttl") == "1h" else "5m"


def _piece(block: Mapping[str, Any]) -> Piece:
    content = {key: value for key, value in block.items() if key != "cache_control"}
    return Piece(content, _ttl(block))


def _message(prompt: Prompt, stamp: Stamp, usage: Usage) -> dict[str, Any]:
    return {
        "id": f"msg_{stamp.id}",
        "type": "message",
        "role": "assistant",
        "model": prompt.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(usage) | {"service_tier": "standard"},
    }


def _usage(usage: Usage) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.output_tokens,
    }
    if usage.thinking_tokens:
        shown["output_tokens_details"] = {"thinking_tokens": usage.thinking_tokens}
    return shown


def _ending(reply: Reply) -> dict[str, Any]:
    return {
        "stop_reason": _STOP.get(reply.stop, reply.stop),
        "stop_sequence": reply.stop_sequence,
    }


def _content(reply: Reply) -> Iterator[dict[str, Any]]:
    if reply.thinking is not None:
        signature = _seal(reply.thinking)
        yield {"type": "thinking", "thinking": reply.thinking, "signature": signature}
    if reply.text:
        yield {"type": "text", "text": reply.text}
    for call in reply.calls:
        arguments = msgspec.json.decode(call.arguments)
        yield {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments}


def _seal(thinking: str) -> str:
    """Sign what was thought; what comes back must bear the same."""
    return base64.b64encode(hashlib.sha256(f"demo:{thinking}".encode()).digest()).decode()


def _block_events(index: int, block: Mapping[str, Any], *, with_ping: bool) -> Iterator[Event]:
    empty = {"text": "", "thinking": "", "signature": "", "input": {}}
    opened = {**block, **{key: value for key, value in empty.items() if key in block}}
    yield _event("content_block_start", {"index": index, "content_block": opened})
    if with_ping:
        yield _event("ping", {})
    for delta in _deltas(block):
        yield _event("content_block_delta", {"index": index, "delta": delta}, is_delta=True)
    yield _event("content_block_stop", {"index": index})


def _deltas(block: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if block["type"] == "thinking":
        for word in words(block["thinking"]):
            yield {"type": "thinking_delta", "thinking": word}
        yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "text":
        for word in words(block["text"]):
            yield {"type": "text_delta", "text": word}
    else:
        arguments = msgspec.json.encode(block["input"]).decode()
        for piece in ("", *fragments(arguments)):  # the provider's first fragment is empty
            yield {"type": "input_json_delta", "partial_json": piece}


def _event(
    kind: str, fields: Mapping[str, Any], *, usage: Usage | None = None, is_delta: bool = False
) -> Event:
    data = msgspec.json.encode({"type": kind, **fields})
    return Event(b"event: %b\ndata: %b\n\n" % (kind.encode(), data), usage, is_delta)


def _error(status: int, message: str) -> dict[str, Any]:
    kind = _ERROR_TYPE.get(status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
