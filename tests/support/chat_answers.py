"""Pieces of a Chat upstream's stream, as any server might write them."""

import json


def event(data):
    return b"data: %b\n\n" % json.dumps(data).encode()


def chunk(delta=None, *, finish=None, usage=None, **members):
    """Give a chunk with one choice; `members` are the choice's."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish} | members
    return event({"id": "chatcmpl-1", "choices": [choice], "usage": usage})


def call(index=0, arguments=None, *, ident=None, name=None):
    """Give a delta with one fragment of a tool call; what is None is left out."""
    function = {"name": name, "arguments": arguments}
    function = {key: value for key, value in function.items() if value is not None}
    fragment = {"index": index, "id": ident, "function": function}
    return {"tool_calls": [{key: value for key, value in fragment.items() if value is not None}]}
