"""The tokens of a text, estimated from what its characters look like, without a tokenizer.

Tokenizers spend about one token on a usual word and more on what is rare: digits, changes of
case, punctuation, other scripts. So a text is rewritten with one letter for each kind of
character, what stands beside what is counted in that, and each count is worth so many tokens
(`token_weights.py`, fitted by `tests/data/tokens/fit.py`). Every step is one pass in C, and a
very long text is judged by blocks from all over it, so the event loop never waits for long.
"""

from enum import IntEnum

from server.protocols.token_weights import EACH_TEXT, KINDS, LETTERS, SPELLINGS

CHARACTERS_PER_TOKEN_AT_MOST = 8
READ_BYTES = 512 * 1024  # at most; 15 to 25 ms
BLOCK_BYTES = 4096


class Vocabulary(IntEnum):
    """Whose tokens are counted: the column of `token_weights.py`."""

    CLAUDE = 0
    O200K = 1


def text_tokens(text: bytes, vocabulary: Vocabulary) -> int:
    """Estimate the tokens of UTF-8 text; never more than its bytes."""
    if not text:
        return 0
    read = _blocks(text)
    weights = [row[vocabulary] for table in (KINDS, LETTERS, SPELLINGS) for row in table.values()]
    worth = sum(map(float.__mul__, weights, map(float, features(read))))
    # The weights know usual text only; what is far from it, on purpose perhaps, ends here.
    least = len(read.translate(None, _NOT_COUNTED)) // CHARACTERS_PER_TOKEN_AT_MOST + 1
    found = max(worth + EACH_TEXT[vocabulary], least) * len(text) / len(read)
    return min(round(found), len(text))


def features(text: bytes) -> list[int]:
    """Count in UTF-8 text what `token_weights.py` weighs, in its order."""
    kinds = text.translate(_KIND, _CONTINUATIONS)
    counts = [kinds.count(pattern) for pattern in KINDS]
    counts += [len(text.translate(None, _BYTES.translate(None, those))) for those in LETTERS]
    return counts + [text.count(spelling) for spelling in SPELLINGS]


def unescaped(raw: bytes) -> bytes:
    r"""Resolve the escapes in JSON, so that \u4e2d is a Chinese character and not six letters.

    The JSON around the strings stays as it is; it must be valid.
    """
    if b"\\" not in raw:
        return raw
    if b"\\/" in raw:
        # Python does not know this escape. The one before the slash may itself be escaped.
        raw = raw.replace(b"\\\\", _BACKSLASH).replace(b"\\/", b"/")
    if b"\\u" not in raw:
        text = raw.decode("unicode_escape").encode("latin-1")  # UTF-8 comes out as it went in
    else:
        if not raw.isascii():
            raw = raw.decode("utf-8", "replace").encode("ascii", "backslashreplace")
        text = raw.decode("unicode_escape").encode("utf-8", "surrogatepass")
    return text.replace(_BACKSLASH, b"\\")


def _blocks(text: bytes) -> bytes:
    """Give all of a text, or every second, third … block of a long one."""
    share = -(-len(text) // READ_BYTES)
    if share == 1:
        return text
    starts = range(0, len(text), BLOCK_BYTES * share)
    return b"".join([text[at : at + BLOCK_BYTES] for at in starts])


_BYTES = bytes(range(256))
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_NOT_COUNTED = _CONTINUATIONS + b" \t\r\n"
_BACKSLASH = b"\x1a"  # no JSON holds this byte


def _kinds() -> bytes:
    """Give the table from a character's first byte to the letter for its kind."""
    table = bytearray(b"." * 256)  # punctuation, and what is rare
    for letter, first, last in (
        ("a", ord("a"), ord("z")),
        ("A", ord("A"), ord("Z")),
        ("0", ord("0"), ord("9")),
        ("m", 0xC2, 0xC2),  # signs: § ° «
        ("e", 0xC3, 0xCA),  # Latin letters with accents
        ("g", 0xCB, 0xCF),  # Greek
        ("r", 0xD0, 0xD3),  # Cyrillic
        ("s", 0xD4, 0xE1),  # Hebrew, Arabic, the scripts of India, Thai
        ("m", 0xE2, 0xE2),  # dashes, arrows, boxes
        ("k", 0xE3, 0xE3),  # kana, Japanese punctuation
        ("h", 0xE4, 0xE9),  # Chinese
        ("o", 0xEA, 0xED),  # Korean, half surrogates
        ("w", 0xEE, 0xEF),  # wide forms
        ("x", 0xF0, 0xFF),  # emoji
    ):
        table[first : last + 1] = letter.encode() * (last + 1 - first)
    for letter, those in ((" ", b" "), ("n", b"\r\n"), ("t", b"\t"), ("_", b"_"),
                          ("q", b"\"'`"), ("b", b"()[]{}<>")):  # fmt: skip
        for byte in those:
            table[byte] = ord(letter)
    return bytes(table)


_KIND = _kinds()
