"""A YAML file as plain values, each with the line it stands on."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import yaml

from server.errors import ConfigError

KeyPath = tuple[str | int, ...]
Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 32
_MAX_VALUES = 20_000

# YAML 1.2's core schema: `on` and `no` stay words, `1:30` and `010` stay text.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and where it says it; `digest` is the SHA-256 of its bytes."""

    file: Path
    value: Value
    lines: Mapping[KeyPath, int]
    digest: str = ""

    def error(self, path: KeyPath, message: str) -> ConfigError:
        """Make the error about the value at `path`; a missing key takes its parent's line."""
        return ConfigError(message, file=self.file, key=dotted(path), line=self._line(path))

    def _line(self, path: KeyPath) -> int:
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]


def dotted(path: KeyPath) -> str:
    """Print a key path: `models.smart.targets[0].model`, `aliases."claude-*"`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = part if _PLAIN_KEY.fullmatch(part) else f'"{part}"'
            text += f".{shown}" if text else shown
    return text


def read(file: Path) -> Document:
    """Read the YAML file `file`.

    Raises:
        ConfigError: it cannot be read, or `parse` refuses it.
    """
    try:
        with open(file, "rb", opener=_open_at_once) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError("is not a regular file", file=file)
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=file) from exc
    if len(raw) > _MAX_BYTES:
        raise ConfigError("is larger than 1 MiB", file=file)
    try:
        text = raw.decode()
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise ConfigError("is not UTF-8", file=file, line=line) from exc
    return replace(parse(text, file), digest=sha256(raw).hexdigest())


def _open_at_once(file: str, flags: int) -> int:
    # A pipe would be waited for until somebody writes into it, and no file were looked at again.
    return os.open(file, flags | os.O_NONBLOCK)


def parse(text: str, file: Path) -> Document:
    """Turn YAML text into plain values; `file` is what errors name.

    Only what plain settings need: one document, text keys, no tags. Nothing is executed, and
    aliases cannot multiply into a large document.

    Raises:
        ConfigError: the text is not YAML, is empty, or uses more of YAML than that.
    """
    root = _compose(text, file)
    if root is None:
        raise ConfigError("is empty", file=file, line=1)
    reader = _Reader(file)
    value = reader.read(root, ())
    return Document(file, value, reader.lines)


def _compose(text: str, file: Path) -> yaml.Node | None:
    try:
        loader = yaml.BaseLoader(text)
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigError("contains a control character", file=file, line=line) from exc
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(_syntax(exc), file=file, line=line) from exc
    except (RecursionError, ValueError, OverflowError) as exc:
        # PyYAML lets these escape: too deep a nesting, or an escape beyond Unicode.
        raise ConfigError("is not YAML that can be read", file=file, line=loader.line + 1) from exc


def _syntax(exc: yaml.MarkedYAMLError) -> str:
    problem = exc.problem or "cannot be read"
    if "'\\t'" in problem:
        return "is indented with a tab; use spaces"
    if "but found another document" in problem:
        return "holds more than one document (`---`); keep one"
    context = f"{exc.context}, " if exc.context else ""
    return f"is not valid YAML: {context}{problem}"


@dataclass(slots=True)
class _Reader:
    """Walks YAML nodes once, noting the line of each value under its key path."""

    file: Path
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def read(self, node: yaml.Node, path: KeyPath) -> Value:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if len(path) > _MAX_DEPTH:
            raise self._error("is nested too deeply", path, line)
        if len(self.lines) > _MAX_VALUES:
            raise self._error("has too many values (do its aliases multiply?)", path, line)
        if node.tag not in _TAGS:
            raise self._error("has a YAML tag (`!…`), which is not supported", path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, at)) for at, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> Value:
        result: dict[str, Value] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str) or key_node.tag not in _TAGS:
                raise self._error("has a key that is not text; put it in quotes", path, line)
            here = (*path, key)
            if key in result:
                raise self._error(f"is given twice, first on line {self.lines[here]}", here, line)
            self.lines[here] = line
            result[key] = self.read(value_node, here)
        return result

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Value:
        text: str = node.value
        if _CONTROL.search(text):
            line = node.start_mark.line + 1
            raise self._error("contains a control character", path, line)
        if isinstance(node, yaml.ScalarNode) and node.style is not None:
            return text
        if text in _NULL:
            return None
        if _INT.fullmatch(text):
            return int(text)
        return float(text) if _FLOAT.fullmatch(text) else _BOOL.get(text, text)

    def _error(self, message: str, path: KeyPath, line: int) -> ConfigError:
        return ConfigError(message, file=self.file, key=dotted(path), line=line)
