"""The command `gatewayctl`: its nouns, and how it ends."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from gatewayctl.ending import status_of
from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import global_options
from gatewayctl.output import line, prepare_streams
from gatewayctl.session import Session

Command = TyperCommand | TyperGroup

NOUNS = {
    "quickstart": "Set up and serve with the built-in demo upstream, in one step.",
    "init": "Create what is missing: config, presets, database, first key.",
    "serve": "Run the gateway.",
    "mock": "Run the demo upstream alone.",
    "keys": "Mint, list, revoke and rotate keys.",
    "tenants": "Create and list tenants.",
    "subscription": "Give, end and show what a tenant subscribes to.",
    "credits": "Grant credit, read the ledger, and prove every number of it.",
    "usage": "Report requests, tokens and cost.",
    "audit": "Tell who created, revoked, granted or changed what.",
    "presets": "Look at each tool's prompt and skills.",
    "models": "Look at the models, and check their upstreams.",
    "config": "Find, check and show the configuration.",
    "db": "Migrate and check the database.",
    "service": "Have systemd run the gateway.",
}


class Nouns(TyperGroup):
    """The top level: a noun's module is imported only when that noun is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=text) for name, text in NOUNS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that `args` name, and import it."""
        name, known, rest = super().resolve_command(ctx, args)
        return name, known and load_noun(str(name)), rest


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code; bugs are left to crash."""
    session = Session()
    prepare_streams()
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]

    def command() -> int | None:
        try:
            ended = _command().main(words, "gatewayctl", standalone_mode=False, obj=session)
        except TyperException as err:
            session.out.as_json |= "--json" in words  # a usage error can come before it is read
            raise _misuse(err) from err
        return cast("int | None", ended)

    return status_of(session, command)


def load_noun(noun: str) -> Command:
    """Import the noun's module and give its command, the global options added."""
    app: typer.Typer = import_module(f"gatewayctl.commands.{noun}").app
    command = cast("Command", typer.main.get_command(app))
    verbs = cast("dict[str, Command]", getattr(command, "commands", {}))
    for level in (command, *verbs.values()):
        level.params.extend(global_options())
    return command


def _command() -> Command:
    app = typer.Typer(cls=Nouns, rich_markup_mode=None)
    app.callback()(_gatewayctl)
    command = cast("Command", typer.main.get_command(app))
    command.params.extend(global_options())
    return command


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # slow, and needed here alone

        line(f"gatewayctl {version('gatewayctl')}")
        raise typer.Exit


def _gatewayctl(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            expose_value=False,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """A gateway between coding tools and model providers whose numbers can be checked."""


def _misuse(err: TyperException) -> CommandError:
    """Put a usage error in one line, with the help that covers it."""
    path = getattr(getattr(err, "ctx", None), "command_path", "gatewayctl")
    message = " ".join(err.format_message().split())
    hint = f"`{path} --help` shows how it is used."
    return CommandError(message, status=ExitStatus.USAGE, code="usage", hint=hint)
