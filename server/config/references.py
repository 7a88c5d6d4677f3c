"""References to secrets: `${ENV}` or `file:PATH`, looked up only where a secret is used."""

import re
from collections.abc import Mapping
from pathlib import Path

from server.errors import ConfigError
from server.secret import Secret

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UNFIT = re.compile(r"[^\x20-\x7e]")
_FILE = "file:"


def resolve_reference(
    reference: Secret | None, *, environ: Mapping[str, str], folder: Path
) -> Secret | None:
    """Look up `reference`: text with `${ENV}` in it, `file:PATH` from `folder`, or a literal.

    None where it resolves to nothing: a variable that is unset or empty, a missing or empty file.

    Raises:
        ConfigError: the file is there but cannot be read, or no header can carry the secret.
    """
    if not reference:
        return None
    value = reference.reveal()
    if not all(environ.get(name) for name in variables(value)):
        return None
    secret = _VARIABLE.sub(lambda match: environ[match[1]], value)
    if value.startswith(_FILE):
        secret = _read(folder / secret.removeprefix(_FILE))
    if _UNFIT.search(secret):
        # It would split a request header in two, or could not be sent at all: an editor's mark at
        # the beginning of a file, or a dash that was typeset.
        shown = value if is_reference(value) else "a secret"
        raise ConfigError(f"{shown} has a line break, a control character or one beyond ASCII")
    return Secret(secret) if secret else None


def variables(value: str) -> list[str]:
    """Name the environment variables that `value` refers to."""
    return _VARIABLE.findall(value)


def has_reference(value: str) -> bool:
    """Tell whether (a part of) `value` is looked up elsewhere."""
    return value.startswith(_FILE) or _VARIABLE.search(value) is not None


def is_reference(value: str) -> bool:
    """Tell whether `value` is nothing but a reference, so that showing it reveals nothing."""
    return value.startswith(_FILE) or _VARIABLE.fullmatch(value) is not None


def without_references(value: str, stand_in: str) -> str:
    """Put `stand_in` where `value` has references, so that the rest can be checked."""
    return _VARIABLE.sub(stand_in, value)


def is_malformed(value: str) -> bool:
    """Tell whether `value` looks like a reference but would be taken word for word."""
    return "${" in _VARIABLE.sub("", value)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=path) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError("is not UTF-8 text", file=path) from exc
