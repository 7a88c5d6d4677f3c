"""Ways in which a network may cut one and the same answer, and configs that route to it."""

import random

from support.raw_upstream import EVENTS, FIN, chunked

KEY = "sk-fake-upstream-key"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"


def both_protocols(messages_url: str, chat_url: str | None = None, *, headers: str = "{}") -> str:
    """Write a config whose one model `smart` has a target for each protocol."""
    return f"""
upstreams:
  messages: {{protocol: anthropic, base_url: "{messages_url}", api_key: "{KEY}", headers: {headers}}}
  chat: {{protocol: openai, base_url: "{chat_url or messages_url}", api_key: "{KEY}", headers: {headers}}}
models:
  smart:
    targets: [{{upstream: messages, model: upstream-model}}, {{upstream: chat, model: upstream-model}}]
    free: true
auto: {{default: smart}}
tiers: {{team: {{name: Team, price_cents: 2000}}}}
"""  # noqa: E501


def cuts(stream: bytes, seed: int = 1):
    """Give scripts that send `stream`, each cut another way, by the name of the way."""
    events = [piece + b"\n\n" for piece in stream.removesuffix(b"\n\n").split(b"\n\n")]
    randomly = random.Random(seed)
    return {
        "whole": [EVENTS, chunked(stream)],
        "by event": _paused(events, 0.001),
        "glued with the head": [EVENTS + chunked(stream)],
        "inside characters": _paused(_inside_characters(stream), 0.002),
        "between the line ends": _paused(_between_line_ends(stream), 0.001),
        "byte by byte": _paused([stream[at : at + 1] for at in range(len(stream))], 0.0005),
        "at random": _paused(_at_random(stream, randomly), 0.001),
        "at random again": _paused(_at_random(stream, randomly), 0),
        "with a length": [HEAD + b"content-length: %d\r\n\r\n" % len(stream) + stream],
        "until it closes": [HEAD + b"connection: close\r\n\r\n", stream, FIN],
        "chunks cut by packets": _packets(stream, randomly),
    }


def _paused(pieces, seconds):
    script = [EVENTS]
    for piece in pieces:
        script += (b"%x\r\n%b\r\n" % (len(piece), piece), seconds)
    return [*script, b"0\r\n\r\n"]


def _packets(stream, randomly):
    """Chunks of one size, in packets of another."""
    pieces = _at_random(stream, randomly)
    script = [EVENTS]
    for packet in _at_random(chunked(*pieces), randomly):
        script += (packet, 0.001)
    return script


def _inside_characters(stream):
    """Cut in front of every continuation byte of UTF-8."""
    places = [at for at, byte in enumerate(stream) if byte & 0xC0 == 0x80]
    return _cut(stream, places)


def _between_line_ends(stream):
    return _cut(stream, [at + 1 for at, byte in enumerate(stream) if byte in b"\r\n"])


def _at_random(stream, randomly):
    count = min(40, len(stream) // 4)
    return _cut(stream, sorted(randomly.sample(range(1, len(stream)), count)))


def _cut(stream, places):
    ends = [*(place for place in places if 0 < place < len(stream)), len(stream)]
    return [stream[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
