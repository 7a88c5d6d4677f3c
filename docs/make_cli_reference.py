"""Write docs/cli.md from the commands themselves: `python docs/make_cli_reference.py`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gatewayctl.exits import ExitStatus
from gatewayctl.main import NOUNS, load_noun
from gatewayctl.options import global_options

TARGET = Path(__file__).with_name("cli.md")

_HEAD = """\
# Commands

Written by `docs/make_cli_reference.py` from the commands' own help; a test keeps it current.

Data goes to stdout: bare values in a pipe, tables in a terminal.
Everything else goes to stderr.
These are accepted before and after every verb:"""
_EXITS = {
    ExitStatus.OK: "done; also where there was nothing to do",
    ExitStatus.FAILED: "failed",
    ExitStatus.USAGE: "wrong usage, or a config that cannot be used",
    ExitStatus.CHECK_FAILED: "a check failed",
    ExitStatus.REFUSED: "refused",
    ExitStatus.NOT_FOUND: "not found; also: no database yet",
    ExitStatus.CONFLICT: "in conflict with what is stored",
    ExitStatus.UNAVAILABLE: "unavailable or locked: the server runs, or the schema is another",
    ExitStatus.INTERRUPTED: "interrupted",
}


def render() -> str:
    """Give the whole page."""
    rows = "\n".join(f"| {status.value} | {meaning} |" for status, meaning in _EXITS.items())
    exits = f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}"
    return "\n\n".join([_HEAD, _options(_records(global_options())), exits, *_commands()]) + "\n"


def _commands() -> Iterator[str]:
    for noun in NOUNS:
        command: Any = load_noun(noun)
        verbs = getattr(command, "commands", None)
        if verbs is None:
            yield _section(f"gatewayctl {noun}", command)
            continue
        for verb, each in verbs.items():
            yield _section(f"gatewayctl {noun} {verb}", each)


def _section(path: str, command: Any) -> str:
    shared = {option.name for option in global_options()}
    own = [param for param in command.params if param.name not in shared]
    names = " ".join(param.metavar for param in own if not param.opts[0].startswith("-"))
    parts = [f"## `{f'{path} {names}'.strip()}`", command.help, _options(_records(own))]
    return "\n\n".join(part for part in parts if part)


def _records(params: list[Any]) -> list[tuple[str, str]]:
    command: Any = load_noun("quickstart")
    context = command.make_context("gatewayctl", [], resilient_parsing=True)
    return [param.get_help_record(context) for param in params]


def _options(records: list[tuple[str, str]]) -> str:
    return "\n".join(f"- `{name.replace(' <str>', '')}`: {text}" for name, text in records)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
