"""Requests as clients send them, in the form in which they are served."""

from server.errors import InvalidRequest
from server.protocols import Protocol, body
from server.protocols.body import Body
from server.protocols.translation.requests import cursor, responses_to_chat


def read(raw: bytes, protocol: Protocol, tool: str | None) -> Body:
    """Read a request; what is neither Messages nor Chat Completions is made Chat Completions.

    Cursor sends three kinds of body to one path, whatever that path says.

    Raises:
        InvalidRequest: it is not sound; `param` names the field.
    """
    try:
        return _read(raw, protocol, tool)
    except RecursionError as exc:
        # What reads a value again may stand deeper on the stack than `split`, which let it pass.
        raise InvalidRequest("The request body is nested too deeply.") from exc


def _read(raw: bytes, protocol: Protocol, tool: str | None) -> Body:
    if protocol is Protocol.ANTHROPIC:
        return body.read_messages(raw)
    if protocol is Protocol.RESPONSES:
        asked = responses_to_chat.request(body.split(raw))
        return body.chat(asked.fields, asked)
    if tool == "cursor":
        return body.chat(cursor.as_chat(body.split(raw)))
    return body.read_chat(raw)
