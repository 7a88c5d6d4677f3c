"""Both protocols' streams as strict state machines; the SDKs forgive far more than these.

`check_messages_stream` and `check_chat_stream` take a whole stream's bytes, fail with a plain
sentence on the first thing that breaks the protocol, and give back the answer in the shape that
the same answer has without streaming. Where a stream ends in an error, what came before it is
given, with the error beside it under `error`.
"""

import json
import re

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
CUT_OFF = {"max_tokens", "model_context_window_exceeded", "refusal", "length", "content_filter"}
STARTS_OF_BLOCK = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "server_tool_use": {"input": {}},
    "mcp_tool_use": {"input": {}},
}
DELTAS_OF_BLOCK = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "redacted_thinking": set(),
    "tool_use": {"input_json_delta"},
    "server_tool_use": {"input_json_delta"},
    "mcp_tool_use": {"input_json_delta"},
}
TEXT_OF_DELTA = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "signature_delta": "signature",
}


class BrokenStreamError(AssertionError):
    """The stream breaks its protocol."""


def check_messages_stream(raw: bytes, *, allow_empty_text: bool = False) -> dict:
    """Check a Messages stream from message_start to message_stop, or to its `error` event.

    The input of a call that the token limit tore is given as the text that came.
    """
    machine = _Messages(allow_empty_text)
    for name, data in events(raw):
        require(not machine.ended, f"after the end came {data or 'a comment'!r}")
        if data is None:
            continue
        event = object_of(data)
        require(name is not None, f"an event without a name: {data!r}")
        require(name == event.get("type"), f"event {name!r} carries type {event.get('type')!r}")
        machine.take(event)
    require(machine.ended, "the stream ends without message_stop or error")
    return machine.message


def check_chat_stream(raw: bytes) -> dict:
    """Check a Chat Completions stream up to [DONE], or to its `error` chunk.

    `usage` is in the answer only if the stream had a usage chunk.
    """
    machine = _Chat()
    for name, data in events(raw):
        require(not machine.ended, f"after the end came {data or 'a comment'!r}")
        require(name is None, f"an event with a name: {name!r}")
        if data is not None:
            machine.take(data)
    require(machine.ended, "the stream ends without [DONE] or error")
    return machine.completion


