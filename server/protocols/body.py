"""Request bodies: split at the top level, read where needed, spliced, joined again."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols import Protocol

MAX_MODEL_LENGTH = 256
MAX_TOKENS_LIMIT = 2**31 - 1
MOST_FIELDS = 1_000  # the protocols know fifty; each is looked at

# The names that the gateway reads or replaces, or that change what a request costs. Other
# parsers fold case: a `Model` beside `model` would show them a request that we never priced.
KNOWN_NAMES = frozenset(
    {
        "container", "functions", "inference_geo", "input", "max_completion_tokens",
        "max_output_tokens", "max_tokens", "mcp_servers", "messages", "metadata", "modalities",
        "model", "n", "output_config", "previous_response_id", "response_format", "service_tier",
        "speed", "stream", "stream_options", "system", "thinking", "tool_choice", "tools",
        "web_search_options",
    }
)  # fmt: skip

Value = TypeVar("Value")


class Body(Struct, frozen=True):
    """A request body: its raw top level, and the few fields that the gateway acts on.

    `max_tokens` is the largest limit named, None where none is. `choices` is Chat's `n`.
    `wants_usage` tells whether a Chat client itself asked for the stream's usage chunk. `asked`
    is what a Responses answer has to say again of its request, which `fields` give as Chat.
    """

    protocol: Protocol
    fields: dict[str, Raw]
    model: str
    stream: bool
    max_tokens: int | None
    has_tools: bool
    wants_schema: bool
    choices: int = 1
    wants_usage: bool = False
    asked: Any = None


def split(raw: bytes) -> dict[str, Raw]:
    """Cut a JSON object into its members, each value left as the bytes it was.

    Of duplicate names the last wins. The whole text is checked, in skipped values too.

    Raises:
        InvalidRequest: not UTF-8, not JSON, not an object, nested too deeply, a surrogate
            without its partner, fields without end, or a name that equals a known one but for case.
    """
    if not raw:
        raise InvalidRequest("The request body is empty; send a JSON object.")
    try:
        if not raw.isascii():
            raw.decode()  # msgspec does not look at UTF-8 in what it skips
        fields = _OBJECT.decode(raw)
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"The request body is not UTF-8 (byte {exc.start}).") from exc
    except msgspec.ValidationError as exc:
        raise InvalidRequest("The request body must be a JSON object.") from exc
    except msgspec.DecodeError as exc:
        raise InvalidRequest(_why_malformed(raw, str(exc))) from exc
    except RecursionError as exc:
        raise InvalidRequest("The request body is nested too deeply.") from exc
    if len(fields) > MOST_FIELDS:
        raise InvalidRequest(f"The request body has more than {MOST_FIELDS:,} fields.")
    for name in fields.keys() - KNOWN_NAMES:
        if name.casefold() in KNOWN_NAMES:
            raise InvalidRequest(
                f'Unknown field "{name}"; it differs from "{name.casefold()}" only by case.',
                param=name,
            )
    return fields


def join(fields: Mapping[str, Raw | bytes]) -> bytes:
    """Put a body together from its members, in their order; values go in untouched."""
    parts: list[Raw | bytes] = []
    for name, value in fields.items():
        parts += (b",", _ENCODER.encode(name), b":", value)
    return b"".join((b"{", *parts[1:], b"}"))


def read_messages(raw: bytes) -> Body:
    """Read a Messages request; `max_tokens: 0` (warm the cache) is legal.

    Raises:
        InvalidRequest: as `split`, or a field has a wrong type; `param` names it.
    """
    fields = split(raw)
    output = _read(fields, "output_config", _OUTPUT_CONFIG, "an object")
    return Body(
        protocol=Protocol.ANTHROPIC,
        fields=fields,
        model=_model(fields),
        stream=_read(fields, "stream", _BOOL, "true or false") or False,
        max_tokens=_count(fields, "max_tokens"),
        has_tools=_is_filled_array(fields, "tools"),
        wants_schema=output is not None and output.format is not None,
    )


def read_chat(raw: bytes) -> Body:
    """Read a Chat Completions request; of its two token limits the larger counts.

    Raises:
        InvalidRequest: as `split`, or a field has a wrong type; `param` names it.
    """
    return chat(split(raw))


def chat(fields: dict[str, Raw], asked: Any = None) -> Body:
    """Read the members of a Chat Completions request, which may have been made of another.

    Raises:
        InvalidRequest: a field has a wrong type; `param` names it.
    """
    limits = (_count(fields, "max_tokens"), _count(fields, "max_completion_tokens"))
    layout = _read(fields, "response_format", _RESPONSE_FORMAT, "an object")
    options = _read(fields, "stream_options", _STREAM_OPTIONS, "an object")
    choices = _count(fields, "n")
    if choices == 0:
        raise InvalidRequest("n must be at least 1.", param="n")
    return Body(
        protocol=Protocol.OPENAI,
        fields=fields,
        model=_model(fields),
        stream=_read(fields, "stream", _BOOL, "true or false") or False,
        max_tokens=max((limit for limit in limits if limit is not None), default=None),
        has_tools=_is_filled_array(fields, "tools") or _is_filled_array(fields, "functions"),
        wants_schema=layout is not None and layout.type != "text",
        choices=choices or 1,
        wants_usage=options is not None and options.include_usage is True,
        asked=asked,
    )


def with_model(fields: Mapping[str, Raw], name: str) -> dict[str, Raw]:
    """Give the members with `model` replaced, in the same place."""
    return {**fields, "model": Raw(_ENCODER.encode(name))}


def with_output_limit(fields: Mapping[str, Raw], limit_field: str, tokens: int) -> dict[str, Raw]:
    """Give the members with the output limit set to `tokens`, wherever they name one.

    `limit_field` is what the server calls it. One that goes by the older name, `max_tokens`,
    passes over the newer; OpenAI takes either, but not both.
    """
    limit = Raw(b"%d" % tokens)
    names = [name for name in _LIMITS if name in fields] or [limit_field]
    if limit_field == _OLDER_LIMIT:
        names, others = [limit_field], [name for name in names if name != limit_field]
        fields = {name: value for name, value in fields.items() if name not in others}
    return {**fields, **dict.fromkeys(names, limit)}


def with_include_usage(fields: Mapping[str, Raw]) -> dict[str, Raw]:
    """Give a Chat stream's members with `stream_options.include_usage` true.

    Without it a stream carries no usage. The other stream options keep their bytes.
    """
    options = _read(fields, "stream_options", _OBJECT_OR_NULL, "an object") or {}
    asked = Raw(join({**options, "include_usage": b"true"}))
    return {**fields, "stream_options": asked}


_OLDER_LIMIT = "max_tokens"
_LIMITS = ("max_completion_tokens", _OLDER_LIMIT)


class _OutputConfig(msgspec.Struct):
    format: object = None


class _ResponseFormat(msgspec.Struct):
    type: object = None


class _StreamOptions(msgspec.Struct):
    include_usage: object = None


_ENCODER = msgspec.json.Encoder()
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_OBJECT_OR_NULL = msgspec.json.Decoder(dict[str, Raw] | None)
_BOOL = msgspec.json.Decoder(bool | None)
_INT = msgspec.json.Decoder(int | None)
_STR = msgspec.json.Decoder(str)
_OUTPUT_CONFIG = msgspec.json.Decoder(_OutputConfig | None)
_RESPONSE_FORMAT = msgspec.json.Decoder(_ResponseFormat | None)
_STREAM_OPTIONS = msgspec.json.Decoder(_StreamOptions | None)
_FILLED_ARRAY = re.compile(rb"\[\s*[^\]\s]")
# Matches escapes one after another, so that an escaped backslash never hides the next one.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<lone>u[dD][89a-fA-F]..)|.)", re.DOTALL
)
_MALFORMED = re.compile(r"JSON is malformed: (?P<reason>.+) \(byte (?P<at>\d+)\)")


def _read(
    fields: Mapping[str, Raw], name: str, decoder: msgspec.json.Decoder[Value], wanted: str
) -> Value | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"{name} must be {wanted}.", param=name) from exc


def _model(fields: Mapping[str, Raw]) -> str:
    """Read `model`, having checked that `messages` is there: both are required everywhere."""
    messages = fields.get("messages")
    if messages is None or memoryview(messages)[0] != ord("["):
        raise InvalidRequest("messages is required and must be an array.", param="messages")
    model = _read(fields, "model", _STR, "a string")
    if not model:
        raise InvalidRequest("model is required and must not be empty.", param="model")
    if len(model) > MAX_MODEL_LENGTH or not model.isprintable():
        raise InvalidRequest(
            f"model must be at most {MAX_MODEL_LENGTH} printable characters.", param="model"
        )
    return model


def _count(fields: Mapping[str, Raw], name: str) -> int | None:
    wanted = f"a whole number from 0 to {MAX_TOKENS_LIMIT}"
    count = _read(fields, name, _INT, wanted)
    if count is not None and not 0 <= count <= MAX_TOKENS_LIMIT:
        raise InvalidRequest(f"{name} must be {wanted}.", param=name)
    return count


def _is_filled_array(fields: Mapping[str, Raw], name: str) -> bool:
    raw = fields.get(name)
    return raw is not None and _FILLED_ARRAY.match(raw) is not None


def _why_malformed(raw: bytes, complaint: str) -> str:
    if any(escape["lone"] for escape in _ESCAPE.finditer(raw)):
        # msgspec calls this a truncation, which would send the reader the wrong way.
        return "The request body holds half of a UTF-16 surrogate pair (\\ud800 to \\udfff)."
    malformed = _MALFORMED.fullmatch(complaint)
    if malformed is None:
        return "The request body is not valid JSON: it ends too early."
    if raw.startswith((b"NaN", b"Infinity"), int(malformed["at"])):
        return "The request body is not valid JSON: NaN and Infinity are not numbers there."
    return f"The request body is not valid JSON: {malformed['reason']} (byte {malformed['at']})."
