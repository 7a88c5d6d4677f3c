"""What a key's secret looks like, and the random ids of keys and tenants.

A secret is `gwk_`, 43 base62 digits (256 random bits) and 6 more: the CRC-32 of all before it.
The checksum refuses a mistyped secret without a look at the database, and lets a scanner tell
a leaked one from noise. It protects nothing.
"""

import hashlib
import re
import secrets
import zlib
from collections.abc import Callable

PREFIX = "gwk_"

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_BYTES, _RANDOM_WIDTH = 32, 43
_CHECKSUM_WIDTH = 6
_ID_BYTES, _ID_WIDTH = 16, 22
_SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM_WIDTH + _CHECKSUM_WIDTH}}}")


def generate(randbytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Make a new secret; it is shown once and never stored."""
    body = PREFIX + _base62(int.from_bytes(randbytes(_RANDOM_BYTES)), _RANDOM_WIDTH)
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Whether `text` could be a secret of ours: its shape and its checksum."""
    if not _SHAPE.fullmatch(text):
        return False
    return text[-_CHECKSUM_WIDTH:] == _checksum(text[:-_CHECKSUM_WIDTH])


def digest(secret: str) -> str:
    """Give the SHA-256 of a secret, the only trace of it that is stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_id(prefix: str, randbytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """Make a public id of 128 random bits, such as `key_…`."""
    return prefix + _base62(int.from_bytes(randbytes(_ID_BYTES)), _ID_WIDTH)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_WIDTH)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
