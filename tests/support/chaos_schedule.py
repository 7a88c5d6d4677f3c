"""What a seed decides: who asks for what and when, and what befalls the gateway meanwhile."""

import random
from dataclasses import dataclass
from typing import Literal

from support.across import PATHS
from support.faults import NAMES

Manner = Literal["read", "again", "twice", "hang_up", "half_sent", "crawl"]

ROOTS = {
    "pay_per_token": ("", "", "/claudecode", "/cursor", "/codex"),
    "subscription": ("/cline", "/roocode", "/codex", ""),  # the last is not for such keys
}
KEYS = {"paying": "pay_per_token", "subscribed": "subscription", "poor": "pay_per_token"}
SPARES = {f"spare-{number}": (*ROOTS,)[number % 2] for number in range(6)}  # not from the start
BILLING = {**KEYS, **SPARES, "unknown": "pay_per_token"}
AROUND = ("around-messages", "around-chat")  # one target limps, another is behind it
PLAIN = ("smart", "messages", "chat", *AROUND)
SPOKEN = ("messages", "chat")
STOPS = ("KILL", "KILL", "TERM", "TERM KILL", "TERM TERM")
ENDLESS = "endless"
HEAVY = {"endless-line", "gzipbomb", "big"}  # of a hundred megabytes and more: not too often


@dataclass(frozen=True)
class Ask:
    """A client that comes after `at_s`; `patience_s` is until it hangs up, or stops crawling."""

    at_s: float
    key: str
    protocol: str
    root: str
    model: str
    stream: bool
    max_tokens: int
    manner: Manner
    patience_s: float


@dataclass(frozen=True)
class Step:
    """Something that is done to the gateway; what `what` means is up to `do`."""

    at_s: float
    do: str
    what: str


@dataclass(frozen=True)
class Schedule:
    """All of a run; the same for the same seed and size."""

    seed: int
    seconds: float
    asks: tuple[Ask, ...]
    commands: tuple[Step, ...]  # of the command line, one after the other
    blows: tuple[Step, ...]  # to the process and its config, one after the other

    @classmethod
    def of(cls, seed: int, *, seconds: float, asks: int, stops: int, reloads: int) -> "Schedule":
        """Draw the run that belongs to `seed`."""
        chance, spares = random.Random(seed), [*SPARES][:stops]
        return cls(
            seed=seed,
            seconds=seconds,
            asks=tuple(_ask(chance, at_s, spares) for at_s in _times(chance, asks, seconds)),
            commands=tuple(_commands(chance, seconds, spares)),
            blows=tuple(_blows(chance, seconds, stops, reloads)),
        )


def _times(chance: random.Random, count: int, seconds: float) -> list[float]:
    return sorted(round(chance.uniform(0, seconds), 3) for _ in range(count))


def _ask(chance: random.Random, at_s: float, spares: list[str]) -> Ask:
    key = chance.choice([*(*KEYS,) * 8, *spares * 2, "unknown"])
    model, stream = _model(chance), chance.random() < 0.7
    ways = ("read",) * 6 + ("again", "twice", "hang_up", "hang_up", "half_sent", "crawl")
    manner: Manner = chance.choice(ways)
    if model.startswith(f"{ENDLESS}-") or (model.startswith("big-") and not stream):
        manner = "hang_up"  # or it would never end: whole, a big answer takes minutes to be said
    return Ask(
        at_s=at_s,
        key=key,
        protocol=chance.choice([*PATHS]),
        root=chance.choice(ROOTS[BILLING[key]]),
        model=model,
        stream=stream,
        max_tokens=chance.choice([1, 5, 40, 80]),
        manner=manner,
        patience_s=round(chance.uniform(0, 0.8), 3),
    )


def _model(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return chance.choice(PLAIN)
    name = chance.choice(NAMES)
    if name in HEAVY and chance.random() < 0.7:
        return chance.choice(PLAIN)
    return f"{name}-{chance.choice(SPOKEN)}"


def _commands(chance: random.Random, seconds: float, spares: list[str]) -> list[Step]:
    """Keys come and go, and the poor are given something."""
    half = seconds / 2
    steps = [Step(chance.uniform(0, seconds), "grant", "poor") for _ in spares]
    steps += [Step(chance.uniform(0, half), "create", name) for name in spares]
    steps += [Step(chance.uniform(half, seconds), "revoke", name) for name in spares]
    return sorted(steps, key=lambda each: each.at_s)


def _blows(chance: random.Random, seconds: float, stops: int, reloads: int) -> list[Step]:
    """The process is stopped and started, and its config edited, with and without a SIGHUP."""
    kinds = ["plain", "price", "broken"]
    edits = [("edit", kinds[number % 3]) for number in range(reloads)]
    words = edits + [("stop", chance.choice(STOPS)) for _ in range(stops)]
    words += [("hup", "")] * (reloads // 2)
    chance.shuffle(words)
    times = _times(chance, len(words), seconds)
    return [Step(at_s, do, what) for at_s, (do, what) in zip(times, words, strict=True)]
