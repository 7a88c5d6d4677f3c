"""A Chat request that was made of a Responses request, in the ways of its server.

    Chat                                 by the flags
    max_completion_tokens                max_tokens_field
    reasoning_effort                     reasoning_effort, max_effort, effort_with_tools,
                                         reasoning_off; as it is where no tools are offered
    response_format                      json_schema
    a system message that comes late     late_system
    several texts in one message         text_parts

A Chat client says for itself what its server takes; a Responses client cannot.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from server.protocols.body import join
from server.protocols.compat import Compat
from server.protocols.translation.json_text import NULL, array, is_null, joined, quoted, read
from server.protocols.translation.requests.efforts import NONE, effort_members

LIMIT = "max_completion_tokens"
EFFORT = "reasoning_effort"
SCHEMA_TOLD = "Answer with one JSON object and nothing else, valid under this JSON schema:\n"


def fitted(fields: Mapping[str, Raw], compat: Compat) -> dict[str, Raw]:
    """Give the members as the server takes them; the same messages become the same bytes."""
    names = {LIMIT: compat.max_tokens_field}
    made = {names.get(name, name): value for name, value in fields.items() if name != EFFORT}
    made |= _effort(fields, compat)
    told = None if compat.json_schema else _schema_told(fields)
    if told is not None:
        made["response_format"] = Raw(b'{"type":"json_object"}')
    if told is not None or compat.late_system == "user" or not compat.text_parts:
        made["messages"] = _messages(fields["messages"], compat, told)
    return made


class _Schema(Struct, frozen=True):
    schema: Raw = NULL


class _Format(Struct):
    json_schema: _Schema = _Schema()


class _Part(Struct):
    type: str
    text: Raw = NULL


_ITEMS = msgspec.json.Decoder(list[Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_PARTS = msgspec.json.Decoder(list[_Part])
_FORMAT = msgspec.json.Decoder(_Format)
_STRING = msgspec.json.Decoder(str)
_SYSTEM = Raw(b'"system"')


def _effort(fields: Mapping[str, Raw], compat: Compat) -> dict[str, Raw]:
    raw, has_tools = fields.get(EFFORT, NULL), "tools" in fields
    asked = None if is_null(raw) else read(raw, _STRING, "reasoning.effort")
    if asked is not None and asked != NONE and not has_tools:
        return {EFFORT: raw}
    return effort_members(asked, compat, has_tools=has_tools)


def _schema_told(fields: Mapping[str, Raw]) -> bytes | None:
    """Say of which schema an answer has to be, as a written string; None where of any."""
    if "response_format" not in fields:
        return None
    schema = read(fields["response_format"], _FORMAT, "text.format").json_schema.schema
    return None if is_null(schema) else quoted(SCHEMA_TOLD + bytes(schema).decode())


def _messages(raw: Raw, compat: Compat, told: bytes | None) -> Raw:
    messages = [read(each, _MEMBERS, "messages") for each in read(raw, _ITEMS, "messages")]
    if told is not None:
        if messages[0]["role"] != _SYSTEM:
            messages.insert(0, {"role": _SYSTEM, "content": Raw(b'""')})
        first = bytes(messages[0]["content"])
        text = told if first == b'""' else joined([first, told], rb"\n\n")
        messages[0] = {**messages[0], "content": Raw(text)}
    return Raw(array([join(_message(each, at, compat)) for at, each in enumerate(messages)]))


def _message(message: Mapping[str, Raw], at: int, compat: Compat) -> Mapping[str, Raw | bytes]:
    content = message.get("content", NULL)
    if at and message["role"] == _SYSTEM and compat.late_system == "user":
        text = rb'"<system-reminder>\n%b\n</system-reminder>"' % bytes(content)[1:-1]
        return {"role": b'"user"', "content": text}
    if not compat.text_parts and bytes(content).startswith(b"["):
        parts = read(content, _PARTS, "messages")
        if parts and all(part.type == "text" for part in parts):
            return {**message, "content": joined([bytes(part.text) for part in parts], rb"\n\n")}
    return message
