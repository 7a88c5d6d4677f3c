"""Messages requests put through the translation, and what a strict Chat server checks of them."""

import json
import re

from server.protocols import body
from server.protocols.compat import OPENAI
from server.protocols.translation.requests import messages_to_chat

MEMBERS_OF_ROLE = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls"},
    "tool": {"role", "content", "tool_call_id"},
}


def translate(compat=OPENAI, **members):
    """Translate a request of these members; a user's greeting stands for absent messages."""
    whole = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    return translate_bytes(json.dumps(whole).encode(), compat)


def translate_bytes(raw, compat=OPENAI):
    """Translate a request as it was written."""
    return messages_to_chat.request(body.read_messages(raw).fields, compat)


def as_chat(compat=OPENAI, **members):
    """Translate, and decode what would leave."""
    return json.loads(body.join(translate(compat, **members).fields))


def turns(*pairs, compat=OPENAI, **members):
    """Translate turns, each a role and its content, and give the Chat messages."""
    sent = [{"role": role, "content": content} for role, content in pairs]
    return as_chat(compat, messages=sent, **members)["messages"]


def check_messages(messages, reasoning_fields=()):
    """Fail where OpenAI would refuse the order of messages, or a member of one."""
    assert messages
    unanswered = []
    for message in messages:
        role = message["role"]
        assert message.keys() <= MEMBERS_OF_ROLE[role] | set(reasoning_fields), message
        if role == "tool":
            unanswered.remove(message["tool_call_id"])
            assert isinstance(message["content"], str)
            continue
        assert not unanswered, f"no result for {unanswered} before {message}"
        _check_content(message)
        calls = message.get("tool_calls", [])
        assert calls or "tool_calls" not in message
        for call in calls:
            assert call.keys() == {"id", "type", "function"}
            assert call["type"] == "function"
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", call["function"]["name"])
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
        unanswered = [call["id"] for call in calls]
        assert len(set(unanswered)) == len(unanswered)
    assert not unanswered


def _check_content(message):
    content = message["content"]
    if content is None:
        assert message["role"] == "assistant"
        assert message["tool_calls"]
    elif isinstance(content, str):
        assert content or message["role"] == "assistant"
    else:
        assert message["role"] == "user"
        assert content
        for part in content:
            assert part["type"] in {"text", "image_url", "file"}
            assert part["type"] != "text" or part["text"]
            assert part.keys() == {"type", part["type"]}
