"""`gatewayctl credits`: what tenants have, every movement of it, and the proof."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from gatewayctl.commands import credits_output
from gatewayctl.commands.usage import (
    CsvOption,
    UntilOption,
    ZoneOption,
    asked_moments,
    asked_zone,
    in_words_of_options,
)
from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import TenantOption, noun, tenant_names
from gatewayctl.output import Output, Table, console, plain
from gatewayctl.session import Session
from server import clock
from server.billing import history, ledger, verify
from server.billing.chain import Advance, Disagreement
from server.billing.ledger import Kind
from server.billing.money import MICROS, dollars, micros
from server.billing.statement import COLUMNS, parse_month, statement
from server.counts import counted
from server.errors import Conflict
from server.tenants import labels, secrets, tenants

app = noun("Grant credit, read the ledger, and prove every number of it.")

_MOST_MICROS = 1_000_000_000_000  # one million dollars at a time
_USD = re.compile(r"([+-]?)\$?([0-9]{1,7}(?:\.[0-9]{1,6})?)")
_AS_TABLE = 1000  # more entries than that are told in lines
_SLOW_ROWS = 200_000  # takes a second or so: worth a progress bar

Usd = Annotated[
    str, typer.Argument(help="Dollars, a plain decimal such as 10 or 0.50.", metavar="USD")
]
Reason = Annotated[str, typer.Option(help="Why; it stays in the ledger.", metavar="TEXT")]
Ref = Annotated[
    str | None,
    typer.Option(help="A name of your own: a second try under it does nothing.", metavar="TEXT"),
]


@app.command("show")
def show(ctx: typer.Context, tenant: TenantOption = tenants.DEFAULT) -> None:
    """Show what a tenant has, what running requests hold, and what is left to spend."""
    session = Session.of(ctx)
    with session.reading():
        owner = tenants.find(tenant).id
        balance, running = ledger.balance_of(owner), history.holding_requests(owner)
    document = balance.as_json()
    if not session.out.for_people:
        session.out.fields(document)
        return
    requests = counted(running, "running request")
    rows: list[list[object]] = [
        ["balance", dollars(balance.balance_micros), ""],
        ["held", dollars(balance.held_micros), f"by {requests}"],
        ["available", dollars(balance.available_micros), ""],
    ]
    session.out.table(document, Table(("", "USD", " "), rows, frozenset({"USD"})))


@app.command("grant")
def grant(
    ctx: typer.Context,
    usd: Usd,
    *,
    reason: Reason,
    ref: Ref = None,
    tenant: TenantOption = tenants.DEFAULT,
) -> None:
    """Give a tenant credit, and print what the entry goes by."""
    amount = _parse_usd(usd)
    if amount < 0:
        raise _misuse("A grant gives; `gatewayctl credits adjust` can take.")
    _post(Session.of(ctx), tenant, Kind.GRANT, amount, reason=reason, ref=ref)


@app.command("adjust")
def adjust(
    ctx: typer.Context,
    usd: Usd,
    *,
    reason: Reason,
    ref: Ref = None,
    tenant: TenantOption = tenants.DEFAULT,
) -> None:
    """Correct a balance, up or down: `credits adjust --reason TEXT -- -5`.

    It takes no more than is available.
    """
    _post(Session.of(ctx), tenant, Kind.ADJUSTMENT, _parse_usd(usd), reason=reason, ref=ref)


@app.command("ledger")
def show_ledger(
    ctx: typer.Context,
    *,
    tenant: TenantOption = tenants.DEFAULT,
    limit: Annotated[
        int, typer.Option(min=0, help="How many entries at most; 0 is all.", metavar="N")
    ] = 50,
    kind: Annotated[Kind | None, typer.Option(help="Only entries of this kind.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="The first day, or how many up to the last: 7d, 2w.", metavar="DAY"),
    ] = None,
    until: UntilOption = None,
    tz: ZoneOption = None,
    csv: CsvOption = False,
) -> None:
    """List a tenant's entries, newest first.

    Amounts are micros, and dollars in a terminal. JSON and CSV have every column.
    """
    session = Session.of(ctx)
    with in_words_of_options():
        zone = asked_zone(session.out, tz, csv=csv)
        first_at, end_at = asked_moments(since, until, zone)
    with session.reading():
        owner = tenants.find(tenant)
        since_seq, before_seq = history.between(owner.id, first_at, end_at)
        found = history.newest_first(
            owner.id, since_seq=since_seq, before_seq=before_seq, kind=kind
        )
        entries = (history.as_json(entry, owner.public_id) for entry in found)
        if session.out.for_people and not csv and 0 < limit <= _AS_TABLE:
            session.out.table(
                None, credits_output.ledger_table(islice(entries, limit), owner, zone)
            )
        else:
            credits_output.stream(session.out, entries, limit, csv=csv)


@app.command("statement")
def show_statement(
    ctx: typer.Context,
    *,
    month: Annotated[
        str | None, typer.Option(help="The month; this one if left out.", metavar="YYYY-MM")
    ] = None,
    tz: ZoneOption = None,
    tenant: TenantOption = tenants.DEFAULT,
    csv: CsvOption = False,
) -> None:
    """Sum up a month: balance before, entries by kind, charges by model, balance after."""
    session = Session.of(ctx)
    out = session.out
    with in_words_of_options():
        zone = asked_zone(out, tz, csv=csv)
        first = clock.now().astimezone(zone).date() if month is None else parse_month(month)
    with session.reading():
        owner = tenants.find(tenant)
        made = statement(owner.id, owner.public_id, first, zone)
    if csv and not out.as_json:
        out.text(made.as_csv())
        return
    table = (
        credits_output.statement_table(made, owner)
        if out.for_people
        else Table(COLUMNS, made.table())
    )
    out.table(made.as_json(), table)


@app.command("verify")
def verify_all(
    ctx: typer.Context,
    *,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Only this tenant, by name or id.",
            metavar="TENANT",
            autocompletion=tenant_names,
        ),
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(
            help="Go on from what an earlier run with --json printed into this file.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Derive every balance, hold, charge and quota again from the rows.

    Ends with 3 at the first that disagrees, and names it. The server may run meanwhile.
    """
    session = Session.of(ctx)
    known = {} if since is None else _checkpoints(since)
    try:
        with session.reading():
            owners = tenants.list_tenants() if tenant is None else [tenants.find(tenant)]
            if tenant is not None:
                known = {name: at for name, at in known.items() if name == owners[0].public_id}
            with _progress(session.out, verify.row_count(owners, known)) as advance:
                proof = verify.verify(owners, known, advance)
    except Disagreement as exc:
        if session.out.as_json:
            session.out.document({"object": "verification", "ok": False, "disagreement": str(exc)})
        raise CommandError(str(exc), status=ExitStatus.CHECK_FAILED, code="check_failed") from exc
    told = [each.in_words() for each in proof.tenants]
    if proof.overshoot_micros:
        told.append(f"{dollars(proof.overshoot_micros)} was charged beyond what was held")
    session.out.lines(proof.as_json(), [*map(plain, told), "ok"])


