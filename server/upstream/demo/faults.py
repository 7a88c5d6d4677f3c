"""Failures on demand: a model named `fault:NAME` or `fault:NAME:ARGUMENT` fails that way."""

import asyncio
import math
from collections.abc import Awaitable, Callable

from server.upstream.demo import broken
from server.upstream.demo.call import Call

Fault = Callable[[Call], Awaitable[None]]

_PREFIX = "fault:"
_MEGABYTE = 1024 * 1024
_HTML = b"<!doctype html>\n<html><head><title>502</title></head><body>Bad gateway</body></html>\n"
_SENTENCE = "The demo upstream goes on and on. "


def find(model: str) -> tuple[Fault, str] | None:
    """Find the fault that `model` names, and its argument; None for a model that works.

    Raises:
        LookupError: it begins with `fault:` and names none.
    """
    if not model.startswith(_PREFIX):
        return None
    name, _, argument = model.removeprefix(_PREFIX).partition(":")
    if name not in _TABLE:
        raise LookupError(f"No fault is called {name!r}; there are {', '.join(_TABLE)}.")
    return _TABLE[name][1], argument


def _status(status: int, message: str) -> Fault:
    async def fail(call: Call) -> None:
        await call.error(status, message)

    return fail


async def _overloaded(call: Call) -> None:
    status = 529 if call.dialect.NAME == "anthropic" else 503
    await call.error(status, "Overloaded")


async def _html(call: Call) -> None:
    await call.exchange.respond(502, {"content-type": "text/html"}, _HTML)


async def _ratelimit(call: Call) -> None:
    after = {} if call.argument == "none" else {"retry-after": call.argument or "2"}
    await call.error(429, "This request would exceed the rate limit of the demo upstream.", after)


async def _unauthorized(call: Call) -> None:
    """Repeat the key that was sent, as real providers have done."""
    sent = call.exchange.request.headers
    secret = sent.get("x-api-key") or sent.get("authorization", "none")
    await call.error(401, f"Incorrect API key provided: {secret}")


async def _refuse(call: Call) -> None:
    call.exchange.close()


async def _reset(call: Call) -> None:
    call.exchange.reset()


async def _slow(call: Call) -> None:
    await asyncio.sleep(call.number(5))
    await call.complete()


async def _redirect(call: Call) -> None:
    own = call.exchange.request.headers.get("host", "127.0.0.1")
    host = f"127.0.0.1:{call.argument}" if call.argument else own
    await call.exchange.respond(302, {"location": f"http://{host}/redirected"})


async def _continue(call: Call) -> None:
    await call.exchange.raw(b"HTTP/1.1 100 Continue\r\n\r\n")
    await call.complete()


async def _error_first(call: Call) -> None:
    if not call.prompt.stream:
        await _overloaded(call)
        return
    await call.start()
    await call.send_event(call.dialect.error_event(529, "Overloaded"))
    await call.exchange.end()


async def _wrong_type(call: Call) -> None:
    await call.exchange.respond(200, {"content-type": "text/html; charset=utf-8"}, _HTML)


async def _big(call: Call) -> None:
    size = int(call.number(1) * _MEGABYTE)
    call.say((_SENTENCE * math.ceil(size / len(_SENTENCE)))[:size])
    await call.complete()


_TABLE: dict[str, tuple[str, Fault]] = {
    "overloaded": ("529 overloaded (503 on the OpenAI side)", _overloaded),
    "unavailable": ("503", _status(503, "Service unavailable")),
    "error": ("500", _status(500, "Internal server error")),
    "html": ("502 with an HTML page", _html),
    "ratelimit": ("429 with retry-after 2, or :SECONDS, or :none", _ratelimit),
    "unauthorized": ("401, repeating the key that was sent", _unauthorized),
    "forbidden": ("403", _status(403, "Your organization may not use this model.")),
    "notfound": ("404", _status(404, "model: no-such-model")),
    "badrequest": ("400", _status(400, "messages.0.content: Input should be a valid list")),
    "toolong": (
        "400 prompt is too long",
        _status(400, "prompt is too long: 250000 tokens > 200000 maximum"),
    ),
    "toolarge": ("413", _status(413, "Request exceeds the maximum size")),
    "timeout": ("408", _status(408, "Request timed out")),
    "refuse": ("closes without an answer", _refuse),
    "reset": ("resets the connection before an answer", _reset),
    "slow": ("5 s before the first byte, or :SECONDS", _slow),
    "stall": ("falls silent after the first events for 5 s, or :SECONDS, then ends", broken.stall),
    "cut": ("closes in the middle of an event", broken.cut),
    "cut-clean": ("ends between events, without the terminal one", broken.cut_clean),
    "rst-mid": ("resets the connection in the middle of an event", broken.rst_mid),
    "garbage": ("lines that are no events in the stream; invalid JSON otherwise", broken.garbage),
    "endless-line": ("one line that never ends", broken.endless_line),
    "endless": (
        "streams until the client goes, a word each 5 ms, or :MILLISECONDS",
        broken.endless,
    ),
    "gzip": ("compresses although nobody asked", broken.gzip),
    "gzipbomb": ("256 MB of blanks, compressed, or :MEGABYTES", broken.gzipbomb),
    "redirect": ("302 to /redirected here, or on another local :PORT", _redirect),
    "continue": ("100 Continue before the answer", _continue),
    "error-first": ("an error as the first event of the stream", _error_first),
    "error-mid": ("an error event after some content", broken.error_mid),
    "no-usage": ("answers without any usage", broken.no_usage),
    "weird-usage": (
        "counts that are no counts, or only :negative, :huge, :string, :float, :null, :bool",
        broken.weird_usage,
    ),
    "wrong-type": ("200 with an HTML page", _wrong_type),
    "short-length": (
        "a content-length that is 1,000 bytes too large, then closes",
        broken.short_length,
    ),
    "tiny": ("sends byte by byte, a pause of 1 ms between, or :MILLISECONDS", broken.tiny),
    "big": ("1 MB of text, or :MEGABYTES", _big),
    "silent-close": ("a 200 head, then closes", broken.silent_close),
}

FAULTS: dict[str, str] = {f"{_PREFIX}{name}": line for name, (line, _) in _TABLE.items()}
