"""The bounded queue between a provider's callbacks and the client's handler."""

import asyncio
from collections import deque
from collections.abc import Callable

HIGH_BYTES = 128 * 1024
AT_ONCE_BYTES = 64 * 1024  # what a client that reads nothing has in front of it


class Handoff:
    """Pieces go in without waiting and come out joined; beyond `HIGH_BYTES` reading pauses.

    It goes on once all is out.

    Used on one event loop by one reader. `pause` and `resume` act on the provider's connection;
    `total_bytes` is what the reader was given, or will be. `is_discarding`: the reader has gone.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self.total_bytes = 0
        self._closed = self.is_discarding = False
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None
        self._paused = False
        self.pause: Callable[[], None] = _nothing
        self.resume: Callable[[], None] = _nothing

    @property
    def is_over(self) -> bool:
        """Tell whether the reader has had everything, and no error waits for it."""
        return self._closed and not self._pieces and self._error is None

    @property
    def is_full(self) -> bool:
        """Tell whether the provider is paused until the reader has caught up."""
        return self._paused

    def discard(self) -> None:
        """Drop what is queued and what will be: the reader has gone."""
        self.is_discarding = True
        self._pieces.clear()
        self._unblock()

    def put(self, piece: bytes) -> None:
        """Queue `piece` and wake the reader."""
        if self.is_discarding:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        self.total_bytes += len(piece)
        if self._size > HIGH_BYTES and not self._paused:
            self._paused = True
            self.pause()
        self._wake()

    def close(self, error: BaseException | None = None) -> None:
        """End the queue: after what is in it, the reader sees the end, or `error`."""
        if not self._closed:
            self._closed, self._error = True, error
            self._wake()

    async def get(self) -> bytes:
        """Wait for bytes and give those there are, at most `AT_ONCE_BYTES`; b"" is the end.

        Raises the error that the queue was closed with, once it is empty.
        """
        while not self._pieces:
            if self._closed:
                if self._error is not None:
                    raise self._error
                return b""
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if len(data) > AT_ONCE_BYTES:
            self._pieces.append(data[AT_ONCE_BYTES:])
            self._size = len(data) - AT_ONCE_BYTES
            return data[:AT_ONCE_BYTES]
        self._unblock()
        return data

    def _unblock(self) -> None:
        self._size = 0
        if self._paused:
            self._paused = False
            self.resume()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _nothing() -> None:
    """Stand in until a provider's connection is there."""
