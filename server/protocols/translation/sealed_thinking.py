"""Signed thinking on its way through a Responses client, which hands it back unread.

The Responses protocol has one opaque text for it, `encrypted_content`. Ours holds the
`reasoning_details` of a Chat answer behind a mark of our own.
"""

import base64
import binascii
from collections.abc import Sequence

import msgspec
from msgspec import Raw

MARK = "gateway-reasoning-1."


def seal(details: Sequence[object]) -> str:
    """Give reasoning details as one text."""
    return MARK + base64.b64encode(msgspec.json.encode(details)).decode()


def unseal(text: str) -> list[Raw]:
    """Give the details in a text that `seal` made; none of another provider's, or a torn one."""
    if not text.startswith(MARK):
        return []
    try:
        sealed = base64.b64decode(text.removeprefix(MARK), validate=True)
        sealed.decode()
        details = _DETAILS.decode(sealed)
    except (binascii.Error, ValueError, RecursionError):
        return []
    return [Raw(msgspec.json.encode(detail)) for detail in details]


_DETAILS = msgspec.json.Decoder(list[dict[str, Raw]])
