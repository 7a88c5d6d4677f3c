"""The demo upstream's listener and its routes."""

import asyncio
import secrets
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from server import clock
from server.upstream.demo import chat, faults, messages
from server.upstream.demo.call import Call
from server.upstream.demo.dialect import Dialect, Stamp
from server.upstream.demo.journal import Entry, Journal
from server.upstream.demo.model import BadRequestError, Prompt, Reply, reply_to
from server.upstream.demo.usage import PrefixCache
from server.upstream.demo.wire import Connection, Exchange

_JSON = {"content-type": "application/json"}
_INFERENCE: dict[str, Dialect] = {"/messages": messages, "/chat/completions": chat}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How the demo upstream behaves; `seed` makes its ids repeat from start to start."""

    pace_words_per_s: float | None = None  # None: no delay
    journal: Path | None = None
    seed: str | None = None


class DemoServer:
    """A running demo upstream; `await close()` leaves neither sockets nor tasks behind."""

    def __init__(self, options: DemoOptions) -> None:
        self.journal = Journal(options.journal)
        self._pause_s = 1 / options.pace_words_per_s if options.pace_words_per_s else 0.0
        self._seed = options.seed or secrets.token_hex(8)
        self._numbers = count(1)
        self._cache = PrefixCache()
        self._connections: set[Connection] = set()
        self._listener: asyncio.Server | None = None
        self.host = ""
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL for both protocols, without `/v1`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def listen(self, host: str, port: int) -> None:
        """Accept connections on `host`; port 0 picks a free one."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            lambda: Connection(self._serve, self._connections), host, port
        )
        self.host, self.port = host, self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._listener is not None:
            self._listener.close()
        peers = [*self._connections]
        for peer in peers:
            peer.transport.abort()
        await asyncio.gather(*(peer.wait_closed() for peer in peers))
        if self._listener is not None:
            await self._listener.wait_closed()
        self.journal.close()

    async def _serve(self, exchange: Exchange) -> None:
        path = exchange.request.path
        if path == "/__log":
            entries = [entry.as_json() for entry in self.journal.entries]
            await exchange.respond(200, _JSON, msgspec.json.encode({"entries": entries}))
            return
        if path == "/__stats":
            stats = {"open": self.journal.open, "served": self.journal.served}
            await exchange.respond(200, _JSON, msgspec.json.encode(stats))
            return
        entry = self.journal.arrive(path, exchange.request.headers)
        entry.outcome = "client_gone"  # unless the answer comes to its end
        try:
            await self._route(exchange, entry)
        finally:
            entry.status, entry.bytes = exchange.status, exchange.bytes_sent
            self.journal.end(entry)

    async def _route(self, exchange: Exchange, entry: Entry) -> None:
        method, path = exchange.request.method, exchange.request.path.removeprefix("/v1")
        if method == "POST" and path in _INFERENCE:
            await self._infer(exchange, entry, _INFERENCE[path])
            return
        if method == "POST" and path == "/messages/count_tokens":
            await self._count_tokens(exchange, entry)
            return
        if method in ("GET", "HEAD") and path.split("/")[1:2] == ["models"]:
            await _models(exchange, path.removeprefix("/models").lstrip("/"))
        else:
            error = messages.error(404, "Not found", param=None, request_id="req_demo")
            await exchange.respond(404, _JSON, error)
        entry.outcome = "completed"

    async def _infer(self, exchange: Exchange, entry: Entry, dialect: Dialect) -> None:
        stamp = self._stamp()
        entry.upstream_request_id = f"req_{stamp.id}"
        call = await self._understand(exchange, entry, dialect, stamp)
        if call is None:
            return
        try:
            found = faults.find(call.prompt.model)
        except LookupError as exc:
            await call.error(404, str(exc), param="model")
            entry.outcome = "completed"
            return
        if found is None:
            await call.complete()
            return
        fault, call.argument = found
        await fault(call)
        if entry.outcome == "client_gone":
            entry.outcome = "fault"

    async def _understand(
        self, exchange: Exchange, entry: Entry, dialect: Dialect, stamp: Stamp
    ) -> Call | None:
        """Read the request and think of a reply; answer the error and give None if it is bad."""
        entry.protocol = dialect.NAME
        try:
            prompt, reply = self._think(_decode(exchange), entry, dialect, self._cache)
        except BadRequestError as exc:
            status = 413 if exchange.request.too_large else 400
            error = dialect.error(status, str(exc), param=exc.param, request_id=f"req_{stamp.id}")
            await exchange.respond(status, {**_JSON, **dialect.headers(stamp)}, error)
            entry.outcome = "completed"
            return None
        entry.model, entry.stream = prompt.model, prompt.stream
        return Call(exchange, entry, dialect, prompt, reply, stamp, self._pause_s)

    def _think(
        self, body: dict[str, Any], entry: Entry, dialect: Dialect, cache: PrefixCache
    ) -> tuple[Prompt, Reply]:
        try:
            prompt = dialect.read(body)
            usage, entry.prefix = dialect.measure(body, cache)
            reply = reply_to(prompt, usage, lambda: dialect.tool_call_id(self._stamp().id))
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
            # The demo reads with a light hand: what breaks that is a body of the wrong shape.
            raise BadRequestError("The request body does not fit the protocol.") from exc
        return prompt, reply

    async def _count_tokens(self, exchange: Exchange, entry: Entry) -> None:
        stamp, entry.protocol = self._stamp(), messages.NAME
        entry.upstream_request_id = f"req_{stamp.id}"
        headers = {**_JSON, **messages.headers(stamp)}
        try:
            prompt, reply = self._think(
                {**_decode(exchange), "max_tokens": 1}, entry, messages, PrefixCache()
            )
            entry.model = prompt.model
            counted = msgspec.json.encode({"input_tokens": reply.usage.prompt_tokens})
            await exchange.respond(200, headers, counted)
        except BadRequestError as exc:
            error = messages.error(400, str(exc), param=None, request_id=f"req_{stamp.id}")
            await exchange.respond(400, headers, error)
        entry.outcome = "completed"

    def _stamp(self) -> Stamp:
        ident = f"{self._seed}{next(self._numbers):08d}"
        return Stamp(ident, clock.to_ms(clock.now()) // 1000)


async def start(host: str, port: int, *, options: DemoOptions) -> DemoServer:
    """Start a demo upstream on the running event loop."""
    server = DemoServer(options)
    await server.listen(host, port)
    return server


def _decode(exchange: Exchange) -> dict[str, Any]:
    if exchange.request.too_large:
        raise BadRequestError("Request exceeds the maximum size")
    try:
        body = msgspec.json.decode(exchange.request.body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise BadRequestError("The request body is not valid JSON.") from exc
    if not isinstance(body, dict):
        raise BadRequestError("The request body is not a JSON object.")
    return body


async def _models(exchange: Exchange, wanted: str) -> None:
    if wanted:
        await exchange.respond(200, _JSON, msgspec.json.encode(_model(wanted)))
        return
    data = [_model(name) for name in ("demo", *faults.FAULTS)]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
    listed = {"object": "list", "data": data, "has_more": False, **ends}
    await exchange.respond(200, _JSON, msgspec.json.encode(listed))


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": 1_767_225_600,
        "created_at": "2026-01-01T00:00:00Z",
        "owned_by": "demo",
        "display_name": faults.FAULTS.get(name, "Demo"),
        "lifecycle": "active",
    }
