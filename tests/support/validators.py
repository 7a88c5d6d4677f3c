"""Strict state machines for both protocols' streams; the SDKs forgive far more than these.

`check_messages_stream` and `check_chat_stream` take a whole stream's bytes, fail with a plain
sentence on the first thing that breaks the protocol, and give back what the stream said.
"""

import json
import re
from dataclasses import dataclass, field

STOP_REASONS = {
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
}
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
DELTAS_OF_BLOCK = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
}
TEXT_OF_DELTA = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "signature_delta": "signature",
}


class BrokenStreamError(AssertionError):
    """The stream breaks its protocol."""


@dataclass
class Transcript:
    """What a stream said; `tools` holds (name, arguments), `error` the error it ended in."""

    text: str = ""
    thinking: str = ""
    tools: list[tuple[str, dict]] = field(default_factory=list)
    stop_reason: str | None = None
    usage: dict | None = None
    error: dict | None = None
    model: str | None = None
    pings: int = 0


def check_messages_stream(stream: bytes) -> Transcript:
    """Check a Messages stream from message_start to message_stop, or to its `error` event."""
    machine = _Messages()
    for name, data, is_comment in _split(stream):
        _require(not machine.ended, f"after the end came {data!r}")
        _require(not is_comment, "a comment where Messages has ping events")
        event = _object(data)
        _require(name == event.get("type"), f"event {name!r} carries type {event.get('type')!r}")
        machine.take(event)
    _require(machine.ended, "the stream ends without message_stop or error")
    return machine.said


def check_chat_stream(stream: bytes, *, usage: bool | None = None) -> Transcript:
    """Check a Chat Completions stream up to [DONE], or to its `error` chunk.

    `usage` tells whether the usage chunk must be there (True) or must not (False).
    """
    machine = _Chat()
    for name, data, is_comment in _split(stream):
        if is_comment:
            _require(not machine.ended, "after the end came a comment")
            machine.said.pings += 1
            continue
        _require(not machine.ended, f"after the end came {data!r}")
        _require(name is None, f"an event with a name: {name!r}")
        machine.take(data)
    _require(machine.ended, "the stream ends without [DONE] or error")
    if usage is not None and machine.said.error is None:
        _require((machine.said.usage is not None) == usage, f"usage is {machine.said.usage}")
    return machine.said


