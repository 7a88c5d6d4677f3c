"""`gatewayctl keys`: mint, list, revoke and rotate keys."""

from typing import Annotated, Any

import typer

from gatewayctl.options import TenantOption, completed_by, noun
from gatewayctl.output import Table
from gatewayctl.session import Session
from gatewayctl.spans import parse_span
from server import clock
from server.store import audit
from server.store.models import Key
from server.tenants import keys, secrets, tenants
from server.tenants.keys import Billing, Scope

app = noun("Mint, list, revoke and rotate keys.")

_COLUMNS = ("id", "name", "member", "billing", "scope", "key", "status", "last_used_at")


def _known_ids(session: Session) -> list[tuple[str, str]]:
    with session.reading():
        return [(key.public_id, key.name) for key in Key.select().order_by(Key.id.desc())]


KeyId = Annotated[
    str,
    typer.Argument(
        help="The key's id, key_….", metavar="ID", autocompletion=completed_by(_known_ids)
    ),
]


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what will use the key.", metavar="NAME")],
    *,
    billing: Annotated[
        Billing, typer.Option(help="How its requests are paid for.")
    ] = Billing.PAY_PER_TOKEN,
    scope: Annotated[
        Scope, typer.Option(help="`manage` may mint keys and pay; `inference` only sends requests.")
    ] = Scope.MANAGE,
    member: Annotated[
        str | None, typer.Option(help="The person who uses it.", metavar="MEMBER")
    ] = None,
    tenant: TenantOption = tenants.DEFAULT,
    expires: Annotated[
        str | None, typer.Option(help="When it ends, such as 90d.", metavar="SPAN")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print the secret and no word more.")
    ] = False,
) -> None:
    """Mint a key and print its secret once, alone on stdout, so that it can be piped."""
    session, now = Session.of(ctx), clock.now()
    expires_at = None if expires is None else now + parse_span(expires, "--expires")
    with session.changing():
        minted = keys.mint(
            tenants.find(tenant).id,
            name,
            billing=billing,
            scope=scope,
            member=member,
            expires_at=expires_at,
            created_by="cli",
            now=now,
            secret=secrets.generate(),
        )
        document = keys.as_json(minted.key, now)
    if not quiet:
        session.out.note(f"Created {document['id']} ({billing}, {scope}). Shown only now:")
    session.out.value(document | {"secret": minted.secret}, minted.secret)


@app.command("list")
def list_keys(ctx: typer.Context, tenant: TenantOption = tenants.DEFAULT) -> None:
    """List a tenant's keys, newest first."""
    session, now = Session.of(ctx), clock.now()
    with session.reading():
        owner = tenants.find(tenant)
        found = [keys.as_json(key, now) for key in _all_keys(owner.id)]
    rows = [[_shown(key)[column] for column in _COLUMNS] for key in found]
    document = {"object": "list", "data": found, "has_more": False}
    session.out.table(document, Table(_COLUMNS, rows))


@app.command("show")
def show(ctx: typer.Context, key_id: KeyId) -> None:
    """Show one key, without its secret: that is not stored."""
    session = Session.of(ctx)
    with session.reading():
        found = keys.as_json(keys.find(None, key_id), clock.now())
    session.out.fields(found)


@app.command("revoke")
def revoke(ctx: typer.Context, key_id: KeyId) -> None:
    """End a key for good: running requests finish, the next is refused."""
    session, now = Session.of(ctx), clock.now()
    with session.changing():
        document = keys.as_json(keys.revoke(None, key_id, actor=audit.CLI, now=now), now)
    session.out.note(f"Revoked {key_id}.")
    session.out.value(document, key_id)


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    key_id: KeyId,
    grace: Annotated[
        str, typer.Option(help="How long the old key still works.", metavar="SPAN")
    ] = "24h",
) -> None:
    """Mint a successor, print its secret, and let the old key end."""
    session, now = Session.of(ctx), clock.now()
    with session.changing():
        minted = keys.rotate(
            None,
            key_id,
            grace=parse_span(grace, "--grace"),
            created_by="cli",
            now=now,
            secret=secrets.generate(),
        )
        document = keys.as_json(minted.key, now)
    session.out.note(f"Created {document['id']}; {key_id} works for {grace} more. Shown only now:")
    session.out.value(document | {"secret": minted.secret}, minted.secret)


def _all_keys(tenant_id: int) -> list[Key]:
    page = keys.list_keys(tenant_id, limit=keys.LONGEST_PAGE)
    found = page.keys
    while page.has_more:
        page = keys.list_keys(tenant_id, limit=keys.LONGEST_PAGE, after_id=found[-1].public_id)
        found += page.keys
    return found


def _shown(key: dict[str, Any]) -> dict[str, Any]:
    return key | {"key": f"{key['prefix']}…{key['last4']}"}
