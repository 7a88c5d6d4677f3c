"""JSON objects that come in parts, put together once all parts are there.

Values stay the text they are. What grows is kept in lists and joined once, so that the time is
linear in the bytes, however small the parts are.
"""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from msgspec import Raw

from server.protocols.body import join


class Shape(msgspec.Struct, frozen=True):
    """Which members of an object grow; of any other the last value counts.

    `joined` are strings, or arrays, put one behind the other. `inner` are objects, and `indexed`
    arrays of objects that bear an `index`.
    """

    joined: frozenset[str] = frozenset()
    inner: Mapping[str, "Shape"] = MappingProxyType({})
    indexed: Mapping[str, "Shape"] = MappingProxyType({})


class Growing:
    """An object, of which each part says more.

    Neither null nor an empty string takes the place of what was said before. Objects of no
    known shape are merged.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        self._shape = shape or Shape()
        self._members: dict[str, bytes | Joined | Growing | Indexed] = {}

    def merge(self, members: Mapping[str, Raw]) -> None:
        """Take another part.

        Raises:
            ValueError: a member that has a shape is of another.
            RecursionError: it is nested too deeply.
        """
        for name, value in members.items():
            self._take(name, bytes(value))

    def add(self, part: bytes) -> None:
        """Take another part, still to be read; null is none. Raises as `merge` does."""
        self.merge(_OBJECT.decode(part) or {})

    def value(self, name: str) -> bytes:
        """Give a member of no known shape; null where it never came."""
        member = self._members.get(name)
        return member if isinstance(member, bytes) else b"null"

    def inner(self, name: str) -> "Growing":
        """Give a member that is an object; an empty one where it never came."""
        member = self._members.get(name)
        return member if isinstance(member, Growing) else Growing()

    def indexed(self, name: str) -> "list[Growing]":
        """Give the objects of an array in the order of their indices."""
        member = self._members.get(name)
        return member.objects() if isinstance(member, Indexed) else []

    def written(self) -> dict[str, bytes]:
        """Give the members, each put together."""
        return {
            name: member if isinstance(member, bytes) else member.raw()
            for name, member in self._members.items()
        }

    def raw(self) -> bytes:
        """Give the object."""
        return join(self.written())

    def _take(self, name: str, value: bytes) -> None:
        member = self._members.get(name, b"null")
        if member == b"null":
            member = self._members[name] = self._begin(name, value)
        if not isinstance(member, bytes):
            member.add(value)
        elif value.startswith(b"{") and member.startswith(b"{"):
            self._members[name] = _merged(member, value)
        elif value not in (b"null", b'""'):
            self._members[name] = value

    def _begin(self, name: str, value: bytes) -> "bytes | Joined | Growing | Indexed":
        shape = self._shape
        if value == b"null":
            return value
        if name in shape.joined:
            return Joined()
        if name in shape.inner:
            return Growing(shape.inner[name])
        if name in shape.indexed:
            return Indexed(shape.indexed[name])
        return value


class Joined:
    """A string or an array that comes in parts; of both, the string counts. Else it is null."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._arrays: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Take another part."""
        if part.startswith(b'"'):
            self._texts.append(part[1:-1])
        elif part.startswith(b"["):
            self._arrays.append(part[1:-1].strip())

    def raw(self) -> bytes:
        """Give the whole."""
        if self._texts:
            return b'"%b"' % b"".join(self._texts)
        if self._arrays:
            return b"[%b]" % b",".join(filter(None, self._arrays))
        return b"null"


class Indexed:
    """An array of objects; each part of one bears its index."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._objects: list[tuple[int, Growing]] = []
        self._latest: dict[int, Growing] = {}

    def add(self, part: bytes) -> None:
        """Take parts of any of the objects; raises as `Growing.merge` does."""
        for members in _OBJECTS.decode(part) or []:
            index = _index(members)
            latest = self._latest.get(index)
            if latest is None or _is_another_call(latest, members):
                latest = self._latest[index] = Growing(self._shape)
                self._objects.append((index, latest))
            latest.merge(members)

    def objects(self) -> list[Growing]:
        """Give the objects in the order of their indices."""
        return [each for _, each in sorted(self._objects, key=lambda place: place[0])]

    def raw(self) -> bytes:
        """Give the array, without indices."""
        written = [each.written() for each in self.objects()]
        return b"[%b]" % b",".join([_without_index(members) for members in written])


_OBJECT = msgspec.json.Decoder(dict[str, Raw] | None)
_OBJECTS = msgspec.json.Decoder(list[dict[str, Raw]] | None)


def _merged(before: bytes, after: bytes) -> Growing:
    merged = Growing()
    merged.add(before)
    merged.add(after)
    return merged


def _index(members: Mapping[str, Raw]) -> int:
    text = bytes(members.get("index", b""))
    return int(text) if text.isdigit() else 0


def _without_index(members: dict[str, bytes]) -> bytes:
    members.pop("index", None)
    return join(members)


def _is_another_call(latest: Growing, members: Mapping[str, Raw]) -> bool:
    """Tell calls apart where a server gives each of them the index 0.

    Another id alone is not enough: some servers send a new one with every fragment.
    """
    ident = bytes(members.get("id", b"null"))
    if b"null" in (ident, latest.value("id")) or ident in (b'""', latest.value("id")):
        return False
    # Inside of arguments the quotation marks would be escaped.
    return b'"name"' in bytes(members.get("function", b""))
