"""Options that commands share: the global ones, and what the shell completes in their place."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperOption

from gatewayctl.exits import CommandError
from gatewayctl.session import Session
from server.errors import ConfigError, GatewayError


def noun(help_text: str) -> typer.Typer:
    """Make the holder of one noun's verbs."""
    return typer.Typer(help=help_text, add_completion=False, rich_markup_mode=None)


def global_options() -> list[TyperOption]:
    """Make the options that every command accepts, before and after its verb."""
    holder = typer.Typer(add_completion=False)
    holder.command()(_accept)
    return cast("list[TyperOption]", typer.main.get_command(holder).params)


def _use_config(ctx: typer.Context, value: Path | None) -> None:
    if value is not None:
        Session.of(ctx).config_file = value


def _use_json(ctx: typer.Context, value: bool) -> None:
    if value:
        Session.of(ctx).out.as_json = True


def _use_no_color(ctx: typer.Context, value: bool) -> None:
    if value:
        Session.of(ctx).out.colour = False


def _accept(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            callback=_use_config,
            expose_value=False,
            help="The config file to use.",
            metavar="FILE",
        ),
    ] = None,
    json: Annotated[
        bool,
        typer.Option(
            "--json", callback=_use_json, expose_value=False, help="Print JSON, errors too."
        ),
    ] = False,
    no_color: Annotated[
        bool,
        typer.Option(
            "--no-color", callback=_use_no_color, expose_value=False, help="Print without colour."
        ),
    ] = False,
) -> None:
    """Stand for a command that has the global options."""


def completed_by(find: Callable[[Session], Iterable[tuple[str, str]]]) -> Callable[..., Any]:
    """Make a shell completion from what `find` reads: values with a word on each.

    A completion that fails offers nothing: the shell has no place for an error.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        session = Session.of(ctx)
        session.out.as_json = True  # no warnings into the shell's prompt
        try:
            return [found for found in find(session) if found[0].startswith(incomplete)]
        except (ConfigError, GatewayError, CommandError, OSError):
            return []

    return complete


def _tenants(session: Session) -> list[tuple[str, str]]:
    from server.store.models import Tenant

    with session.reading():
        return [(row.name, row.public_id) for row in Tenant.select()]


tenant_names = completed_by(_tenants)
TenantOption = Annotated[
    str,
    typer.Option(
        "--tenant",
        help="The tenant, by name or id.",
        metavar="TENANT",
        autocompletion=tenant_names,
    ),
]
HostOption = Annotated[
    str | None, typer.Option("--host", help="Listen here; else server.host.", metavar="HOST")
]
PortOption = Annotated[
    int | None,
    typer.Option(
        "--port",
        min=0,
        max=65535,
        help="Listen here; else server.port. 0 is any.",
        metavar="PORT",
    ),
]
