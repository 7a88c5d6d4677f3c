"""A small deterministic model, in neither protocol's words.

A model's name says how it is: `demo-parallel` calls several tools at once, `demo-thinking` thinks
unless told not to, and takes back no thoughts but its own, `demo-refusal` declines whatever is
asked; `demo-parallel-thinking` is both.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from server.counts import counted
from server.upstream.demo import agent
from server.upstream.demo.agent import Tool, ToolResult
from server.upstream.demo.schema import example
from server.upstream.demo.usage import Usage, count_tokens

Thinking = Literal["off", "hidden", "shown"]
Stop = Literal["end", "length", "stop_sequence", "tool_use", "refusal"]
Trait = Literal["parallel", "thinking", "refusal"]
REFUSAL = "I cannot help with that."
_READ_CHARS = 200_000  # of each message; a paste of megabytes is counted, not understood
_LONG_TEXT, _LONG_PIECE = 65_536, 16_384


class BadRequestError(Exception):
    """The request is one that a provider would answer with 400."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: its text, and the results of tools that it brings."""

    role: Literal["system", "user", "assistant"]
    text: str = ""
    results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, as far as the demo reads it."""

    model: str
    turns: tuple[Turn, ...]
    tools: tuple[Tool, ...] = ()  # those that may be called
    must_call: bool = False
    may_call_several: bool = True
    stream: bool = False
    include_usage: bool = True
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    thinking: Thinking = "off"

    def has(self, trait: Trait) -> bool:
        """Tell whether the model is like that, by its name."""
        return trait in self.model.split("-")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of one of the client's tools; `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says; `thinking` is None where it does not think, "" where it hides that."""

    text: str
    usage: Usage
    stop: Stop = "end"
    stop_sequence: str | None = None
    thinking: str | None = None
    calls: tuple[ToolCall, ...] = ()


def reply_to(prompt: Prompt, read: Usage, new_id: Callable[[], str]) -> Reply:
    """Answer `prompt`, whose input was counted as `read`; the same text for the same input."""
    if prompt.has("refusal"):
        return _count(_cut_at_length(Reply(REFUSAL, read, "refusal"), prompt.max_tokens))
    text, calls = _content(prompt, read, new_id)
    thinking = None
    if prompt.thinking != "off" and prompt.schema is None:
        thinking = f"The request is: {_excerpt(_last_text(prompt))} I will answer it briefly."
    reply = Reply(text, read, "tool_use" if calls else "end", None, thinking, calls)
    reply = _count(_cut_at_length(_cut_at_stop(reply, prompt.stops), prompt.max_tokens))
    return replace(reply, thinking="") if thinking and prompt.thinking == "hidden" else reply


def words(text: str) -> list[str]:
    """Split `text` into the pieces that are streamed; joined they are the text again."""
    if len(text) > _LONG_TEXT:
        return [text[at : at + _LONG_PIECE] for at in range(0, len(text), _LONG_PIECE)]
    return re.findall(r"\s*\S+(?:\s+$)?|^\s+$", text)


def fragments(arguments: str) -> list[str]:
    """Cut a tool call's JSON into the pieces that are streamed."""
    size = _LONG_PIECE if len(arguments) > _LONG_TEXT else 16
    return [arguments[at : at + size] for at in range(0, len(arguments), size)]


def field(body: Mapping[str, Any], name: str, kind: type, *, needed: bool = False) -> Any:
    """Read a field of a request; None when it is absent or null.

    Raises:
        BadRequestError: it is needed and missing, or not of `kind`.
    """
    value = body.get(name)
    if value is None:
        if needed:
            raise BadRequestError(f"{name}: Field required", param=name)
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadRequestError(f"{name}: Input should be a valid {kind.__name__}", param=name)
    return value


