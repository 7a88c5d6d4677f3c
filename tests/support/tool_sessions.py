"""Sessions as the coding tools have them: the bodies that a client sends, turn by turn.

Each gives the whole conversation again in every turn, as clients do. The shapes are those that
were recorded of the tools (2026-11); what is said in them is made up.
"""

import json
from collections.abc import Iterator
from typing import Any

TURNS = 10
ATTRIBUTION = "x-anthropic-billing-header: cc_version=2.1.330; cc_entrypoint=cli;"
FIVE_MINUTES = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
RULES = "Many rules, with \u00e9 and a / slash.\n" * 60
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
NAMES = ("Read", "Edit", "mcp__browser_of_the_team__" + "take_a_picture_of_the_page_" * 2)

Session = Iterator[dict[str, Any]]


def written(body: dict[str, Any]) -> bytes:
    """Encode as JavaScript does: no blanks, nothing escaped that need not be."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def claude_code(attribution: str = ATTRIBUTION) -> Session:
    """Three marks, of which the last moves on; a system message among the turns; thinking."""
    system = [
        {"type": "text", "text": attribution},
        {"type": "text", "text": "You are Claude Code.", "cache_control": HOUR},
        {"type": "text", "text": RULES, "cache_control": HOUR},
    ]
    messages = [
        {"role": "user", "content": [_text("<system-reminder>a</system-reminder>"), _text("Go.")]},
        {
            "role": "system",
            "content": [_text("Agents: none.")],
            "output_config": {"effort": "high"},
        },
    ]
    for number in range(TURNS):
        if number:
            messages += _messages_turn(number, thinks=True)
        yield {
            "model": "smart",
            "messages": _marked_last(messages, HOUR),
            "system": system,
            "tools": [{"name": n, "description": n, "input_schema": SCHEMA} for n in NAMES],
            "metadata": {"user_id": '{"session_id":"s"}'},
            "max_tokens": 32000,
            "thinking": {"type": "adaptive", "display": "omitted"},
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
            "output_config": {"effort": "high"},
        }


def cline() -> Session:
    """One mark, on the first thing that the user said; a tool that the provider would run."""
    search = {"type": "web_search_20250305", "name": "web_search"}
    tools = [{"name": n, "input_schema": SCHEMA, "eager_input_streaming": True} for n in NAMES]
    first = {**_text("Go."), "cache_control": FIVE_MINUTES}
    messages = [{"role": "user", "content": [first]}]
    for number in range(TURNS):
        if number:
            messages += _messages_turn(number, thinks=False)
        yield {
            "model": "smart",
            "max_tokens": 32000,
            "system": [_text(RULES)],
            "messages": messages,
            "tools": [*tools, search],
            "tool_choice": {"type": "auto"},
        }


def opencode_messages() -> Session:
    """Marks on the system prompt and on the last two messages."""
    system = [{**_text(RULES), "cache_control": FIVE_MINUTES}]
    messages = [{"role": "user", "content": [_text("Go.")]}]
    for number in range(TURNS):
        if number:
            messages += _messages_turn(number, thinks=True)
        marked = _marked_last(messages, FIVE_MINUTES)
        if number:
            marked = [*_marked_last(marked[:-1], FIVE_MINUTES), marked[-1]]
        yield {
            "model": "smart",
            "max_tokens": 32000,
            "system": system,
            "messages": marked,
            "tools": [{"name": n, "input_schema": SCHEMA} for n in NAMES],
            "tool_choice": {"type": "auto"},
        }


def opencode_chat() -> Session:
    """Chat, with the reasoning of earlier turns in it."""
    messages = [{"role": "system", "content": RULES}, {"role": "user", "content": "Go."}]
    for number in range(TURNS):
        if number:
            messages += _chat_turn(number, reasoning_content=f"Hm {number}.")
        yield {
            "model": "smart",
            "max_tokens": 32000,
            "messages": messages,
            "tools": [_function(name) for name in NAMES],
            "tool_choice": "auto",
        }


def roo_chat() -> Session:
    """Chat with Anthropic's marks: on the system prompt and on what the user said last."""
    system = {"role": "system", "content": [{**_text(RULES), "cache_control": FIVE_MINUTES}]}
    messages = [{"role": "user", "content": [_text("Go.")]}]
    for number in range(TURNS):
        if number:
            messages += _chat_turn(number)
            messages.append({"role": "user", "content": [_text(f"Environment {number}.")]})
        yield {
            "model": "smart",
            "messages": [system, *_marked_last(messages, FIVE_MINUTES)],
            "tools": [_function(name) for name in NAMES],
        }


