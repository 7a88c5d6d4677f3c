"""The flags that say what a key may use, and how limits are told in a line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import typer

from gatewayctl.exits import CommandError, ExitStatus
from server.config.checks import problems_of_limits
from server.config.schema import Config, UsageLimits
from server.counts import counted

NONE = "none"

PerMinute = Annotated[
    str | None,
    typer.Option("--requests-per-minute", help="Requests a minute; `none` lifts it.", metavar="N"),
]
TokensPerMinute = Annotated[
    str | None,
    typer.Option("--tokens-per-minute", help="Tokens a minute; `none` lifts it.", metavar="N"),
]
Concurrent = Annotated[
    str | None,
    typer.Option("--concurrent", help="Requests at the same time; `none` lifts it.", metavar="N"),
]
Models = Annotated[
    str | None,
    typer.Option(
        "--models", help="Models it may use, or patterns; `none` lifts it.", metavar="A,B"
    ),
]
Monthly = Annotated[
    str | None,
    typer.Option(
        "--monthly", help="Dollars a calendar month (UTC); `none` lifts it.", metavar="USD"
    ),
]
Networks = Annotated[
    str | None,
    typer.Option(
        "--networks", help="Where it may be used from; `none` lifts it.", metavar="CIDR,…"
    ),
]

_FLAGS = {
    "requests_per_minute": "--requests-per-minute",
    "tokens_per_minute": "--tokens-per-minute",
    "concurrent_requests": "--concurrent",
    "models": "--models",
    "monthly_usd": "--monthly",
    "networks": "--networks",
}
_WORDS: dict[str, Callable[[int], str]] = {
    "requests_per_minute": lambda most: f"{counted(most, 'request')}/min",
    "tokens_per_minute": lambda most: f"{counted(most, 'token')}/min",
    "concurrent_requests": "{:,} at once".format,
}


def changes_of(given: Sequence[str | None], config: Config) -> dict[str, object]:
    """Read what flags say of limits, by field; a flag that was not given is left out.

    The flags come in the order above.

    Raises:
        CommandError: a value is unusable where `config` is in force; names its flag.
    """
    texts = zip(_FLAGS, given, strict=True)
    changes = {name: _value(name, text) for name, text in texts if text is not None}
    for name, value in changes.items():
        try:
            limits = msgspec.convert({name: value}, UsageLimits)
        except msgspec.ValidationError as exc:
            raise _unusable(name, _KINDS[name]) from exc
        for (_, *_at), problem in problems_of_limits((name,), limits, config.models):
            raise _unusable(name, problem)
    return changes


def in_words(limits: Mapping[str, Any] | None) -> str | None:
    """Tell limits, as the API shows them, in a line; None where there are none."""
    if limits is None:
        return None
    told = [words(limits[name]) for name, words in _WORDS.items() if name in limits]
    if "monthly_usd" in limits:
        told.append(f"${limits['monthly_usd']} a month")
    told += [
        f"{name} {','.join(limits[name])}" for name in ("models", "networks") if name in limits
    ]
    return "; ".join(told)


def _value(name: str, text: str) -> object:
    if text == NONE:
        return None
    if name in _WORDS:
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else text
    if name == "monthly_usd":
        return text.removeprefix("$")
    return [each.strip() for each in text.split(",")]


def _unusable(name: str, problem: str) -> CommandError:
    return CommandError(f"{_FLAGS[name]} {problem}.", status=ExitStatus.USAGE, code="usage")


_KINDS = {
    **dict.fromkeys(_WORDS, "must be a whole number above 0, or `none`"),
    "models": "must be names, parted by commas, or `none`",
    "monthly_usd": "must be dollars below a million, such as 10 or 10.00, or `none`",
    "networks": "must be networks, parted by commas, or `none`",
}
