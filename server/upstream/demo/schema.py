"""The smallest JSON value that fits a JSON schema."""

from collections.abc import Mapping
from typing import Any

_TOO_DEEP = 12


def example(schema: Mapping[str, Any], known: Mapping[str, str] | None = None) -> Any:
    """Build a minimal value for `schema`.

    Required properties are filled, and so are those whose name is in `known` (compared without
    case and underscores): a known value becomes a list of one where a list is wanted. Covers
    what clients send: type, enum, const, default, properties, items, anyOf, allOf, `$ref`.
    """
    return _Builder(schema, known or {}).value(schema, "", 0)


def plain_name(name: str) -> str:
    """Fold `filePath` and `file_path` into one."""
    return name.replace("_", "").lower()


class _Builder:
    def __init__(self, root: Mapping[str, Any], known: Mapping[str, str]) -> None:
        self._root = root
        self._known = known

    def value(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        schema = self._resolve(schema)
        for fixed in ("const", "default"):
            if fixed in schema:
                return schema[fixed]
        if schema.get("enum"):
            wanted = self._known.get(name)
            return wanted if wanted in schema["enum"] else schema["enum"][0]
        if depth > _TOO_DEEP:
            return None
        return self._build(_type_of(schema), schema, name, depth)

    def _build(self, kind: str, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, name, depth)
        if kind == "string":
            return self._string(schema, name)
        return {"integer": _number(schema), "number": _number(schema), "boolean": True}.get(kind)

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(_TOO_DEEP):
            if isinstance(schema.get("$ref"), str):
                schema = self._follow(schema["$ref"])
            elif branches := (schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")):
                schema = {**branches[0], **{k: schema[k] for k in ("default",) if k in schema}}
            else:
                break
        return schema

    def _follow(self, reference: str) -> Mapping[str, Any]:
        found: Any = self._root
        for part in reference.removeprefix("#").strip("/").split("/"):
            found = found.get(part, {}) if part and isinstance(found, Mapping) else found
        return found if isinstance(found, Mapping) else {}

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = schema.get("required") or ()
        built: dict[str, Any] = {}
        for name, inner in properties.items():
            if name in required or plain_name(name) in self._known:
                built[name] = self.value(inner, plain_name(name), depth + 1)
        return built

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        items = self._resolve(schema.get("items") or {})
        inside = {plain_name(key) for key in items.get("properties") or {}}
        wanted = name in self._known or bool(inside & set(self._known))
        count = max(schema.get("minItems", 0), 1 if wanted else 0)
        return [self.value(items, name, depth + 1) for _ in range(count)]

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        text = self._known.get(name, "demo")
        text = text.ljust(schema.get("minLength", 0), ".")
        return text[: schema.get("maxLength", len(text))]


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if kind is None and "properties" in schema:
        kind = "object"
    return str(kind or "string")


def _number(schema: Mapping[str, Any]) -> int:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = schema.get("maximum", max(low, 1))
    return int(max(min(1, high), low + (1 if low == schema.get("exclusiveMinimum") else 0)))