def cursor_agent() -> Session:
    """A Responses body on a Chat path, with flat tools and a custom one."""
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Go."}]}]
    for number in range(TURNS):
        if number:
            items += _responses_turn(number)
        yield {
            "model": "smart",
            "input": [{"role": "system", "content": RULES}, *items],
            "tools": [*map(_flat, NAMES), {"type": "custom", "name": "ApplyPatch"}],
            "tool_choice": "auto",
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_retention": "24h",
        }


def codex() -> Session:
    """Instructions, a developer message, reasoning items, and a custom tool."""
    items: list[dict[str, Any]] = [
        {"type": "message", "role": "developer", "content": [_input("Sandboxed.")]},
        {"type": "message", "role": "user", "content": [_input("<environment/>")]},
        {"type": "message", "role": "user", "content": [_input("Go.")]},
    ]
    for number in range(TURNS):
        if number:
            summary = [{"type": "summary_text", "text": f"Hm {number}."}]
            items.append({"type": "reasoning", "summary": summary, "encrypted_content": None})
            items += _responses_turn(number)
            patch = {"call_id": f"call_{number}p", "name": "apply_patch", "input": "*** Begin\n"}
            items.append({"type": "custom_tool_call", **patch})
            result = {"call_id": f"call_{number}p", "output": "Done."}
            items.append({"type": "custom_tool_call_output", **result})
        yield {
            "model": "smart",
            "instructions": RULES,
            "input": items,
            "tools": [*map(_flat, NAMES), {"type": "custom", "name": "apply_patch"}],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"effort": "high", "summary": "auto"},
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "session-1",
        }


SESSIONS = {  # each with the path that it takes
    "claude code": ("/claudecode/v1/messages?beta=true", claude_code),
    "cline": ("/cline/v1/messages", cline),
    "opencode, messages": ("/roocode/v1/messages", opencode_messages),
    "opencode, chat": ("/roocode/v1/chat/completions", opencode_chat),
    "roo code, chat": ("/roocode/v1/chat/completions", roo_chat),
    "cursor": ("/cursor/v1/chat/completions", cursor_agent),
    "codex": ("/codex/v1/responses", codex),
}


def _messages_turn(number: int, *, thinks: bool) -> list[dict[str, Any]]:
    """Two calls side by side, one of whose results brings a picture, and now and then a remark."""
    first, second = f"toolu_{number}a", f"toolu_{number}b"
    thought = {"type": "thinking", "thinking": f"Hm {number}.", "signature": "c2ln"}
    said = [
        *([thought] if thinks else []),
        _text(f"Step {number}."),
        {"type": "tool_use", "id": first, "name": NAMES[0], "input": _given(number)},
        {"type": "tool_use", "id": second, "name": NAMES[2], "input": {}},
    ]
    source = {"type": "base64", "media_type": "image/png", "data": "iVBO"}
    shown = [_text("shot"), {"type": "image", "source": source}] if number % 3 == 0 else "failed"
    results = [
        {"type": "tool_result", "tool_use_id": first, "content": f"line {number}\n" * 3},
        {"type": "tool_result", "tool_use_id": second, "content": shown},
    ]
    remark = [_text(f"Remark {number}.")] if number % 2 else []
    return [{"role": "assistant", "content": said}, {"role": "user", "content": results + remark}]


def _chat_turn(number: int, **members: Any) -> list[dict[str, Any]]:
    idents = f"call_{number}a", f"call_{number}b"
    given = written(_given(number)).decode(), "{}"
    calls = [
        {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}
        for ident, name, arguments in zip(idents, NAMES, given, strict=False)
    ]
    said = {"role": "assistant", "content": f"Step {number}.", **members, "tool_calls": calls}
    return [
        said,
        *({"role": "tool", "tool_call_id": ident, "content": "line\n" * 3} for ident in idents),
    ]


def _responses_turn(number: int) -> list[dict[str, Any]]:
    ident = f"call_{number}"
    arguments = written(_given(number)).decode()
    said = {"type": "output_text", "text": f"Step {number}."}
    return [
        {"type": "message", "role": "assistant", "content": [said]},
        {"type": "function_call", "call_id": ident, "name": NAMES[0], "arguments": arguments},
        {"type": "function_call_output", "call_id": ident, "output": f"line {number}\n"},
    ]


def _given(number: int) -> dict[str, Any]:
    return {
        "path": f"/src/\u00e9{number}.py",
        "limit": number * 1.5,
        "deep": {"x": [1, None, "\n"]},
    }


def _marked_last(messages: list[dict[str, Any]], mark: dict[str, Any]) -> list[dict[str, Any]]:
    """Mark the last block of the last message; strings become blocks for it."""
    *others, last = messages
    content = last["content"]
    blocks = [_text(content)] if isinstance(content, str) else content
    return [*others, {**last, "content": [*blocks[:-1], {**blocks[-1], "cache_control": mark}]}]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _input(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def _function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA}}


def _flat(name: str) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": SCHEMA, "strict": False}
