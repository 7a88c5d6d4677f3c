"""`gatewayctl service`: have systemd run the gateway."""

import getpass
import sys
from difflib import unified_diff
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import noun
from gatewayctl.session import Session
from gatewayctl.systemd import Systemd
from gatewayctl.units import MARK, NAME, Service, UnfitPath, environment_text
from server.config.files import make_private_folder, write_private
from server.config.load import environment_variables

app = noun("Have systemd run the gateway.")

_SYSTEM_HELP = "The machine's systemd: nothing is changed, what to do as root is printed."
ForSystem = Annotated[
    bool, typer.Option("--system/--user", help=_SYSTEM_HELP, show_default="--user")
]


@app.command("install")
def install(
    ctx: typer.Context,
    *,
    system: ForSystem = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the unit to stdout, and do no more.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a unit that differs; the diff is shown.")
    ] = False,
) -> None:
    """Write a hardened unit for this config, and have it start with the user's session.

    It is not started: the keys that the config refers to go into gateway.env first.
    """
    session, systemd = Session.of(ctx), Systemd(system)
    service = _service(session, systemd)
    path, unit = systemd.folder / NAME, _unit(service)
    if print_only or system:
        session.out.value(_document(service, path) | {"text": unit}, unit.removesuffix("\n"))
        if not print_only:
            _tell_root(session, service, path)
        return
    systemd.require()
    changed = _replace(session, path, unit, force=force)
    _keep_environment(session, service)
    for folder in service.written:
        make_private_folder(folder)
    systemd.tell("daemon-reload")
    systemd.tell("enable", NAME)
    session.out.note(f"{'Installed' if changed else 'Up to date'}: {path}.")
    _tell_user(session, service)
    session.out.value(_document(service, path), str(path))


@app.command("uninstall")
def uninstall(ctx: typer.Context, *, system: ForSystem = False) -> None:
    """Stop the service and remove its unit; config, keys and database stay."""
    session, systemd = Session.of(ctx), Systemd(system)
    path = systemd.folder / NAME
    document = {"object": "service_removal", "unit": str(path)}
    if system:
        commands = [f"systemctl disable --now {NAME}", f"rm {path}", "systemctl daemon-reload"]
        session.out.note("As root:")
        session.out.lines(document | {"commands": commands}, commands)
        return
    systemd.require()
    if not path.exists():
        session.out.note(f"Nothing to remove: there is no {path}.")
    else:
        _require_ours(path)
        systemd.tell("disable", "--now", NAME)
        path.unlink()
        systemd.tell("daemon-reload")
        session.out.note(f"Stopped and removed {path}. Config, gateway.env and database stay.")
    session.out.value(document, str(path))


@app.command("show")
def show(ctx: typer.Context, *, system: ForSystem = False) -> None:
    """Show the unit that is installed: whether it is current, enabled and active."""
    session, systemd = Session.of(ctx), Systemd(system)
    service = _service(session, systemd)
    path = systemd.folder / NAME
    systemd.require()
    if not path.exists():
        raise CommandError(
            f"There is no {path}.",
            status=ExitStatus.NOT_FOUND,
            code="not_installed",
            hint="`gatewayctl service install` writes it.",
        )
    session.out.fields(
        _document(service, path)
        | {
            "is_current": path.read_text(encoding="utf-8") == _unit(service),
            "enabled": systemd.ask("is-enabled", NAME),
            "active": systemd.ask("is-active", NAME),
        }
    )


def _service(session: Session, systemd: Systemd) -> Service:
    return Service(session.settings(), _program(), getpass.getuser() if systemd.is_system else None)


def _program() -> Path:
    # Beside the interpreter, of a virtual environment too: its links are not followed.
    return Path(sys.executable).with_name("gatewayctl")


def _unit(service: Service) -> str:
    try:
        return service.unit
    except UnfitPath as exc:
        raise CommandError(str(exc), status=ExitStatus.USAGE, code="unfit_path") from exc


def _replace(session: Session, path: Path, unit: str, *, force: bool) -> bool:
    """Write the unit unless it is there; tell whether that changed anything."""
    old = path.read_text(encoding="utf-8") if path.exists() else None
    if old == unit:
        return False
    if old is not None:
        names = (str(path), "what install writes")
        lines = unified_diff(old.splitlines(), unit.splitlines(), *names, lineterm="")
        session.out.note("\n".join(lines))
        if not force:
            raise CommandError(
                f"{path} is there and differs.",
                status=ExitStatus.CONFLICT,
                code="conflict",
                hint="`--force` replaces it; your own lines belong into a drop-in: "
                f"`systemctl --user edit {NAME}`.",
            )
    write_private(path, unit)
    return True


def _keep_environment(session: Session, service: Service) -> None:
    """Have a private file for the keys; one that is there stays as it is."""
    path = service.environment_path
    if not path.exists():
        names = environment_variables(service.settings.config)
        write_private(path, environment_text(names))
        session.out.note(f"created {path}")
    elif path.stat().st_mode & 0o077:
        session.warn([f"others can read {path}; `chmod 600` it"])


def _tell_user(session: Session, service: Service) -> None:
    if service.needs_privileged_port:
        port = service.settings.config.server.port
        session.warn([f"a user's service cannot listen on port {port}; use `--system`"])
    session.out.note(
        f"Put the keys into {service.environment_path}, then: systemctl --user start {NAME}\n"
        "To run it without a login: loginctl enable-linger\n"
        "`gatewayctl service uninstall` takes it back."
    )


def _tell_root(session: Session, service: Service, path: Path) -> None:
    config, keys = quote(str(service.settings.path)), quote(str(service.environment_path))
    commands = [
        f"gatewayctl --config {config} service install --system --print | sudo tee {path}",
        f"install -m 600 /dev/null {keys}  # NAME=value for each key",
        f"sudo systemctl daemon-reload && sudo systemctl enable --now {NAME}",
    ]
    if service.environment_path.exists():
        del commands[1]  # it would empty the file
    told = "\n".join(f"  {command}" for command in commands)
    session.out.note(
        f"Nothing was changed. To install this unit, which runs as {service.user}:\n{told}"
    )


def _require_ours(path: Path) -> None:
    if not path.read_text(encoding="utf-8").startswith(MARK):
        raise CommandError(
            f"{path} was not written by `service install`.",
            status=ExitStatus.REFUSED,
            code="not_ours",
            hint=f"Remove it yourself: systemctl --user disable --now {NAME}",
        )


def _document(service: Service, path: Path) -> dict[str, object]:
    return {
        "object": "service",
        "unit": str(path),
        "config": str(service.settings.path),
        "environment_file": str(service.environment_path),
    }
