"""A strict state machine for Responses streams; the SDK and codex forgive far more than it.

`check_responses_stream` takes a whole stream's bytes, fails with a plain sentence on the first
thing that breaks the protocol, and gives back the response that the last event holds.
"""

import json
import re

ENDS = {
    "response.completed": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
ITEM_KINDS = {
    "message",
    "reasoning",
    "function_call",
    "custom_tool_call",
    "local_shell_call",
    "tool_search_call",
}
# delta's event: (event with the whole, its member, the part it belongs to)
TEXTS = {
    "response.output_text.delta": ("response.output_text.done", "text", "output_text"),
    "response.refusal.delta": ("response.refusal.done", "refusal", "refusal"),
    "response.reasoning_summary_text.delta": (
        "response.reasoning_summary_text.done",
        "text",
        "summary_text",
    ),
    "response.function_call_arguments.delta": (
        "response.function_call_arguments.done",
        "arguments",
        None,
    ),
    "response.custom_tool_call_input.delta": (
        "response.custom_tool_call_input.done",
        "input",
        None,
    ),
}
DONE = {done: (delta, member, part) for delta, (done, member, part) in TEXTS.items()}
PARTS_OF = {"message": {"output_text", "refusal"}, "reasoning": {"summary_text"}}
PART_EVENTS = {
    "response.content_part.added": ("content_index", "added"),
    "response.content_part.done": ("content_index", "done"),
    "response.reasoning_summary_part.added": ("summary_index", "added"),
    "response.reasoning_summary_part.done": ("summary_index", "done"),
}
LAST_NUMBER = 2**31 - 1


class BrokenStreamError(AssertionError):
    """The stream breaks its protocol."""


def check_responses_stream(raw: bytes) -> dict:
    """Check a stream from response.created to its end; give the last event's response."""
    machine = _Responses()
    for name, data in _split(raw):
        event = json.loads(data)
        _require(name == event.get("type"), f"event {name!r} carries type {event.get('type')!r}")
        machine.take(event)
    _require(machine.final is not None, "the stream has no end")
    return machine.final


class _Responses:
    def __init__(self):
        self.final = None
        self.number = 0
        self.ident = None
        self.in_progress = False
        self.items = []  # as they were done
        self.item = None  # as it was added
        self.texts = {}  # by the delta's type: the deltas so far; done once None
        self.parts = []
        self.part = None

    def take(self, event):
        kind = event["type"]
        _require(self.final is None, f"{kind} after the end")
        failed = kind == "response.failed" and event.get("sequence_number") == LAST_NUMBER
        _require(failed or event.get("sequence_number") == self.number, f"number of {event}")
        self.number += 1
        if kind in ENDS:
            self._end(kind, event["response"])
        elif kind in ("response.created", "response.in_progress"):
            self._begin(kind, event["response"])
        else:
            _require(self.in_progress, f"{kind} before response.in_progress")
            self._take_of_item(kind, event)

    def _begin(self, kind, response):
        _require(self.in_progress is False, f"{kind} came late")
        _require((self.ident is None) == (kind == "response.created"), f"{kind} out of order")
        _check_response(response, "in_progress")
        _require(response["output"] == [], "a response begins with output")
        _require(response["usage"] is None, "a response begins with usage")
        _require(self.ident in (None, response["id"]), "another response's id")
        self.ident = response["id"]
        self.in_progress = kind == "response.in_progress"

    def _end(self, kind, response):
        _check_response(response, ENDS[kind])
        _require(self.ident in (None, response["id"]), "another response's id")
        self.final = response
        if kind == "response.failed":
            _require(_is_text(response["error"].get("code")), "failed without a code")
            _require(_is_text(response["error"].get("message")), "failed without a message")
            return
        _require(self.in_progress, "an end before response.in_progress")
        _require(self.item is None, "the response ends inside an item")
        _require(response["output"] == self.items, "the output is not the items")
        is_cut = kind == "response.incomplete"
        _require((response["incomplete_details"] is not None) == is_cut, "incomplete_details")
        states = {item["status"] for item in self.items[:-1]}
        _require(states <= {"completed"}, "an item was cut before the last one")
        last = self.items[-1]["status"] if self.items else "completed"
        _require(is_cut or last == "completed", "a completed response with a cut item")

    def _take_of_item(self, kind, event):
        _require(event.get("output_index") == len(self.items), f"output_index of {event}")
        if kind == "response.output_item.added":
            self._add(event["item"])
            return
        _require(self.item is not None, f"{kind} outside of an item")
        if kind == "response.output_item.done":
            self._finish(event["item"])
            return
        _require(event.get("item_id") == self.item["id"], f"item_id of {event}")
        if kind in PART_EVENTS:
            self._take_part(kind, event)
        elif kind in TEXTS:
            self._delta(kind, event)
        else:
            _require(kind in DONE, f"unknown event {kind!r}")
            self._whole(kind, event)

    def _add(self, item):
        _require(self.item is None, "an item begins inside another")
        _require(item.get("type") in ITEM_KINDS, f"item type {item.get('type')!r}")
        _require(_is_text(item.get("id")), "an item without id")
        _require(item["id"] not in [each["id"] for each in self.items], "an id came twice")
        _require(item.get("status") == "in_progress", f"added with status {item.get('status')}")
        for name in ("content", "summary", "arguments", "input"):
            _require(not item.get(name), f"an item begins with {name}")
        if item["type"].endswith("_call"):
            _require(_is_text(item.get("call_id")), "a call without call_id")
        if item["type"] in ("function_call", "custom_tool_call"):
            _require(_is_text(item.get("name")), "a call without name")
        self.item, self.texts, self.parts, self.part = item, {}, [], None

    def _take_part(self, kind, event):
        index, step = PART_EVENTS[kind]
        _require(event.get(index) == len(self.parts), f"{index} of {event}")
        part = event["part"]
        _require(part["type"] in PARTS_OF.get(self.item["type"], ()), f"part {part['type']!r}")
        text = part["refusal" if part["type"] == "refusal" else "text"]
        if step == "added":
            _require(self.part is None, "a part begins inside another")
            _require(text == "", "a part begins with text")
            self.part = part["type"]
            return
        _require(self.part == part["type"], "another part ends")
        _require(self.texts.get("done") == text, "a part's text is not its deltas")
        self.parts.append(part)
        self.part, self.texts = None, {}

    def _delta(self, kind, event):
        part = TEXTS[kind][2]
        _require(part == self.part, f"{kind} in part {self.part!r}")
        _require(isinstance(event.get("delta"), str), "a delta without text")
        _require(event["delta"] != "", "an empty delta")
        _require("done" not in self.texts, "a delta after the text was done")
        self._place(event, part)
        self.texts.setdefault(kind, []).append(event["delta"])

    def _whole(self, kind, event):
        delta, member, part = DONE[kind]
        _require(part == self.part, f"{kind} in part {self.part!r}")
        self._place(event, part)
        text = "".join(self.texts.get(delta, ()))
        _require(event[member] == text, f"{kind}: {event[member]!r} is not {text!r}")
        self.texts = {"done": text}

    def _place(self, event, part):
        index = {"summary_text": "summary_index", None: None}.get(part, "content_index")
        _require(index is None or event.get(index) == len(self.parts), f"{index} of {event}")

    def _finish(self, item):
        _require(self.part is None, "an item ends inside a part")
        same = ("id", "type", "role", "call_id", "name", "namespace")
        for name in same:
            _require(item.get(name) == self.item.get(name), f"{name} changed in {item}")
        _require(item["status"] in ("completed", "incomplete"), f"done with {item['status']!r}")
        kind = item["type"]
        if kind == "message":
            _require(item["content"] == self.parts, "the content is not its parts")
            _require(self.parts != [], "an empty message")
        elif kind == "reasoning":
            _require(item["summary"] == self.parts, "the summary is not its parts")
            _require(bool(self.parts) or "encrypted_content" in item, "an empty reasoning item")
        elif kind in ("function_call", "custom_tool_call"):
            member = "arguments" if kind == "function_call" else "input"
            _require(self.texts.get("done") == item[member], f"{member} are not their deltas")
        elif kind == "local_shell_call":
            _require(isinstance(item["action"]["command"], list), "a command is no array")
        else:
            _require(isinstance(item["arguments"], dict), "a search's arguments are no object")
        self.items.append(item)
        self.item = None


def _check_response(response, status):
    _require(response["status"] == status, f"status {response['status']!r}")
    _require(response["object"] == "response", f"object {response['object']!r}")
    _require(_is_text(response["id"]) and _is_text(response["model"]), "no id or no model")
    _require(type(response["created_at"]) is int, "created_at is not an integer")
    _require(type(response["parallel_tool_calls"]) is bool, "parallel_tool_calls")
    _require(isinstance(response["tools"], list), "tools is not an array")
    _require(response["tool_choice"] is not None, "no tool_choice")
    _require((response["error"] is not None) == (status == "failed"), "error")
    usage = response["usage"]
    if usage is not None:
        total = usage["input_tokens"] + usage["output_tokens"]
        _require(usage["total_tokens"] == total, "total_tokens is not the sum")
        _require(usage["input_tokens_details"].keys() >= {"cached_tokens"}, "no cached_tokens")
        _require("reasoning_tokens" in usage["output_tokens_details"], "no reasoning_tokens")


def _split(raw):
    """Give (event name, data) of each event; comments are passed over."""
    text = raw.decode()
    _require(not text or text.endswith("\n\n"), "the last event is cut")
    for block in filter(None, text.split("\n\n")):
        if block.startswith(":"):
            continue
        found = re.fullmatch(r"event: (.+)\ndata: (.+)", block)
        _require(found is not None, f"not an event and its data: {block!r}")
        yield found[1], found[2]


def _is_text(value):
    return isinstance(value, str) and value != ""


def _require(condition, sentence):
    if not condition:
        raise BrokenStreamError(sentence)
