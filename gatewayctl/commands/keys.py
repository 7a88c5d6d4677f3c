"""`gatewayctl keys`: mint, list, limit, revoke and rotate keys."""

from typing import Annotated, Any

import msgspec
import typer

from gatewayctl import limit_flags
from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.limit_flags import (
    Concurrent,
    Models,
    Monthly,
    Networks,
    PerMinute,
    TokensPerMinute,
)
from gatewayctl.options import TenantOption, completed_by, noun
from gatewayctl.output import Table
from gatewayctl.session import Session
from gatewayctl.spans import parse_span
from server import clock
from server.billing import caps
from server.billing.money import dollars
from server.config.schema import UsageLimits
from server.store import audit
from server.store.models import Key
from server.tenants import keys, secrets, tenants
from server.tenants.keys import Billing, Scope

app = noun("Mint, list, limit, revoke and rotate keys.")

_COLUMNS = ("id", "name", "member", "billing", "scope", "key", "status", "last_used_at", "limits")


def _known_ids(session: Session) -> list[tuple[str, str]]:
    with session.reading():
        return [(key.public_id, key.name) for key in Key.select().order_by(Key.id.desc())]


KeyId = Annotated[
    str,
    typer.Argument(
        help="The key's id, key_….", metavar="ID", autocompletion=completed_by(_known_ids)
    ),
]


BillingOption = Annotated[Billing, typer.Option(help="How its requests are paid for.")]
ScopeOption = Annotated[
    Scope, typer.Option(help="`manage` may mint keys and pay; `inference` only sends requests.")
]
MemberOption = Annotated[str | None, typer.Option(help="The person who uses it.", metavar="MEMBER")]
ExpiresOption = Annotated[
    str | None, typer.Option(help="When it ends, such as 90d.", metavar="SPAN")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print the secret and no word more.")]


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Who or what will use the key.", metavar="NAME")],
    *,
    billing: BillingOption = Billing.PAY_PER_TOKEN,
    scope: ScopeOption = Scope.MANAGE,
    member: MemberOption = None,
    tenant: TenantOption = tenants.DEFAULT,
    expires: ExpiresOption = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent: Concurrent = None,
    models: Models = None,
    monthly: Monthly = None,
    networks: Networks = None,
    quiet: QuietOption = False,
) -> None:
    """Mint a key and print its secret once, alone on stdout, so that it can be piped."""
    session, now = Session.of(ctx), clock.now()
    expires_at = None if expires is None else now + parse_span(expires, "--expires")
    given = (requests_per_minute, tokens_per_minute, concurrent, models, monthly, networks)
    with session.changing() as settings:
        limited = msgspec.convert(limit_flags.changes_of(given, settings.config), UsageLimits)
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
            limited=limited,
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
    """Show one key, without its secret, and what this month has come to under its cap."""
    session, now = Session.of(ctx), clock.now()
    with session.reading():
        key = keys.find(None, key_id)
        found = keys.as_json(key, now) | {"spend": caps.standing(key.id, now)}
    told = found | {"limits": limit_flags.in_words(found["limits"]), "spend": _told(found["spend"])}
    session.out.table(found, Table(("field", "value"), list(told.items())))


@app.command("limit")
def limit(
    ctx: typer.Context,
    key_id: KeyId,
    *,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    concurrent: Concurrent = None,
    models: Models = None,
    monthly: Monthly = None,
    networks: Networks = None,
) -> None:
    """Set limits of a key and of those that share them, or lift some with `none`."""
    session, now = Session.of(ctx), clock.now()
    given = (requests_per_minute, tokens_per_minute, concurrent, models, monthly, networks)
    with session.changing() as settings:
        changes = limit_flags.changes_of(given, settings.config)
        if not changes:
            raise CommandError(
                "Say which limit, such as --monthly 25.",
                status=ExitStatus.USAGE,
                code="usage",
                hint="`gatewayctl keys limit --help` lists them.",
            )
        key = keys.limit(key_id, changes, actor=audit.CLI, now=now)
        document = keys.as_json(key, now)
    limits = limit_flags.in_words(document["limits"]) or "no limits"
    session.out.note(f"{key_id} has {limits}, from the next request on.")
    session.out.value(document, key_id)


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
    shown = {"key": f"{key['prefix']}…{key['last4']}"}
    return key | shown | {"limits": limit_flags.in_words(key["limits"])}


def _told(spend: dict[str, Any] | None) -> str | None:
    if spend is None:
        return None
    spent, held, cap = (dollars(spend[f"{name}_micros"]) for name in ("spent", "held", "cap"))
    return f"{spent} spent and {held} held of {cap}; begins anew at {spend['resets_at']}"
