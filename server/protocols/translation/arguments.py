"""A tool call's arguments: whatever text a model made of them, a JSON object for the client."""

import json
import re
from typing import NamedTuple

import msgspec
from msgspec import Raw

LONGEST_TOKEN = 1000  # what has waited for its end for longer than that does not fit
DEEPEST = 500  # what is nested more deeply can be read neither by clients nor when it comes back
UNFIT = "invalid_arguments"


def whole(text: str) -> str:
    """Give `text` as a JSON object; one that is none becomes a member, under `UNFIT`.

    No arguments at all are an empty object. What stands behind an object is left out.
    """
    if _is_object(text):
        return text
    arguments = Arguments()
    taken = arguments.take(text)
    return taken if arguments.is_complete else _wrapped(text)


class Arguments:
    """The arguments of one tool call while they come in pieces.

    What `take` gives, and then `close`, is together always a JSON object. Arguments that are
    torn or broken are closed where they stopped to be JSON, and what did not fit stands under
    `UNFIT`: no tool's schema knows that member, so half a call is refused and not carried out.
    """

    __slots__ = ("_closers", "_rest", "_state", "_unfit")

    def __init__(self) -> None:
        self._state = _START
        self._closers: list[str] = []
        self._rest = ""
        self._unfit: list[str] = []

    @property
    def has_begun(self) -> bool:
        """Tell whether any of them has come."""
        return self._state is not _START or bool(self.rest)

    @property
    def is_complete(self) -> bool:
        """Tell whether the object has come to its end."""
        return self._state is _DONE

    @property
    def rest(self) -> str:
        """What has come and was not given: the beginning of a token, or what does not fit."""
        return self._rest + "".join(self._unfit)

    def take(self, text: str) -> str:
        """Give what goes on with the object; a token that may not be whole yet is kept back."""
        if self._unfit or self._state is _DONE:
            self._unfit.append(text)
            return ""
        text, at = self._rest + text, 0
        if self._state is _START and _is_object(text):
            self._state, self._rest = _DONE, ""
            return text
        while len(self._closers) <= DEEPEST and (found := self._state.pattern.match(text, at)):
            at = found.end()
            if not found[1]:
                break
            self._enter(found[1][-1])
        self._rest = text[at:]
        if len(self._rest) > LONGEST_TOKEN or len(self._closers) > DEEPEST:
            self._unfit.append("")
        return text[:at]

    def close(self) -> str:
        """Give what is missing to make an object of what was given."""
        if self._state is _DONE:
            return ""
        if self._state is _START:
            return _wrapped(self.rest)
        inner = self._state.tail + "".join(reversed(self._closers[1:]))
        comma = "" if self._state is _FIRST_NAME and len(self._closers) == 1 else ","
        return f"{inner}{comma}{_member(self.rest)}}}"

    def _enter(self, mark: str) -> None:
        """Move to what may follow `mark`, the last character of what was read."""
        match mark:
            case '"' if self._state in (_FIRST_NAME, _AFTER_MEMBER):
                self._state = _NAME
            case '"' if self._state is _NAME:
                self._state = _COLON
            case '"' if self._state is not _STRING:
                self._state = _STRING
            case ":" | ",":
                self._state = _VALUE
            case "{":
                self._closers.append("}")
                self._state = _FIRST_NAME
            case "[":
                self._closers.append("]")
                self._state = _FIRST_ITEM
            case _:
                if mark in "}]":
                    self._closers.pop()
                self._state = _AFTER[self._closers[-1]] if self._closers else _DONE


class _State(NamedTuple):
    """What may come next, as a pattern whose group ends with what decides; what would do."""

    pattern: re.Pattern[str]
    tail: str = ""


_SPACE = r"[ \t\n\r]*+"
_CHARACTERS = r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+'
_IN_STRING = _CHARACTERS + '("?)'
_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
# Only what follows tells that a number or a word is whole.
_WHOLE = rf"(?:true|false|null|{_NUMBER})(?=[ \t\n\r,}}\]])"
_STARTS = rf'["{{\[]|{_WHOLE}'
# Plain values that follow one another are read in one go: there may be a million of them.
_PLAIN = rf'(?:"{_CHARACTERS}"|\[\]|\{{\}}|{_WHOLE})'
_NEXT = rf"{_SPACE},{_SPACE}"

_START = _State(re.compile(_SPACE + r"(\{)"))
_FIRST_NAME = _State(re.compile(_SPACE + r'(["}])'))
_NAME = _State(re.compile(_IN_STRING), '":null')
_COLON = _State(re.compile(_SPACE + r"(:)"), ":null")
_VALUE = _State(re.compile(f"{_SPACE}({_STARTS})"), "null")
_STRING = _State(re.compile(_IN_STRING), '"')
_AFTER_MEMBER = _State(
    re.compile(
        rf'(?:{_NEXT}"{_CHARACTERS}"{_SPACE}:{_SPACE}{_PLAIN})*+(?:{_SPACE}(,{_SPACE}"|\}}))?+'
    )
)
_FIRST_ITEM = _State(re.compile(rf"{_SPACE}({_STARTS}|\])"))
_AFTER_ITEM = _State(re.compile(rf"(?:{_NEXT}{_PLAIN})*+(?:{_SPACE}([,\]]))?+"))
_DONE = _State(re.compile(r"(?!)"))
_AFTER = {"}": _AFTER_MEMBER, "]": _AFTER_ITEM}
_OBJECT = msgspec.json.Decoder(dict[str, Raw])


def _is_object(text: str) -> bool:
    try:
        _OBJECT.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _wrapped(text: str) -> str:
    return "{}" if text.strip() in ("", "null") else f"{{{_member(text)}}}"


def _member(unfit: str) -> str:
    return f'"{UNFIT}":{json.dumps(unfit)}'
