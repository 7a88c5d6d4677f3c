"""Undo a compression that we asked the provider not to use, without swallowing a bomb."""

import zlib
from typing import Any

from server.errors import UpstreamError

RATIO_LIMIT = 100
FREE_BYTES = 4 * 1024 * 1024  # inflated bytes below which any ratio passes


class Inflater:
    """Inflates a gzip or deflate body piece by piece.

    JSON and event streams shrink by 5 to 30 times; more than `RATIO_LIMIT` beyond the first
    `FREE_BYTES` is an attack, and ends the exchange before the memory is taken.
    """

    def __init__(self, encoding: bytes) -> None:
        self._is_known = encoding in (b"gzip", b"x-gzip", b"deflate")
        self._is_gzip = encoding != b"deflate"
        self._inflate: Any = None
        self._taken = self._given = 0

    def feed(self, data: bytes) -> bytes:
        """Give what `data` inflates to.

        Raises:
            UpstreamError: unknown encoding, damaged data, or more than the limits allow.
        """
        if not self._is_known:
            raise UpstreamError("The provider compressed its answer in a way nobody asked for.")
        if not data:
            return b""
        if self._inflate is None:
            self._inflate = zlib.decompressobj(wbits=31 if self._is_gzip else _deflate_wbits(data))
        self._taken += len(data)
        limit = max(FREE_BYTES, self._taken * RATIO_LIMIT) - self._given
        try:
            out: bytes = self._inflate.decompress(data, limit + 1)
        except zlib.error as exc:
            raise UpstreamError("The provider's compressed answer is damaged.") from exc
        if len(out) > limit:
            raise UpstreamError("The provider's answer inflates beyond all measure.")
        if self._inflate.unused_data:
            raise UpstreamError("The provider's compressed answer goes on behind its end.")
        self._given += len(out)
        return out

    @property
    def is_whole(self) -> bool:
        """Tell whether the compressed data ended where it says it ends."""
        return self._inflate is not None and bool(self._inflate.eof)


def _deflate_wbits(data: bytes) -> int:
    """Tell zlib's format, which `deflate` means, from the bare one that some servers send."""
    return 15 if data[0] & 0x0F == 8 else -15