def _content(
    prompt: Prompt, read: Usage, new_id: Callable[[], str]
) -> tuple[str, tuple[ToolCall, ...]]:
    asked = _last_text(prompt)
    if prompt.schema is not None:
        known = {"title": _excerpt(asked, 6), "name": "demo"}
        return json.dumps(example(prompt.schema, known), ensure_ascii=False), ()
    steps = _steps(prompt, asked, _greeting(asked, prompt, read))
    if steps[0].tool is None and prompt.must_call and prompt.tools:
        steps = [agent.obey(prompt.tools[0])]
    calls = [
        ToolCall(new_id(), step.tool.name, json.dumps(step.arguments, ensure_ascii=False))
        for step in steps
        if step.tool is not None
    ]
    return steps[0].say, tuple(calls)


def _steps(prompt: Prompt, asked: str, otherwise: str) -> list[agent.Step]:
    """Give the next step, or all files that are to be written next, as if each would succeed."""
    context = "\n".join(
        turn.text[:_READ_CHARS] for turn in prompt.turns if turn.role != "assistant"
    )
    results, steps = _results(prompt), list[agent.Step]()
    while not steps or (prompt.has("parallel") and prompt.may_call_several and steps[-1].file):
        step = agent.next_step(asked, results, prompt.tools, context, otherwise)
        if steps and step.file is None:
            break
        steps.append(step)
        results.append(ToolResult("", failed=False))
    return steps


def _greeting(asked: str, prompt: Prompt, read: Usage) -> str:
    tools = f", and you offer {counted(len(prompt.tools), 'tool')}" if prompt.tools else ""
    return (
        "Hello from the demo upstream, a small scripted model: no provider was called. "
        f"You said: {_excerpt(asked)} "
        f"I read about {counted(read.prompt_tokens, 'token')} "
        f"in {counted(len(prompt.turns), 'message')}{tools}. "
        "Ask me to create a file to see tool calls, give a model the target fault:overloaded to "
        "see a failure, or set a real upstream in config.yaml for real answers."
    )


def _last_prompt(prompt: Prompt) -> int:
    """Find the last turn that a person wrote; results of tools may follow it."""
    for at in range(len(prompt.turns) - 1, -1, -1):
        turn = prompt.turns[at]
        if turn.role == "user" and not turn.results and agent.spoken(turn.text[:_READ_CHARS]):
            return at
    return -1


def _last_text(prompt: Prompt) -> str:
    at = _last_prompt(prompt)
    return agent.spoken(prompt.turns[at].text[:_READ_CHARS]) if at >= 0 else ""


def _results(prompt: Prompt) -> list[ToolResult]:
    return [result for turn in prompt.turns[_last_prompt(prompt) + 1 :] for result in turn.results]


def _excerpt(text: str, limit: int = 12) -> str:
    heard = text[:2000].split()
    more = "…" if len(heard) > limit else ""
    return f'"{" ".join(heard[:limit])[:200]}{more}"' if limit != 6 else " ".join(heard[:6])[:80]


def _cut_at_stop(reply: Reply, stops: tuple[str, ...]) -> Reply:
    found = [(at, stop) for stop in stops if stop and (at := reply.text.find(stop)) >= 0]
    if not found:
        return reply
    at, stop = min(found)
    return replace(reply, text=reply.text[:at], calls=(), stop="stop_sequence", stop_sequence=stop)


def _cut_at_length(reply: Reply, max_tokens: int | None) -> Reply:
    if max_tokens is None or _count(reply).usage.output_tokens <= max_tokens:
        return reply
    thinking = reply.thinking and _first_tokens(reply.thinking, max_tokens)
    left = max_tokens - count_tokens(thinking or "")
    cut = _first_tokens(reply.text, left)
    return replace(
        reply, thinking=thinking or None, text=cut, calls=(), stop="length", stop_sequence=None
    )


def _first_tokens(text: str, tokens: int) -> str:
    return text.encode()[: max(tokens, 0) * 4].decode(errors="ignore")


def _count(reply: Reply) -> Reply:
    thought = count_tokens(reply.thinking or "")
    called = sum(count_tokens(call.name + call.arguments) for call in reply.calls)
    said = count_tokens(reply.text)
    usage = replace(reply.usage, output_tokens=thought + said + called, thinking_tokens=thought)
    return replace(reply, usage=usage)
