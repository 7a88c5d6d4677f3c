"""`gatewayctl audit`: who created, revoked, granted or changed what."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
import typer

from gatewayctl.commands.usage import (
    CsvOption,
    UntilOption,
    ZoneOption,
    asked_moments,
    asked_zone,
    in_words_of_options,
)
from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import completed_by, noun, tenant_names
from gatewayctl.output import Table, stream_rows
from gatewayctl.session import Session
from server.billing.money import dollars
from server.store import audit as log
from server.store.audit import Action
from server.store.models import Audit
from server.tenants import tenants

app = noun("Tell who created, revoked, granted or changed what.")

_AS_TABLE = 1000  # more rows than that are told in lines
_COLUMNS = ("id", "at", "actor", "tenant", "action", "target", "details")


def _known_actions(_session: Session) -> list[tuple[str, str]]:
    return [(action.value, "") for action in Action]


SinceOption = Annotated[
    str | None,
    typer.Option(help="The first day, or how many up to the last: 7d, 2w.", metavar="DAY"),
]
ActorOption = Annotated[
    str | None,
    typer.Option(help="Only what this one did: cli, cli:USER, stripe, key_….", metavar="ACTOR"),
]
ActionOption = Annotated[
    str | None,
    typer.Option(
        help="Only this, such as key.revoked, or all of a kind: key.",
        metavar="ACTION",
        autocompletion=completed_by(_known_actions),
    ),
]
TenantOption = Annotated[
    str | None,
    typer.Option(
        help="Only this tenant, by name or id.", metavar="TENANT", autocompletion=tenant_names
    ),
]
LimitOption = Annotated[
    int, typer.Option(min=0, help="How many rows at most; 0 is all.", metavar="N")
]


@app.command()
def audit(
    ctx: typer.Context,
    *,
    since: SinceOption = None,
    until: UntilOption = None,
    tz: ZoneOption = None,
    actor: ActorOption = None,
    action: ActionOption = None,
    tenant: TenantOption = None,
    limit: LimitOption = 50,
    csv: CsvOption = False,
) -> None:
    """List what was changed and by whom, newest first.

    Requests and their charges are not among it: `gatewayctl usage` and the ledger tell those.
    """
    session = Session.of(ctx)
    with in_words_of_options():
        zone = asked_zone(session.out, tz, csv=csv)
        since_ms, before_ms = asked_moments(since, until, zone)
    actions = [] if action is None else _actions_of(action)
    with session.reading():
        found = log.newest_first(
            since_ms=since_ms,
            before_ms=before_ms,
            actor=actor,
            actions=actions,
            tenant_id=None if tenant is None else tenants.find(tenant).id,
        )
        if session.out.for_people and not csv and 0 < limit <= _AS_TABLE:
            session.out.table(None, _drawn(islice(found, limit), zone))
        else:
            stream_rows(session.out, map(log.as_json, found), limit, columns=_COLUMNS, csv=csv)


def _actions_of(text: str) -> Sequence[Action]:
    """Give the action of that name, or all of that kind."""
    found = [each for each in Action if each == text or each.startswith(f"{text}.")]
    if not found:
        raise CommandError(
            f"There is no action {text[:40]!r}.",
            status=ExitStatus.USAGE,
            code="usage",
            hint=f"there is {', '.join(Action)}",
        )
    return found


def _drawn(rows: Iterator[Audit], zone: ZoneInfo) -> Table:
    return Table(
        columns=("at", "actor", "action", "tenant", "target", "details"),
        rows=[
            [
                f"{row.at.astimezone(zone):%Y-%m-%d %H:%M:%S}",
                row.actor,
                row.action,
                None if row.tenant is None else row.tenant.name,
                row.target,
                _in_words(msgspec.json.decode(row.details)),
            ]
            for row in rows
        ],
        numbers=frozenset({"at"}),
        title=f"Audit log, newest first, times in {zone.key}",
    )


def _in_words(details: dict[str, object]) -> str:
    return ", ".join(_worded(name, value) for name, value in details.items())


def _worded(name: str, value: object) -> str:
    if name == "amount_micros" and isinstance(value, int):
        return dollars(value)
    if isinstance(value, list):
        return f"{name} {' '.join(map(str, value))}"
    return f"{name} {value}"