class _Messages:
    def __init__(self):
        self.said = Transcript()
        self.ended = False
        self.block = None  # (type, tool's name, fragments of its arguments)
        self.indices = 0
        self.torn = False

    def take(self, event):
        kind = event["type"]
        if kind == "ping":
            self.said.pings += 1
        elif kind == "error":
            self._error(event)
        elif kind == "message_start":
            self._start(event["message"])
        else:
            _require(self.said.model is not None, f"{kind} before message_start")
            handler = {
                "content_block_start": self._open,
                "content_block_delta": self._delta,
                "content_block_stop": self._close,
                "message_delta": self._finish,
                "message_stop": self._stop,
            }.get(kind)
            _require(handler is not None, f"unknown event {kind!r}")
            handler(event)

    def _error(self, event):
        error = event.get("error")
        _require(isinstance(error, dict), "error event without error")
        _require(_is_text(error.get("type")), "error without type")
        _require(_is_text(error.get("message")), "error without message")
        self.said.error = error
        self.ended = True

    def _start(self, message):
        _require(self.said.model is None, "a second message_start")
        _require(_is_text(message.get("id")), "message without id")
        _require(_is_text(message.get("model")), "message without model")
        _require(message.get("type") == "message", "message of another type")
        _require(message.get("role") == "assistant", "message of another role")
        _require(message.get("content") == [], "message_start with content")
        _require(message.get("stop_reason", 0) is None, "message_start with a stop reason")
        _require(message.get("stop_sequence", 0) is None, "message_start with a stop sequence")
        _counts(message.get("usage"), "input_tokens", "output_tokens")
        self.said.model = message["model"]
        self.said.usage = dict(message["usage"])

    def _open(self, event):
        _require(self.block is None, "a block starts inside another")
        _require(self.said.stop_reason is None, "a block after message_delta")
        _require(event.get("index") == self.indices, f"index {event.get('index')} out of order")
        block = event["content_block"]
        kind = block["type"]
        if kind == "text":
            _require(block.get("text") == "", "a text block starts with text")
        elif kind == "thinking":
            _require(block.get("thinking") == "", "a thinking block starts with thinking")
        elif kind == "tool_use":
            _require(_is_id(block.get("id")), f"tool id {block.get('id')!r}")
            _require(_is_text(block.get("name")), "a tool without name")
            _require(block.get("input") == {}, "a tool_use block starts with input")
        self.block = (kind, block.get("name"), [])

    def _delta(self, event):
        _require(self.block is not None, "a delta outside of a block")
        _require(event.get("index") == self.indices, f"a delta for block {event.get('index')}")
        kind, _, arguments = self.block
        delta = event["delta"]
        allowed = DELTAS_OF_BLOCK.get(kind, {delta["type"]})
        _require(delta["type"] in allowed, f"{delta['type']} in a {kind} block")
        key = TEXT_OF_DELTA.get(delta["type"])
        if key is not None:
            _require(isinstance(delta.get(key), str), f"{delta['type']} without {key}")
        if delta["type"] == "text_delta":
            self.said.text += delta["text"]
        elif delta["type"] == "thinking_delta":
            self.said.thinking += delta["thinking"]
        elif delta["type"] == "input_json_delta":
            arguments.append(delta["partial_json"])

    def _close(self, event):
        _require(self.block is not None, "content_block_stop outside of a block")
        _require(event.get("index") == self.indices, f"stop of block {event.get('index')}")
        kind, name, arguments = self.block
        if kind == "tool_use":
            _require(not self.torn, "a tool call behind one whose arguments are torn")
            try:
                self.said.tools.append((name, _object("".join(arguments) or "{}")))
            except BrokenStreamError:
                self.torn = True  # so it is where the token limit was reached in a call
        self.block = None
        self.indices += 1

    def _finish(self, event):
        _require(self.block is None, "message_delta inside a block")
        _require(self.said.stop_reason is None, "a second message_delta")
        reason = event["delta"].get("stop_reason")
        _require(reason in STOP_REASONS, f"stop reason {reason!r}")
        _require(not self.torn or reason == "max_tokens", f"torn arguments, and {reason!r}")
        _require((reason != "tool_use") or bool(self.said.tools), "tool_use without a tool")
        _require((reason != "end_turn") or not self.said.tools, "end_turn with tools")
        _require("stop_sequence" in event["delta"], "message_delta without stop_sequence")
        _counts(event.get("usage"), "output_tokens")
        self.said.stop_reason = reason
        self.said.usage |= event["usage"]

    def _stop(self, event):
        _require(self.said.stop_reason is not None, "message_stop without message_delta")
        self.ended = True