class _Messages:
    def __init__(self, allow_empty_text):
        self.message = {}
        self.ended = False
        self.allow_empty_text = allow_empty_text
        self.open = False  # whether the last block of the content still grows
        self.arguments = ""  # of that block
        self.signed = False  # that block
        self.torn = False  # the last call

    def take(self, event):
        kind = event["type"]
        if kind == "ping":
            return
        if kind == "error":
            self.message["error"] = _error(event, "type", "message")
            self.ended = True
            return
        if kind == "message_start":
            self._start(event["message"])
            return
        require("id" in self.message, f"{kind} before message_start")
        handlers = {
            "content_block_start": self._open,
            "content_block_delta": self._delta,
            "content_block_stop": self._close,
            "message_delta": self._finish,
            "message_stop": self._stop,
        }
        require(kind in handlers, f"unknown event {kind!r}")
        handlers[kind](event)

    def _start(self, message):
        require("id" not in self.message, "a second message_start")
        require(_is_text(message.get("id")), "message without id")
        require(_is_text(message.get("model")), "message without model")
        expected = {
            "type": "message",
            "role": "assistant",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        for name, value in expected.items():
            require(message.get(name, 0) == value, f"message_start with {name} not {value!r}")
        _counts(message.get("usage"), "input_tokens", "output_tokens")
        self.message = message

    def _open(self, event):
        require(not self.open, "a block starts inside another")
        require(self.message["stop_reason"] is None, "a block after message_delta")
        content, block = self.message["content"], event["content_block"]
        require(event.get("index") == len(content), f"index {event.get('index')} out of order")
        require(not self.torn, "a block behind a call whose arguments are torn")
        for name, value in STARTS_OF_BLOCK.get(block["type"], {}).items():
            require(block.get(name) == value, f"a {block['type']} block starts with {name}")
        if "input" in STARTS_OF_BLOCK.get(block["type"], {}):
            require(_is_id(block.get("id")), f"tool id {block.get('id')!r}")
            require(_is_text(block.get("name")), "a tool without name")
            ids = [each["id"] for each in content if each["type"] == block["type"]]
            require(block["id"] not in ids, f"tool id {block['id']!r} came twice")
        content.append(block)
        self.open, self.arguments, self.signed = True, "", False

    def _delta(self, event):
        require(self.open, "a delta outside of a block")
        block, delta = self._block_of(event), event["delta"]
        kind = delta["type"]
        allowed = DELTAS_OF_BLOCK.get(block["type"], {kind})
        require(kind in allowed, f"{kind} in a {block['type']} block")
        key = TEXT_OF_DELTA.get(kind)
        require(key is None or isinstance(delta.get(key), str), f"{kind} without {key}")
        if kind == "input_json_delta":
            self.arguments += delta["partial_json"]
        elif kind == "signature_delta":
            self.signed = True
            block["signature"] += delta["signature"]
        elif kind == "thinking_delta":
            require(not self.signed, "thinking behind its signature")
            block["thinking"] += delta["thinking"]
        elif kind == "text_delta":
            block["text"] += delta["text"]
        elif kind == "citations_delta":
            block["citations"] = [*(block.get("citations") or ()), delta["citation"]]

    def _close(self, event):
        require(self.open, "content_block_stop outside of a block")
        block = self._block_of(event)
        if block["type"] == "text":
            require(block["text"] or self.allow_empty_text, "a text block without text")
        if "input_json_delta" in DELTAS_OF_BLOCK.get(block["type"], ()):
            written = self.arguments or "{}"
            try:
                block["input"] = object_of(written)
            except BrokenStreamError:
                self.torn, block["input"] = True, written  # allowed where the answer was cut off
        self.open = False

    def _block_of(self, event):
        at = len(self.message["content"]) - 1
        require(event.get("index") == at, f"{event['type']} of block {event.get('index')}")
        return self.message["content"][at]

    def _finish(self, event):
        require(not self.open, "message_delta inside a block")
        require(self.message["stop_reason"] is None, "a second message_delta")
        delta = event["delta"]
        reason = delta.get("stop_reason")
        require(reason in STOP_REASONS, f"stop reason {reason!r}")
        require(not self.torn or reason in CUT_OFF, f"torn arguments, and {reason!r}")
        has_calls = any(block["type"] == "tool_use" for block in self.message["content"])
        require(reason != "tool_use" or has_calls, "tool_use without a tool")
        require(
            reason not in ("end_turn", "stop_sequence") or not has_calls, f"{reason} with tools"
        )
        require("stop_sequence" in delta, "message_delta without stop_sequence")
        is_named = delta["stop_sequence"] is not None
        require(is_named == (reason == "stop_sequence"), f"a stop sequence, and {reason!r}")
        _counts(event.get("usage"), "output_tokens")
        self.message |= delta
        self.message["usage"] |= event["usage"]

    def _stop(self, _):
        require(self.message["stop_reason"] is not None, "message_stop without message_delta")
        self.ended = True


class _Chat:
    def __init__(self):
        self.completion = {}
        self.ended = False

    def take(self, data):
        if data == "[DONE]":
            self._done()
            return
        chunk = object_of(data)
        if chunk.get("error") is not None:
            self.completion["error"] = _error(chunk, "message")
            require({"type", "param", "code"} <= chunk["error"].keys(), "error lacks a member")
            self.ended = True
            return
        self._identify(chunk)
        require(isinstance(chunk.get("choices"), list), "choices is not an array")
        if not chunk["choices"]:
            self._take_usage(chunk.get("usage"))
            return
        require(chunk.get("usage") is None, "usage beside choices")
        require("usage" not in self.completion, "choices after the usage chunk")
        for choice in chunk["choices"]:
            self._take_choice(choice)

    def _identify(self, chunk):
        require(chunk.get("object") == "chat.completion.chunk", f"object {chunk.get('object')!r}")
        identity = {key: chunk.get(key) for key in ("id", "created", "model")}
        require(_is_text(identity["id"]) and _is_text(identity["model"]), "no id or no model")
        require(type(identity["created"]) is int, "created is not an integer")
        if not self.completion:
            self.completion = {"object": "chat.completion", "choices": [], **identity}
        known = {key: self.completion[key] for key in identity}
        require(identity == known, f"{identity} after {known}")

    def _take_usage(self, usage):
        require("usage" not in self.completion, "a second usage chunk")
        require(self._is_finished(), "usage before the finish")
        _counts(usage, "prompt_tokens", "completion_tokens", "total_tokens")
        total = usage["prompt_tokens"] + usage["completion_tokens"]
        require(usage["total_tokens"] == total, "total_tokens is not the sum")
        self.completion["usage"] = usage

    def _take_choice(self, chunk):
        index, delta = chunk["index"], chunk["delta"]
        choices = self.completion["choices"]
        choice = next((each for each in choices if each["index"] == index), None)
        if choice is None:
            require(delta.get("role") == "assistant", "the first delta has no role")
            message = {"role": "assistant", "content": None}
            choice = {"index": index, "message": message, "finish_reason": None}
            choices.append(choice)
        require(choice["finish_reason"] is None, f"choice {index} goes on after its finish")
        require("finish_reason" in chunk, "a choice without finish_reason")
        message = choice["message"]
        for name in ("content", "refusal", "reasoning_content", "reasoning"):
            if delta.get(name) is not None:
                require(isinstance(delta[name], str), f"{name} is not text")
                message[name] = (message.get(name) or "") + delta[name]
        for call in delta.get("tool_calls") or ():
            _take_call(message.setdefault("tool_calls", []), call)
        for detail in delta.get("reasoning_details") or ():
            _take_detail(message.setdefault("reasoning_details", []), detail)
        if chunk["finish_reason"] is not None:
            _finish(choice, chunk["finish_reason"])

    def _is_finished(self):
        choices = self.completion.get("choices")
        return bool(choices) and all(each["finish_reason"] is not None for each in choices)

    def _done(self):
        require(self._is_finished(), "[DONE] before the finish")
        self.ended = True


def _take_call(calls, call):
    function = call["function"]
    if call["index"] == len(calls):
        require(_is_text(call.get("id")), f"tool id {call.get('id')!r}")
        require(call["id"] not in [each["id"] for each in calls], f"tool id {call['id']!r} twice")
        require(call.get("type") == "function", "a tool call without type")
        require(_is_text(function.get("name")), "a tool call without name")
        written = {"name": function["name"], "arguments": function.get("arguments") or ""}
        calls.append({"id": call["id"], "type": "function", "function": written})
        return
    require(0 <= call["index"] < len(calls), f"tool index {call['index']} out of order")
    require(not call.get("id") and not function.get("name"), "id or name came twice")
    require(isinstance(function.get("arguments"), str), "a fragment without arguments")
    calls[call["index"]]["function"]["arguments"] += function["arguments"]


def _take_detail(details, detail):
    known = next((each for each in details if each["index"] == detail["index"]), None)
    if known is None:
        details.append(dict(detail))
        return
    require(known["type"] == detail["type"], f"{detail['type']} inside {known['type']}")
    text = known.get("text", "") + detail.get("text", "")
    known |= detail | ({"text": text} if text else {})


def _finish(choice, reason):
    calls = choice["message"].get("tool_calls", ())
    require(reason in FINISH_REASONS, f"finish reason {reason!r}")
    require(reason != "tool_calls" or bool(calls), "tool_calls without a call")
    require(reason != "stop" or not calls, "stop with tool calls")
    if reason not in CUT_OFF:
        for call in calls:
            object_of(call["function"]["arguments"])
    choice["finish_reason"] = reason


def events(raw: bytes):
    """Give (event name, data) of each event, by the letter of the SSE standard.

    Both are None for a block of comments.
    """
    text = raw.decode()
    require(not text or re.search(r"(\r\n|\n|\r)(\r\n|\n|\r)\Z", text), "the last event is cut")
    for block in re.split(r"(?:\r\n|\n|\r(?!\n)){2,}", text):
        lines = [line for line in re.split(r"\r\n|\n|\r", block) if not line.startswith(":")]
        if not lines:
            yield None, None
        if not any(lines):
            continue
        names = [_value(line) for line in lines if line.startswith("event:")]
        data = [_value(line) for line in lines if line.startswith("data:")]
        require(len(lines) == len(names) + len(data), f"a line of no known field in {block!r}")
        require(len(names) <= 1 and len(data) == 1, f"not one event and one data in {block!r}")
        yield (names[0] if names else None), data[0]


def require(condition: object, sentence: str) -> None:
    """Fail with `sentence` unless `condition` holds."""
    if not condition:
        raise BrokenStreamError(sentence)


def _value(line):
    return line.partition(":")[2].removeprefix(" ")


def object_of(text: str) -> dict:
    """Read a JSON object strictly: no name twice, no NaN."""

    def unique(pairs):
        names = [name for name, _ in pairs]
        require(len(names) == len(set(names)), f"a name twice in {text!r}")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(constant)

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except ValueError as exc:
        raise BrokenStreamError(f"not JSON: {text!r}") from exc
    require(isinstance(value, dict), f"not an object: {text!r}")
    return value


def _error(event, *names):
    error = event["error"]
    require(isinstance(error, dict), "error is not an object")
    for name in names:
        require(_is_text(error.get(name)), f"error without {name}")
    return error


def _counts(usage, *names):
    """Check that `names` are counted in `usage`, and that all else in it is countable."""
    require(isinstance(usage, dict), f"usage is {usage!r}")
    for name in names:
        require(name in usage, f"usage without {name}: {usage!r}")
    for name, value in usage.items():
        if isinstance(value, dict):
            _counts(value)
        elif name in names or (name.endswith("_tokens") and value is not None):
            require(type(value) is int and value >= 0, f"{name} in {usage!r}")


def _is_text(value):
    return isinstance(value, str) and value != ""


def _is_id(value):
    return isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9_-]+", value) is not None
