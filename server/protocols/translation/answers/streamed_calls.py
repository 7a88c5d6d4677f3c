"""The tool calls of a Chat stream: which of them each fragment belongs to."""

from server.protocols.translation.answers.chat_answers import ToolCall
from server.protocols.translation.arguments import Arguments, whole


class Call:
    """One tool call, as far as it has come."""

    __slots__ = ("_has_given", "_ready", "arguments", "ident", "index", "name")

    def __init__(self, index: bytes) -> None:
        self.index = index
        self.ident = ""
        self.name = ""
        self.arguments = Arguments()
        self._ready = ""
        self._has_given = False

    @property
    def is_known(self) -> bool:
        """Tell whether it can be begun; an id may come late, but not behind the arguments."""
        return self.name != "" and (self.ident != "" or self.arguments.has_begun)

    @property
    def is_torn(self) -> bool:
        """Tell whether its arguments have begun and not ended."""
        return self.arguments.has_begun and not self.arguments.is_complete

    def take(self, fragment: ToolCall, ident: str, name: str) -> None:
        """Add a fragment; id and name count once."""
        self.ident = self.ident or ident
        self.name = self.name or name
        if text := fragment.arguments:
            self._ready += self.arguments.take(text)

    def drain(self) -> str:
        """Give what is ready, once."""
        ready, self._ready = self._ready, ""
        self._has_given = self._has_given or ready != ""
        return ready

    def end(self) -> str:
        """Give the rest, so that it makes an object together with what was given."""
        if self._has_given:
            return self.drain() + self.arguments.close()
        return whole(self._ready + self.arguments.rest)


class StreamedCalls:
    """The calls of one stream, told apart by their indices as far as servers keep to them.

    Some leave the index out or send 0 with every call; some leave the id out, send it with every
    fragment, or a new one with each; some repeat the name.
    """

    def __init__(self) -> None:
        # The last call of each index, and of each id in it; null is the index of any call.
        self._at: dict[bytes, Call] = {}
        self._named: dict[tuple[bytes, str], Call] = {}

    def take(self, fragment: ToolCall) -> tuple[Call, bool]:
        """Add a fragment to its call; give the call and whether it is a new one."""
        ident, name, index = fragment.ident, fragment.name, bytes(fragment.index)
        call = self._find(index, ident, name)
        is_new = call is None
        if call is None:
            call = self._at[index] = self._at[_ANY] = Call(index)
        call.take(fragment, ident, name)
        if call.ident:
            self._named[call.index, call.ident] = self._named[_ANY, call.ident] = call
        return call, is_new

    def _find(self, index: bytes, ident: str, name: str) -> Call | None:
        """Find the call that a fragment goes on with; None: it begins one."""
        known = self._named.get((index, ident))
        last = known or self._at.get(index)
        if last is None or not name or not last.name:
            return last
        if known is not None:
            begins = name != last.name and not last.is_torn
        elif ident and last.ident:
            begins = name != last.name or not last.is_torn
        else:
            begins = last.arguments.is_complete or (index == _ANY and name != last.name)
        return None if begins else last


_ANY = b"null"
