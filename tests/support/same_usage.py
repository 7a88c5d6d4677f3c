"""One usage, as each protocol tells it, and what it costs: for tests that compare ways to it."""

import json

from support.raw_upstream import EVENTS, chunked, sized
from support.wires import COMPLETION, MESSAGE

PRICE = """{input: "4.01", output: "20.03", cache_read: "0.41", cache_write_5m: "5.07",
    cache_write_1h: "8.09"}"""
TOKENS = {"input_tokens": 25, "cache_read_input_tokens": 2001, "cache_write_5m_tokens": 61}
TOKENS |= {"cache_write_1h_tokens": 0, "output_tokens": 43}
MICROS = -(-(25 * 4_010_000 + 2001 * 410_000 + 61 * 5_070_000 + 43 * 20_030_000) // 1_000_000)
WEIGHED = -(-(25 * 100 + 2001 * 10 + 61 * 125 + 43 * 100) // 100)  # quota_weights' defaults
MESSAGES_USAGE = {
    "input_tokens": 25,
    "cache_read_input_tokens": 2001,
    "cache_creation_input_tokens": 61,
    "output_tokens": 43,  # 7 of them thinking
    "output_tokens_details": {"thinking_tokens": 7},
}
CHAT_USAGE = {
    "prompt_tokens": 25 + 2001 + 61,
    "completion_tokens": 43,
    "total_tokens": 25 + 2001 + 61 + 43,
    "prompt_tokens_details": {"cached_tokens": 2001, "cache_write_tokens": 61},
    "completion_tokens_details": {"reasoning_tokens": 7},
}


def messages_events() -> list[bytes]:
    """Give the events of a Messages stream with that usage."""
    begun = MESSAGES_USAGE | {"output_tokens": 1}
    text = {"type": "text_delta", "text": "hello"}
    events = [
        {"type": "message_start", "message": MESSAGE | {"content": [], "usage": begun}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": MESSAGES_USAGE},
        {"type": "message_stop"},
    ]
    return [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events]


def chat_events() -> list[bytes]:
    """Give the events of a Chat stream with that usage."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = {"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}
    over = {"index": 0, "delta": {}, "finish_reason": "stop"}
    data = [
        json.dumps(chunk | {"choices": [said]}),
        json.dumps(chunk | {"choices": [over]}),
        json.dumps(chunk | {"choices": [], "usage": CHAT_USAGE}),
        "[DONE]",
    ]
    return [f"data: {each}\n\n".encode() for each in data]


EVENTS_OF = {"anthropic": messages_events, "openai": chat_events}


def answers() -> dict[tuple[str, bool], list[bytes]]:
    """Give the script of each answer, by its protocol and whether it is a stream."""
    whole = {
        "anthropic": MESSAGE | {"usage": MESSAGES_USAGE},
        "openai": COMPLETION | {"usage": CHAT_USAGE},
    }
    return {
        **{(spoken, False): [sized(json.dumps(body).encode())] for spoken, body in whole.items()},
        **{(spoken, True): [EVENTS, chunked(*make())] for spoken, make in EVENTS_OF.items()},
    }
