"""Names of tools as a Chat server takes them: 64 letters, digits, `_` and `-` at the most."""

import hashlib
import re

MAX_LENGTH = 64  # OpenAI's; the Messages API takes 128 (protocol facts, read 2026-11)
DIGEST_LENGTH = 12

_FIT = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_LENGTH}}}")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def is_fit(name: str) -> bool:
    """Tell whether a name can be sent as it is."""
    return _FIT.fullmatch(name) is not None


def shortened(name: str, identity: bytes) -> str:
    """Give a name that fits, another one for each `identity`, and the same one in every request."""
    digest = hashlib.sha256(identity).hexdigest()[:DIGEST_LENGTH]
    return f"{_UNFIT.sub('_', name)[: MAX_LENGTH - DIGEST_LENGTH - 1]}_{digest}"
