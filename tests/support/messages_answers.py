"""Answers of a Messages upstream, each as a body and as the stream that says the same."""

import json

START_USAGE = {"input_tokens": 20, "cache_read_input_tokens": 300, "output_tokens": 1}
USAGE = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 40,
    "cache_read_input_tokens": 300,
    "output_tokens": 60,
    "output_tokens_details": {"thinking_tokens": 12},
}


def text(said, **members):
    return {"type": "text", "text": said, **members}


def thinking(thought, signature="c2lnbmVk"):
    return {"type": "thinking", "thinking": thought, "signature": signature}


def tool_use(name="Write", ident="toolu_1", **tool_input):
    return {"type": "tool_use", "id": ident, "name": name, "input": tool_input}


SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"q": "x"}}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"url": "u"}]}
CITATION = {"type": "web_search_result_location", "url": "u", "cited_text": "[DONE]"}

# name: the content blocks, and the stop reason
ANSWERS = {
    "text": ([text("Hello\n\n“wörld” \U0001f600 data: [DONE]")], "end_turn"),
    "several texts": ([text("Hello"), text(", "), text("world.")], "stop_sequence"),
    "a tool": ([tool_use(path="a.txt", content='say "hi"\n\\ ☃')], "tool_use"),
    "text and a tool": ([text("I write."), tool_use(path="a")], "tool_use"),
    "two tools": ([text("Now"), tool_use(a=1), tool_use("Read", "toolu_2", b=[2])], "tool_use"),
    "a tool without arguments": ([tool_use("Now")], "tool_use"),
    "tools with and without": ([tool_use("Now"), tool_use("Read", "toolu_2", b=2)], "tool_use"),
    "thinking": ([thinking("Hm.\nLet me “see”."), text("Yes.")], "end_turn"),
    "thinking without text": ([thinking(""), text("Yes.")], "end_turn"),
    "unsigned thinking": ([thinking("Hm.", ""), text("Yes.")], "end_turn"),
    "thinking, then a tool": ([thinking("Hm."), tool_use(a=1)], "tool_use"),
    "redacted thinking": (
        [
            thinking("One"),
            {"type": "redacted_thinking", "data": "c2VjcmV0"},
            thinking("two", "Yg=="),
            text("So."),
        ],
        "end_turn",
    ),
    "thinking alone": ([thinking("Hm.")], "end_turn"),
    "nothing": ([], "end_turn"),
    "an empty text": ([text("")], "end_turn"),
    "a search": (
        [
            text("I search."),
            SEARCH,
            FOUND,
            text("Found", citations=[CITATION, CITATION]),
            text("."),
        ],
        "end_turn",
    ),
    "a search, then a tool": ([SEARCH, FOUND, tool_use(a=1)], "tool_use"),
    "a pause": ([text("Wait"), SEARCH], "pause_turn"),
}


def event(kind, **members):
    data = json.dumps({"type": kind, **members}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def body(blocks, stop_reason="end_turn", usage=USAGE, **members):
    """Give the body of a message."""
    return json.dumps(_message(blocks, stop_reason, usage, members), ensure_ascii=False).encode()


def stream(blocks, stop_reason="end_turn", usage=USAGE, **members):
    """Give the events of a message, some of whose deltas are cut within words."""
    ending = {"stop_reason": stop_reason, "stop_sequence": None}
    return [
        event("message_start", message=_message([], None, START_USAGE, members)),
        event("ping"),
        *(each for index, block in enumerate(blocks) for each in block_events(index, block)),
        event("message_delta", delta=ending, usage=usage),
        event("message_stop"),
    ]


def block_events(index, block):
    """Give one block as a provider streams it."""
    opened, deltas = _opened(block)
    yield event("content_block_start", index=index, content_block=opened)
    for delta in deltas:
        yield event("content_block_delta", index=index, delta=delta)
    yield event("content_block_stop", index=index)


def _message(content, stop_reason, usage, members):
    shared = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-upstream"}
    end = {"stop_reason": stop_reason, "stop_sequence": None}
    return {**shared, "content": content, **end, "usage": usage, **members}


def _opened(block):
    match block["type"]:
        case "text":
            cited = block.get("citations") or []
            deltas = [{"type": "citations_delta", "citation": each} for each in cited]
            deltas += _deltas("text_delta", "text", block["text"])
            return {**block, "text": "", **({"citations": []} if cited else {})}, deltas
        case "thinking":
            deltas = _deltas("thinking_delta", "thinking", block["thinking"])
            if block["signature"]:
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {**block, "thinking": "", "signature": ""}, deltas
        case "tool_use" | "server_tool_use":
            arguments = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
            deltas = [{"type": "input_json_delta", "partial_json": ""}]
            deltas += _deltas("input_json_delta", "partial_json", arguments)
            return {**block, "input": {}}, deltas
    return block, []


def _deltas(kind, member, said):
    return [{"type": kind, member: said[at : at + 5]} for at in range(0, len(said), 5)]
