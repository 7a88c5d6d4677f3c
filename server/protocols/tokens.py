"""Input tokens of a request, estimated without a tokenizer.

For count_tokens, for routing rules and for holds. Errs upward: a count that is too low makes a
coding tool compact too late, and a hold too small. How far off it is stands in docs/tokens.md.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw

from server.protocols.media_tokens import (
    Source,
    audio_tokens,
    document_tokens,
    image_tokens,
    source_of,
    tiled_image_tokens,
)
from server.protocols.text_tokens import Vocabulary, text_tokens, unescaped

# One user turn alone costs 7 tokens more than its text, with both vendors (Messages: the
# token-counting page's example; Chat: the cookbook's 3 for each turn, 1 for its role, 3 in all).
TOKENS_PER_REQUEST = 3
TOKENS_PER_TURN = 4
TOKENS_PER_PART = 8  # the tags around a tool's call, its result, a document
# What the provider itself says to a model about its tools: 313 to 346 tokens with the Claude 4
# models (tool use page, 2026-11).
TOOL_USE_PREAMBLE_TOKENS = 346

# Sealed thinking is base64 of at least what was thought, some four bytes to a token.
SEALED_CHARACTERS_PER_TOKEN = 5


def estimate_messages(fields: Mapping[str, Raw]) -> int:
    """Estimate the input tokens of a Messages request from its split body."""
    count = _Count(image_tokens)
    count.content(fields.get("system", _NOTHING))
    count.turns(fields.get("messages", _NOTHING))
    count.members(fields, ("tools", "tool_choice", "output_config"))
    return count.total(Vocabulary.CLAUDE) + (TOOL_USE_PREAMBLE_TOKENS if "tools" in fields else 0)


def estimate_chat(fields: Mapping[str, Raw]) -> int:
    """Estimate the input tokens of a Chat Completions request from its split body."""
    count = _Count(tiled_image_tokens)
    count.turns(fields.get("messages", _NOTHING))
    count.members(fields, ("tools", "tool_choice", "functions", "response_format"))
    return count.total(Vocabulary.O200K)


def estimate_text(text: str) -> int:
    """Estimate the tokens of plain text, a preset's for instance, as Claude counts them."""
    return text_tokens(text.encode("utf-8", "surrogatepass"), Vocabulary.CLAUDE)


_NOTHING = Raw(b"")
_ARRAY = msgspec.json.Decoder(list[dict[str, Raw]])
# Looking at each turn and part costs microseconds, reading text nanoseconds: a body that is all
# turns and no text counts as text after so many, and one nested on purpose after so many levels.
_MOST_LOOKS = 4000
_MOST_LEVELS = 4

_UNSAID = frozenset({"type", "role", "cache_control"})
_IMAGES = frozenset({"source", "image_url"})
_DOCUMENTS = frozenset({"source", "file"})
_HOLDS_MEDIA: Mapping[bytes, frozenset[str]] = {
    b'"image"': _IMAGES,
    b'"image_url"': _IMAGES,
    b'"document"': _DOCUMENTS,
    b'"file"': _DOCUMENTS,
    b'"input_audio"': frozenset({"input_audio"}),
}
_SEALED: Mapping[bytes, frozenset[str]] = {
    b'"thinking"': frozenset({"signature"}),
    b'"redacted_thinking"': frozenset({"data"}),
    b'"web_search_result"': frozenset({"encrypted_content"}),
}


@dataclass(slots=True)
class _Count:
    """Collects a request's text, to be estimated at once, and the tokens that it knows already."""

    count_image: Callable[[Source], int]
    texts: list[Raw | bytes] = field(default_factory=list)
    tokens: int = TOKENS_PER_REQUEST
    looks: int = _MOST_LOOKS

    def total(self, vocabulary: Vocabulary) -> int:
        return self.tokens + text_tokens(unescaped(b"\n".join(self.texts)), vocabulary)

    def members(self, fields: Mapping[str, Raw], names: Iterable[str]) -> None:
        self.texts += [fields[name] for name in names if name in fields]

    def turns(self, raw: Raw) -> None:
        for turn in self._array(raw):
            self.tokens += TOKENS_PER_TURN
            self._each(turn)

    def content(self, raw: Raw, levels: int = _MOST_LEVELS) -> None:
        """Count a string or parts; a tool's result and a document have parts of their own."""
        if levels and raw and memoryview(raw)[0] == ord("["):
            for part in self._array(raw):
                self._part(part, levels)
        elif raw:
            self.texts.append(_bare(raw))

    def _array(self, raw: Raw) -> list[dict[str, Raw]]:
        """Read an array of objects; one that is too long, or is none, counts as text."""
        try:
            found = _ARRAY.decode(raw) if raw and self.looks > 0 else None
        except ValueError:
            found = None  # not for us to refuse
        self.looks -= 0 if found is None else len(found)
        if found is None or self.looks < 0:
            self.texts.append(raw)
            return []
        return found

    def _part(self, part: Mapping[str, Raw], levels: int) -> None:
        kind = bytes(part.get("type", _NOTHING))
        if kind != b'"text"':
            self.tokens += TOKENS_PER_PART
        media, sealed = _HOLDS_MEDIA.get(kind, _NO_NAMES), _SEALED.get(kind, _NO_NAMES)
        for name, value in part.items():
            if name in media:
                self._media(kind, value, levels)
            elif name in sealed:
                hidden = len(value) - len(part.get("thinking", b""))
                self.tokens += max(0, hidden) // SEALED_CHARACTERS_PER_TOKEN
            else:
                self._each({name: value}, levels - 1)

    def _each(self, members: Mapping[str, Raw], levels: int = _MOST_LEVELS) -> None:
        for name, value in members.items():
            if name == "content":
                self.content(value, levels)
            elif name not in _UNSAID:
                self.texts.append(_bare(value))

    def _media(self, kind: bytes, raw: Raw, levels: int) -> None:
        source = source_of(raw)
        if kind in (b'"image"', b'"image_url"'):
            self.tokens += self.count_image(source)
        elif kind == b'"input_audio"':
            self.tokens += audio_tokens(source)
        elif source.type == "content":
            self.content(source.content, levels - 1)
        elif source.type == "text":
            self.texts.append(raw)
        else:
            self.tokens += document_tokens(source)


_NO_NAMES: frozenset[str] = frozenset()


def _bare(raw: Raw) -> bytes:
    """Give a value as text: a string without its quotes, all else as it stands."""
    text = bytes(raw)
    return text[1:-1] if text.startswith(b'"') else text
