"""A Chat Completions request as a Messages request.

Chat                                     Messages
messages                                 system, messages: see `chat_turns`
tools, tool_choice, parallel_tool_calls  tools, tool_choice: see `chat_tools`
max_completion_tokens, max_tokens        max_tokens
stop                                     stop_sequences, but for blank ones
temperature, top_p                       the same, from 0 to 1; not both; a default is left out
reasoning_effort                         output_config.effort; none: thinking disabled
response_format json_schema              output_config.format
response_format json_object              a sentence at the end of system
model, stream, cache_control             the same
n > 1, logprobs, audio, web search       refused
all else                                 left out
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from server.errors import InvalidRequest
from server.protocols.body import join
from server.protocols.translation import Translated
from server.protocols.translation.json_text import NULL, array, read
from server.protocols.translation.requests.chat_parts import is_string, text_block
from server.protocols.translation.requests.chat_tools import tools
from server.protocols.translation.requests.chat_turns import conversation

EFFORTS = {"minimal": "low"} | {name: name for name in ("low", "medium", "high", "xhigh", "max")}


def request(fields: Mapping[str, Raw], *, max_tokens: int) -> Translated:
    """Translate the members of a Chat request; `max_tokens` counts where it names no limit.

    Meant for the API version 2023-06-01: later ones take no sampling parameters. Anthropic
    caches only what is asked for, so a request without any `cache_control` gets the automatic
    one, as OpenAI's clients know nothing else.

    Raises:
        InvalidRequest: a field asks for what a Messages upstream cannot do; `param` names it.
    """
    given = {name: value for name, value in fields.items() if value != NULL}
    _refuse(given)
    talk, offered = conversation(fields["messages"]), tools(given)
    system = talk.system + _format_told(given)
    made: dict[str, Raw | bytes | None] = {
        "model": given.get("model"),
        "max_tokens": _limit(given, max_tokens),
        "stream": given.get("stream"),
        "cache_control": _cache_control(given),
        "system": array(system) if system else None,
        "messages": array(talk.turns),
        "tools": array(offered.items) if offered.items else None,
        "tool_choice": offered.choice,
        "thinking": _thinking(given),
        "output_config": _output_config(given),
        "stop_sequences": _stop_sequences(given),
        **_sampling(given),
    }
    return Translated({name: Raw(value) for name, value in made.items() if value is not None}, {})


class _Schema(Struct):
    schema: Raw = NULL


class _Format(Struct):
    type: str
    json_schema: _Schema | None = None


_encode = msgspec.json.Encoder().encode
_BOOL = msgspec.json.Decoder(bool)
_INT = msgspec.json.Decoder(int)
_NUMBER = msgspec.json.Decoder(float)
_STRING = msgspec.json.Decoder(str)
_STRINGS = msgspec.json.Decoder(list[str])
_FORMAT = msgspec.json.Decoder(_Format)
_MARK = b'"cache_control"'
_AUTOMATIC = b'{"type":"ephemeral"}'
_DEFAULT_SAMPLING = 1.0
# A schema that allows every object would do, but the API takes only closed ones.
_ONLY_JSON = text_block(b'"Answer with one JSON object and nothing else."')


def _refuse(given: Mapping[str, Raw]) -> None:
    """Refuse what would be paid for, or waited for, and could not come."""
    asks = {
        "n": "n" in given and read(given["n"], _INT, "n") > 1,
        "logprobs": "logprobs" in given and read(given["logprobs"], _BOOL, "logprobs"),
        "audio": "audio" in given,
        "modalities": "modalities" in given
        and "audio" in read(given["modalities"], _STRINGS, "modalities"),
        "web_search_options": "web_search_options" in given,
    }
    for name, is_asked in asks.items():
        if is_asked:
            raise InvalidRequest(
                f"{name} asks for something that this model's provider does not offer.", param=name
            )


def _limit(given: Mapping[str, Raw], otherwise: int) -> Raw | bytes:
    named = given.get("max_completion_tokens", given.get("max_tokens"))
    return b"%d" % otherwise if named is None else named


def _cache_control(given: Mapping[str, Raw]) -> Raw | bytes | None:
    if "cache_control" in given:
        return given["cache_control"]
    if any(_MARK in bytes(given.get(name, b"")) for name in ("messages", "tools", "functions")):
        return None
    return _AUTOMATIC


def _format(given: Mapping[str, Raw]) -> _Format | None:
    if "response_format" not in given:
        return None
    return read(given["response_format"], _FORMAT, "response_format")


def _format_told(given: Mapping[str, Raw]) -> list[bytes]:
    wanted = _format(given)
    return [_ONLY_JSON] if wanted is not None and wanted.type == "json_object" else []


def _output_config(given: Mapping[str, Raw]) -> bytes | None:
    made: dict[str, bytes] = {}
    effort, wanted = _effort(given), _format(given)
    if effort is not None and effort != "none":
        made["effort"] = _encode(EFFORTS[effort])
    if wanted is not None and wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema == NULL:
            raise InvalidRequest("response_format has no schema.", param="response_format")
        made["format"] = b'{"type":"json_schema","schema":%b}' % wanted.json_schema.schema
    elif wanted is not None and wanted.type not in ("text", "json_object"):
        raise InvalidRequest(
            "The type of response_format must be text, json_object or json_schema.",
            param="response_format",
        )
    return join(made) if made else None


def _effort(given: Mapping[str, Raw]) -> str | None:
    if "reasoning_effort" not in given:
        return None
    effort = read(given["reasoning_effort"], _STRING, "reasoning_effort")
    if effort not in EFFORTS and effort != "none":
        raise InvalidRequest(
            f"reasoning_effort must be one of none, {', '.join(EFFORTS)}.",
            param="reasoning_effort",
        )
    return effort


def _thinking(given: Mapping[str, Raw]) -> bytes | None:
    return b'{"type":"disabled"}' if _effort(given) == "none" else None


def _stop_sequences(given: Mapping[str, Raw]) -> bytes | None:
    if "stop" not in given:
        return None
    raw = given["stop"]
    stops = [read(raw, _STRING, "stop")] if is_string(raw) else read(raw, _STRINGS, "stop")
    kept = [stop for stop in stops if stop.strip()]
    return _encode(kept) if kept else None


def _sampling(given: Mapping[str, Raw]) -> dict[str, Raw | bytes]:
    """Give the one sampling parameter that differs from the default; models take no two."""
    for name in ("temperature", "top_p"):
        value = read(given[name], _NUMBER, name) if name in given else _DEFAULT_SAMPLING
        if value < _DEFAULT_SAMPLING:
            return {name: given[name]}
    return {}
