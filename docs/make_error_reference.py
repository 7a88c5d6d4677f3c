"""Write docs/errors.md from the error classes: `python docs/make_error_reference.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.errors import GatewayError, UpstreamRefused
from server.protocols import Protocol, envelopes

TARGET = Path(__file__).with_name("errors.md")

_HEAD = """\
# Errors

Written by `docs/make_error_reference.py` from the code; a test keeps it current.

A failure comes in the envelope of the protocol that was spoken.
Paths with `/messages`, and unknown ones under a tool prefix, answer as Anthropic does.
Paths with `/chat/completions`, `/tenant`, `/pricing` and all others answer as OpenAI does.
`/models` goes by whether `anthropic-version` was sent.

```json
{"type": "error", "error": {"type": "not_found_error", "message": "…"}, "request_id": "req_…"}
```

```json
{"error": {"message": "…", "type": "server_error", "param": null, "code": "upstream_error"}}
```

Every answer carries `request-id` and `x-request-id`, both ours.
The log and the usage row have the same id.
Where `retry` says no, `x-should-retry: false` goes with the answer; most clients obey it.
Once a stream has begun, its 200 cannot be taken back: the error is then an event of the protocol.

"""
_TAIL = """
A provider's own 400, 413 and 429 keep their status, wording and details.
Clients match the wording to recover.
Its 401, 402, 403, 404, other 5xx and pages of HTML become `upstream_error`.
Its 408 and 504 become `upstream_timeout`, its 503 and 529 `overloaded`.
To OpenAI's clients `overloaded` is a 503.
"""
_COLUMNS = ("status", "code", "Anthropic `type`", "OpenAI `type`", "retry", "when")


def render() -> str:
    """Give the whole page."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *sorted(_rows(), key=lambda row: row[:2])]
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows) + _TAIL


def _rows() -> Iterator[tuple[str, ...]]:
    for kind in _tree(GatewayError):
        if "code" not in vars(kind) and kind.__name__ != "Internal":
            continue  # shares the row of its parent
        err = kind("")
        anthropic: dict[str, Any] = envelopes.anthropic(err, "")["error"]
        openai: dict[str, Any] = envelopes.openai(err)["error"]
        may_retry = "x-should-retry" not in envelopes.headers(err, "")
        yield (
            str(envelopes.status_for(err, Protocol.ANTHROPIC)),
            f"`{err.code}`",
            anthropic["type"],
            openai["type"],
            "yes" if may_retry else "no",
            (kind.__doc__ or "").splitlines()[0],
        )


def _tree(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    for child in kind.__subclasses__():
        # Not the provider's own refusals, nor what a test has added to the tree.
        if child is not UpstreamRefused and child.__module__ == GatewayError.__module__:
            yield child
            yield from _tree(child)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
