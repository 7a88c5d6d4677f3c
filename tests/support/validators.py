"""What a whole stream said, in few words, once it has kept every rule of its protocol.

The rules are those of `support.stream_rules`, and a few that hold for whatever a gateway sends.
"""

from dataclasses import dataclass, field

from support import stream_rules
from support.stream_rules import BrokenStreamError, events, require

__all__ = ["BrokenStreamError", "Transcript", "check_chat_stream", "check_messages_stream"]


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
    message = stream_rules.check_messages_stream(stream, allow_empty_text=True)
    told = list(events(stream))
    require((None, None) not in told, "a comment where Messages has ping events")
    blocks = message.get("content", [])
    # Whoever cuts an answer off cannot take back a block that has begun.
    is_cut = message.get("stop_reason") == "max_tokens" or "error" in message
    whole = blocks[:-1] if is_cut else blocks
    require(all(block.get("text", "-") for block in whole), "a text block without text")
    calls = [block for block in blocks if block["type"] == "tool_use"]
    return Transcript(
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        thinking="".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        tools=[(call["name"], call["input"]) for call in calls if isinstance(call["input"], dict)],
        stop_reason=message.get("stop_reason"),
        usage=message.get("usage"),
        error=message.get("error"),
        model=message.get("model"),
        pings=sum(name == "ping" for name, _ in told),
    )


def check_chat_stream(stream: bytes, *, usage: bool | None = None) -> Transcript:
    """Check a Chat Completions stream up to [DONE], or to its `error` chunk.

    `usage` tells whether the usage chunk must be there (True) or must not (False).
    """
    completion = stream_rules.check_chat_stream(stream)
    if usage is not None and "error" not in completion:
        require(("usage" in completion) == usage, f"usage is {completion.get('usage')}")
    choices = [each for each in completion.get("choices", ()) if each["index"] == 0]
    message = choices[0]["message"] if choices else {}
    stop_reason = choices[0]["finish_reason"] if choices else None
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return Transcript(
        text=message.get("content") or "",
        thinking=message.get("reasoning_content") or "",
        tools=[
            (call["name"], stream_rules.object_of(call["arguments"]))
            for call in calls
            if stop_reason == "tool_calls"
        ],
        stop_reason=stop_reason,
        usage=completion.get("usage"),
        error=completion.get("error"),
        model=completion.get("model"),
        pings=sum(told == (None, None) for told in events(stream)),
    )
