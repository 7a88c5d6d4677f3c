"""What a gateway may change of a Messages request: read without the gateway's own reader."""

import json

import msgspec
from support.tee import Seen

RAW = dict[str, msgspec.Raw]
MARK = "cache_control"
MOST_MARKS = 4


def raw_fields(body: bytes) -> dict[str, bytes]:
    """Split a JSON object at its top level; the values stay as they were sent."""
    return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=RAW).items()}


def raw_items(array: bytes) -> list[bytes]:
    return [bytes(raw) for raw in msgspec.json.decode(array, type=list[msgspec.Raw])]


def count_marks(value) -> int:
    """Count the cache breakpoints anywhere in a request."""
    if isinstance(value, dict):
        return (MARK in value) + sum(map(count_marks, value.values()))
    return sum(map(count_marks, value)) if isinstance(value, list) else 0


def check_spliced(sent: Seen, left: Seen, text: str) -> None:
    """Check that `left` is `sent` with the preset `text` as its last system block, marked.

    Where the client marked a system block, the last such mark moved, as it is; all else but the
    model's name is the same, byte for byte.
    """
    before, after = raw_fields(sent.body), raw_fields(left.body)
    assert list(before) == list(after)
    assert without(before, "system", "model") == without(after, "system", "model")
    given = raw_items(before["system"])
    marked = [at for at, block in enumerate(given) if MARK in json.loads(block)]
    mark = b'{"type":"ephemeral"}'
    if marked:
        mark = raw_fields(given[marked[-1]])[MARK]
        member = b',"cache_control":' + mark
        assert given[marked[-1]].count(member) == 1
        given[marked[-1]] = given[marked[-1]].replace(member, b"")
    *blocks, preset = raw_items(after["system"])
    assert blocks == given
    assert json.loads(preset) == {"type": "text", "text": text, MARK: json.loads(mark)}
    marks = count_marks(json.loads(left.body))
    assert marks == count_marks(json.loads(sent.body)) + (0 if marked else 1)
    assert marks <= MOST_MARKS


def check_headers(sent: Seen, left: Seen, *, secret: str, upstream_key: str) -> None:
    """Check that the upstream got the client's protocol headers and the gateway's own key."""
    for name in ("anthropic-version", "anthropic-beta"):
        assert left.headers.get(name) == sent.headers.get(name)
    assert left.headers["x-api-key"] == upstream_key
    assert "authorization" not in left.headers
    assert secret not in json.dumps(left.headers)
    assert secret.encode() not in left.body


def without(fields: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: raw for name, raw in fields.items() if name not in names}