@app.command("sync")
def sync(ctx: typer.Context) -> None:
    """Ask Stripe what it has that the ledger lacks, and post that."""
    from gatewayctl.syncing import sync_command  # loads Stripe's library

    sync_command(ctx)


def _post(
    session: Session, tenant: str, kind: Kind, amount: int, *, reason: str, ref: str | None
) -> None:
    """Post an entry; under a `ref` that was used before, only say so."""
    labels.require(reason, field="--reason")
    ref = labels.require(ref or secrets.new_id(_ID_PREFIXES[kind]), field="--ref")
    with session.changing():
        owner = tenants.find(tenant)
        posted = ledger.post(
            owner.id,
            kind,
            amount,
            ref=ref,
            at=clock.now(),
            created_by="cli",
            reason=reason,
            may_overdraw=False,
        )
        entry = history.find(kind, ref)
        balance = dollars(ledger.balance_of(owner.id).balance_micros)
    if (entry["tenant_id"], entry["amount_micros"]) != (owner.id, amount):
        raise Conflict(
            f"The ref {ref} stands for {dollars(entry['amount_micros'])} already, or for another "
            "tenant's credit; choose another."
        )
    done = "Posted" if posted else f"{ref} was posted before; nothing changed:"
    session.out.note(
        f"{done} {dollars(amount)} for the tenant {owner.name}; its balance is {balance}."
    )
    session.out.value(history.as_json(entry, owner.public_id), ref)


def _parse_usd(text: str) -> int:
    found = _USD.fullmatch(text)
    amount = micros(found[2]) if found else 0
    if found is None or not 0 < amount <= _MOST_MICROS:
        raise _misuse(
            f"USD must be a plain decimal such as 10 or 0.50, with at most six places, above 0 "
            f"and up to {_MOST_MICROS // MICROS}, not {text[:40]!r}."
        )
    return -amount if found[1] == "-" else amount


def _checkpoints(file: Path) -> dict[str, verify.Checkpoint]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Verification).checkpoint
    except msgspec.MsgspecError as exc:
        raise _misuse(f"{file} is not what `credits verify --json` printed: {exc}.") from exc


class _Verification(msgspec.Struct):
    checkpoint: dict[str, verify.Checkpoint]


@contextmanager
def _progress(out: Output, rows: int) -> Iterator[Advance]:
    """Show a person a bar while many rows are read."""
    if rows < _SLOW_ROWS or out.as_json or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.progress import Progress

    with Progress(console=console(colour=out.colour, stderr=True), transient=True) as bar:
        task = bar.add_task("Verifying", total=rows)
        yield lambda count: bar.advance(task, count)


def _misuse(message: str) -> CommandError:
    return CommandError(message, status=ExitStatus.USAGE, code="usage")


_ID_PREFIXES = {Kind.GRANT: "grt_", Kind.ADJUSTMENT: "adj_"}
