"""`gatewayctl tenants`: create and list tenants."""

from typing import Annotated

import typer

from gatewayctl.options import noun, tenant_names
from gatewayctl.output import Table
from gatewayctl.session import Session
from server import clock
from server.tenants import tenants

app = noun("Create and list tenants. A single team needs only one, `default`.")

_COLUMNS = ("id", "name", "created_at")
TenantArgument = Annotated[
    str,
    typer.Argument(
        help="The tenant, by name or id.", metavar="TENANT", autocompletion=tenant_names
    ),
]


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What the tenant is called.", metavar="NAME")],
) -> None:
    """Create a tenant and print its id."""
    session = Session.of(ctx)
    with session.changing():
        tenant = tenants.as_json(tenants.create(name, clock.now()))
    session.out.value(tenant, tenant["id"])


@app.command("list")
def list_tenants(ctx: typer.Context) -> None:
    """List all tenants, oldest first."""
    session = Session.of(ctx)
    with session.reading():
        found = [tenants.as_json(tenant) for tenant in tenants.list_tenants()]
    rows = [[tenant[column] for column in _COLUMNS] for tenant in found]
    document = {"object": "list", "data": found, "has_more": False}
    session.out.table(document, Table(_COLUMNS, rows))


@app.command("show")
def show(ctx: typer.Context, tenant: TenantArgument = tenants.DEFAULT) -> None:
    """Show one tenant."""
    session = Session.of(ctx)
    with session.reading():
        found = tenants.as_json(tenants.find(tenant))
    session.out.fields(found)
