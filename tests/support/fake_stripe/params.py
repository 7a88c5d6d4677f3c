"""Requests held to the types that the SDK ships for them.

`stripe.params` has one TypedDict for the parameters of each call, made from the API
description of the SDK's pinned version.
"""

import re
import types
import typing
from decimal import Decimal
from functools import cache

from stripe._request_options import RequestOptions

_MORE_NAMES = {"StripeContext": str, "Mapping": typing.Mapping}
_OPTIONS = frozenset(RequestOptions.__annotations__)
_ON_THE_WIRE = {
    str: ".*",
    int: r"-?\d+",
    bool: "true|false",
    float: r"-?\d+(\.\d+)?",
    Decimal: r"-?\d+(\.\d+)?",
}


def violations(value, hint, at="", *, wire=True):
    """Give one line for each way in which `value` is not a `hint`.

    On the wire all leaves are strings; otherwise they must be of the very type. Enums, which
    the SDK leaves open, are closed here.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "__required_keys__"):
        yield from _in_record(value, hint, at, wire)
    elif origin in {typing.Union, types.UnionType}:
        yield from _in_union(value, args, at, wire)
    elif origin is typing.Literal:
        if value not in args:
            yield f"{at}: {value!r} is none of {', '.join(map(repr, args))}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{at}: {value!r} is not a list"
        for index, each in enumerate(value if isinstance(value, list) else ()):
            yield from violations(each, args[0], f"{at}[{index}]", wire=wire)
    elif args:  # Dict[str, X] and UntypedStripeObject[X]
        if not isinstance(value, dict):
            yield f"{at}: {value!r} is not an object"
        for name, each in value.items() if isinstance(value, dict) else ():
            yield from violations(each, args[-1], _inside(at, name), wire=wire)
    elif not _is_leaf(value, hint, wire):
        yield f"{at}: {value!r} is not {hint.__name__}"


def _in_record(value, hint, at, wire):
    if not isinstance(value, dict):
        yield f"{at}: {value!r} is not an object"
        return
    known = _fields(hint)
    for name in value.keys() - known.keys():
        yield f"{_inside(at, name)}: unknown parameter"
    for name, (inner, is_required) in known.items():
        if name in value:
            yield from violations(value[name], inner, _inside(at, name), wire=wire)
        elif is_required:
            yield f"{_inside(at, name)}: missing"


def _in_union(value, choices, at, wire):
    """Report what is wrong with the choice that comes nearest."""
    if any(_is_enum(choice) for choice in choices):
        choices = [choice for choice in choices if choice is not str]
    found = [list(violations(value, choice, at, wire=wire)) for choice in choices]
    if [] not in found:
        yield from max(found, key=lambda lines: max(line.count(".") for line in lines))


def _is_enum(hint):
    return typing.get_origin(hint) is typing.Literal and hint != typing.Literal[""]


def _is_leaf(value, hint, wire):
    if not wire:
        return type(value) is hint
    return isinstance(value, str) and bool(re.fullmatch(_ON_THE_WIRE[hint], value, re.DOTALL))


def _inside(at, name):
    return f"{at}.{name}" if at else str(name)


@cache
def _fields(hint):
    """Give the type of each field, and whether it is required, by its name."""
    hints = typing.get_type_hints(hint, localns=_MORE_NAMES, include_extras=True)
    fields = {}
    for name, inner in hints.items():
        is_optional = typing.get_origin(inner) is typing.NotRequired
        if name not in _OPTIONS:
            fields[name] = (
                typing.get_args(inner)[0] if is_optional else inner,
                not is_optional,
            )
    return fields
