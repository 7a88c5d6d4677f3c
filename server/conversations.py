"""Which conversation a request belongs to, so that it goes where its prompt cache is."""

from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw

from server.calls import Call
from server.protocols.body import Body
from server.rows import session_of


def conversation_of(call: Call, request: Body, model: str) -> bytes:
    """Name the conversation: by the tool's session, else by what it began with.

    A request grows by its latest turns, and marks for the cache move on with them: only the text
    of the first message stays as it was.
    """
    begun_with = session_of(call) or _first_text(request)
    named = f"{model}\0{call.caller.key_id}\0{begun_with}".encode(errors="replace")
    # It is hashed again for each place, and a first message may be a whole file.
    return blake2b(named, digest_size=16).digest()


def _first_text(request: Body) -> str:
    for name in ("messages", "input"):
        if name not in request.fields:
            continue
        try:
            first = _first_of_user(request.fields[name])
        except (ValueError, RecursionError):
            return ""
        return "".join(_texts(first))
    return ""


def _first_of_user(raw: Raw) -> Any:
    """Give the content of the first message that is no instruction, without reading the rest."""
    messages = _ITEMS.decode(raw)
    if isinstance(messages, str):
        return messages
    for each in messages:
        message = _ANY.decode(each)
        if isinstance(message, dict) and message.get("role") not in ("system", "developer"):
            return message.get("content")
    return None


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]


_ITEMS = msgspec.json.Decoder(list[Raw] | str)
_ANY = msgspec.json.Decoder()
