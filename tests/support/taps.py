"""What a gateway of this process gave its clients: every whole stream is held to the rules."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanic import Sanic
from support.responses_rules import check_responses_stream
from support.validators import BrokenStreamError, check_chat_stream, check_messages_stream

MOST_BYTES = 256 * 1024
CHECKS = {
    "anthropic": check_messages_stream,
    "openai": check_chat_stream,
    "responses": check_responses_stream,
}
DEMO = ("demo-", "fault:")
# What the demo upstream breaks inside of its events goes on as it is.
BREAKS_EVENTS = ("fault:garbage", "fault:no-usage", "fault:weird-usage")


@dataclass
class Given:
    """A stream as it was given to a client, as far as it is kept."""

    request_id: str
    kept: bytearray = field(default_factory=bytearray)
    is_whole: bool = False


def tap(gateway: Any) -> list[Given]:
    """Keep the streams that `gateway`, just started, will give; they come into the list."""
    app, given = Sanic.get_app(f"gatewayctl-{id(gateway.services):x}"), []

    def keep(_, response):
        if "text/event-stream" in (response.content_type or ""):
            given.append(stream := Given(response.headers["request-id"]))
            response.stream = _Tap(response.stream, stream)

    with app.amend():
        app.register_middleware(keep, "response")
    return given


class _Tap:
    """Sanic's side of an answer, and a copy of what is sent there."""

    def __init__(self, stream, given):
        self._stream, self._given = stream, given

    def __getattr__(self, name):
        return getattr(self._stream, name)

    @property
    def send(self):
        return self._send if self._stream.send is not None else None

    async def _send(self, data, end_stream):
        await self._stream.send(data, end_stream=end_stream)
        if len(self._given.kept) <= MOST_BYTES:
            self._given.kept += data
            self._given.is_whole = end_stream


def check_streams(given: list[Given], folder: Path, config: Any) -> None:
    """Check each whole stream that is the gateway's own work, or began as a sound upstream's.

    What a scripted upstream says to a client of its own protocol goes on as it is.
    """
    rows = _rows(folder) if given else {}
    for stream in given:
        row = rows.get(stream.request_id)
        if stream.is_whole and row and _must_be_sound(row, config):
            try:
                CHECKS[row["protocol"]](bytes(stream.kept))
            except BrokenStreamError as exc:
                exc.add_note(f"in the answer of {row['upstream_model']} to {row['protocol']}")
                raise


def _must_be_sound(row, config):
    spoken = config.upstreams[row["upstream"]].protocol
    is_relayed = spoken in (row["protocol"], "demo")
    model = row["upstream_model"]
    return not is_relayed or (model.startswith(DEMO) and not model.startswith(BREAKS_EVENTS))


def _rows(folder):
    with closing(sqlite3.connect(folder / "gateway.db")) as connection:
        connection.row_factory = sqlite3.Row
        found = connection.execute(
            "SELECT request_id, protocol, upstream, upstream_model FROM request"
        )
        return {row["request_id"]: row for row in found}
