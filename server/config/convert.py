"""From plain values to structs, with errors that know their exact key path."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from server.config.document import Document, KeyPath, Value
from server.errors import ConfigError
from server.secret import Secret

_S = TypeVar("_S", bound=msgspec.Struct)

_TEXT = "text, in quotes where it looks like a number"
_DESCRIPTIONS: dict[object, str] = {
    str: _TEXT,
    Secret: _TEXT,
    int: "a whole number",
    bool: "true or false",
    dict: "a mapping (`key: value` lines)",
    tuple: "a list",
}


def convert(document: Document, kind: type[_S]) -> _S:
    """Read `document` as a `kind`.

    Raises:
        ConfigError: the first part that does not fit, by its exact key path and line.
    """
    try:
        return msgspec.convert(document.value, kind, dec_hook=_as_secret)
    except msgspec.ValidationError as exc:
        # msgspec hides dict keys in its paths (`[...]`), so the part is looked for again.
        raise _locate(document, (), document.value, kind) from exc


def suggestion(name: str, choices: Iterable[str]) -> str:
    """Say `; did you mean …?` where something in `choices` is near `name`, else nothing."""
    near = get_close_matches(name, list(choices), n=3)
    return f"; did you mean {' or '.join(f'`{each}`' for each in near)}?" if near else ""


def _as_secret(kind: type, value: Any) -> Secret:
    if kind is not Secret or not isinstance(value, str):
        raise TypeError  # which msgspec makes a ValidationError
    return Secret(value)


def _locate(document: Document, path: KeyPath, value: Value, kind: Any) -> ConfigError:
    """Descend to the innermost part of `value` that does not convert, and say why."""
    if _is_struct(kind := _without_none(kind)) and isinstance(value, dict):
        known = {each.name: each for each in msgspec.structs.fields(kind)}
        unknown = [key for key in value if key not in known]
        if unknown:
            message = f"unknown key{suggestion(unknown[0], known)}"
            return document.error((*path, unknown[0]), message)
    for key, part, part_kind in _parts(value, kind):
        try:
            msgspec.convert(part, part_kind, dec_hook=_as_secret)
        except msgspec.ValidationError:
            return _locate(document, (*path, key), part, part_kind)
    return document.error(path, _complaint(value, kind))


def _parts(value: Value, kind: Any) -> Iterator[tuple[str | int, Value, Any]]:
    """List the children of `value`, each with the kind that it has to be."""
    if isinstance(value, dict) and _is_struct(kind):
        for each in msgspec.structs.fields(kind):
            if each.name in value:
                yield each.name, value[each.name], each.type
    elif isinstance(value, dict) and get_origin(kind) is dict:
        for key, part in value.items():
            yield key, part, get_args(kind)[1]
    elif isinstance(value, list) and get_origin(_bare(kind)) is tuple:
        for at, part in enumerate(value):
            yield at, part, get_args(_bare(kind))[0]


def _complaint(value: Value, kind: Any) -> str:
    if isinstance(value, dict) and _is_struct(kind):
        fields = msgspec.structs.fields(kind)
        missing = next(each.name for each in fields if each.required and each.name not in value)
        return f"the key `{missing}` is missing"
    if value is None:
        return f"is empty; it must be {_description(kind)}, or the key left out"
    # The value itself is never repeated: it may be a secret in the wrong place.
    return f"must be {_description(kind)}"


def _description(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return next(str(each.description) for each in kind.__metadata__)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(kind))
    return _DESCRIPTIONS[dict if _is_struct(kind) else get_origin(kind) or kind]


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _bare(kind: Any) -> Any:
    return kind.__origin__ if get_origin(kind) is Annotated else kind


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(each for each in get_args(kind) if each is not type(None))