class _Chat:
    def __init__(self):
        self.said = Transcript()
        self.ended = False
        self.identity = None
        self.choices = {}  # index -> finish reason, or None while open
        self.calls = []  # of choice 0: [name, arguments]

    def take(self, data):
        if data == "[DONE]":
            self._done()
            return
        chunk = _object(data)
        if chunk.get("error") is not None:
            _require(_is_text(chunk["error"].get("message")), "error without message")
            _require({"type", "param", "code"} <= chunk["error"].keys(), "error lacks a member")
            self.said.error = chunk["error"]
            self.ended = True
            return
        self._identify(chunk)
        _require(isinstance(chunk.get("choices"), list), "choices is not an array")
        if not chunk["choices"]:
            self._take_usage(chunk.get("usage"))
            return
        _require(chunk.get("usage") is None, "usage beside choices")
        _require(self.said.usage is None, "choices after the usage chunk")
        for choice in chunk["choices"]:
            self._take_choice(choice)

    def _identify(self, chunk):
        identity = tuple(chunk.get(key) for key in ("id", "created", "model"))
        _require(chunk.get("object") == "chat.completion.chunk", f"object {chunk.get('object')!r}")
        _require(_is_text(identity[0]) and _is_text(identity[2]), "a chunk without id or model")
        _require(type(identity[1]) is int, "created is not an integer")
        _require(self.identity in (None, identity), f"{identity} after {self.identity}")
        self.identity = identity
        self.said.model = identity[2]

    def _take_usage(self, usage):
        _require(self.said.usage is None, "a second usage chunk")
        _require(None not in self.choices.values(), "usage before the finish")
        _counts(usage, "prompt_tokens", "completion_tokens", "total_tokens")
        total = usage["prompt_tokens"] + usage["completion_tokens"]
        _require(usage["total_tokens"] == total, "total_tokens is not the sum")
        self.said.usage = usage

    def _take_choice(self, choice):
        index, delta = choice["index"], choice["delta"]
        if index not in self.choices:
            _require(delta.get("role") == "assistant", "the first delta has no role")
            self.choices[index] = None
        _require(self.choices[index] is None, f"choice {index} goes on after its finish")
        _require("finish_reason" in choice, "a choice without finish_reason")
        if index == 0:
            self.said.text += delta.get("content") or ""
            self.said.thinking += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                self._take_call(call)
        if choice["finish_reason"] is not None:
            self._finish(index, choice["finish_reason"])

    def _take_call(self, call):
        function = call["function"]
        if call["index"] == len(self.calls):
            _require(_is_id(call.get("id")), f"tool id {call.get('id')!r}")
            _require(call.get("type") == "function", "a tool call without type")
            _require(_is_text(function.get("name")), "a tool call without name")
            self.calls.append([function["name"], function.get("arguments", "")])
            return
        _require(0 <= call["index"] < len(self.calls), f"tool index {call['index']} out of order")
        _require(not call.get("id") and not function.get("name"), "id or name came twice")
        self.calls[call["index"]][1] += function["arguments"]

    def _finish(self, index, reason):
        _require(reason in FINISH_REASONS, f"finish reason {reason!r}")
        self.choices[index] = reason
        if index != 0:
            return
        _require((reason != "tool_calls") or bool(self.calls), "tool_calls without a call")
        _require((reason != "stop") or not self.calls, "stop with tool calls")
        self.said.stop_reason = reason
        if reason == "tool_calls":
            self.said.tools = [(name, _object(arguments)) for name, arguments in self.calls]

    def _done(self):
        _require(bool(self.choices), "[DONE] without a choice")
        _require(None not in self.choices.values(), "[DONE] before the finish")
        self.ended = True


def _split(stream):
    """Give (event name, data, is a comment) of each event, by the letter of the SSE standard."""
    text = stream.decode()
    _require(not text or re.search(r"(\r\n|\n|\r)(\r\n|\n|\r)\Z", text), "the last event is cut")
    for block in re.split(r"(?:\r\n|\n|\r(?!\n)){2,}", text):
        if not block:
            continue
        lines = re.split(r"\r\n|\n|\r", block)
        if all(line.startswith(":") for line in lines):
            yield None, "", True
            continue
        names = [_value(line) for line in lines if line.startswith("event:")]
        data = [_value(line) for line in lines if line.startswith("data:")]
        _require(len(lines) == len(names) + len(data), f"a line of no known field in {block!r}")
        _require(len(names) <= 1 and len(data) == 1, f"not one event and one data in {block!r}")
        yield (names[0] if names else None), data[0], False


def _value(line):
    return line.partition(":")[2].removeprefix(" ")


def _object(text):
    def unique(pairs):
        names = [name for name, _ in pairs]
        _require(len(names) == len(set(names)), f"a name twice in {text!r}")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ValueError as exc:
        raise BrokenStreamError(f"not JSON: {text!r}") from exc
    _require(isinstance(value, dict), f"not an object: {text!r}")
    return value


def _counts(usage, *names):
    _require(isinstance(usage, dict), f"usage is {usage!r}")
    for name in names:
        _require(type(usage.get(name)) is int and usage[name] >= 0, f"{name} in {usage!r}")


def _is_text(value):
    return isinstance(value, str) and value != ""


def _is_id(value):
    return isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9_-]+", value) is not None


def _require(condition, sentence):
    if not condition:
        raise BrokenStreamError(sentence)
