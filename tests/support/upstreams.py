"""Ways in which a network may cut one and the same answer, and configs that route to it."""

import random

from support.chunkings import chunkings, cut, paused
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
    randomly = random.Random(seed)
    return {
        **{name: paused(pieces) for name, pieces in chunkings(stream).items()},
        "whole": [EVENTS, chunked(stream)],
        "glued with the head": [EVENTS + chunked(stream)],
        "at random": paused(_at_random(stream, randomly), 0.001),
        "at random again": paused(_at_random(stream, randomly), 0),
        "with a length": [HEAD + b"content-length: %d\r\n\r\n" % len(stream) + stream],
        "until it closes": [HEAD + b"connection: close\r\n\r\n", stream, FIN],
        "chunks cut by packets": _packets(stream, randomly),
    }


def _packets(stream, randomly):
    """Chunks of one size, in packets of another."""
    pieces = _at_random(stream, randomly)
    script = [EVENTS]
    for packet in _at_random(chunked(*pieces), randomly):
        script += (packet, 0.001)
    return script


def _at_random(stream, randomly):
    count = min(40, len(stream) // 4)
    return cut(stream, sorted(randomly.sample(range(1, len(stream)), count)))
