"""`gatewayctl subscription`: give, end and show what a tenant subscribes to."""

from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from gatewayctl.options import TenantOption, completed_by, noun
from gatewayctl.output import Share, Table
from gatewayctl.session import Session
from server import clock
from server.billing import subscriptions
from server.billing.quota import in_words
from server.counts import counted
from server.tenants import tenants

app = noun("Give, end and show what a tenant subscribes to.")


def _known_tiers(session: Session) -> list[tuple[str, str]]:
    return [(name, tier.name) for name, tier in session.settings().config.tiers.items()]


TierName = Annotated[
    str,
    typer.Argument(
        help="A tier of the config.", metavar="TIER", autocompletion=completed_by(_known_tiers)
    ),
]


@app.command("set")
def set_tier(ctx: typer.Context, tier: TierName, tenant: TenantOption = tenants.DEFAULT) -> None:
    """Give a tenant a tier without Stripe, at once.

    What is used of the quota stays used.
    """
    session, now = Session.of(ctx), clock.now()
    with session.changing() as settings:
        tiers, owner = settings.config.tiers, tenants.find(tenant)
        subscriptions.subscribe(owner.id, tier, tiers, now)
        document = subscriptions.view(owner.id, tiers, now)
    session.out.note(
        f"The tenant {owner.name} has the tier {tier} now; "
        "keys made with `--billing subscription` spend its quota."
    )
    session.out.value(document, tier)


@app.command("cancel")
def cancel(ctx: typer.Context, tenant: TenantOption = tenants.DEFAULT) -> None:
    """End a subscription that Stripe does not manage: running requests finish."""
    session, now = Session.of(ctx), clock.now()
    with session.changing() as settings:
        owner = tenants.find(tenant)
        subscriptions.cancel(owner.id, now)
        document = subscriptions.view(owner.id, settings.config.tiers, now)
    session.out.note(f"The subscription of the tenant {owner.name} has ended.")
    session.out.value(document, document["tier"])


@app.command("show")
def show(ctx: typer.Context, tenant: TenantOption = tenants.DEFAULT) -> None:
    """Show what a tenant subscribes to, and how much of the quota is left."""
    session, now = Session.of(ctx), clock.now()
    with session.reading() as settings:
        found = subscriptions.view(tenants.find(tenant).id, settings.config.tiers, now)
    session.out.table(found, _drawn(found, now) if session.out.for_people else _bare(found))
    if found["tier"] is None:
        session.out.note("`gatewayctl subscription set TIER` gives one.")
    elif found["quota"] is None:
        session.out.note(f"The config has no tier {found['tier']} any more.")


def _bare(found: dict[str, Any]) -> Table:
    facts = {name: value for name, value in found.items() if name != "quota"}
    return Table(("field", "value"), list({**facts, **(found["quota"] or {})}.items()))


def _drawn(found: dict[str, Any], now: datetime) -> Table:
    """Draw the quota below the rest, with a bar for each part of it where there is a limit."""
    quota = found["quota"] or {}
    limits = [quota.get("limit_tokens"), quota.get("limit_requests")]
    no_bar = None if limits == [None, None] else ""  # a column without any value is not shown
    facts = [
        [name, found[name], no_bar]
        for name in ("tier", "status", "cancel_at", "current_period_end")
        if found.get(name) is not None
    ]
    sections = [("quota of 24 h", _quota_rows(quota, now, no_bar))] if quota else []
    return Table(("field", "value", "share"), facts, sections=sections)


def _quota_rows(quota: dict[str, Any], now: datetime, no_bar: str | None) -> list[list[object]]:
    parts = [
        ("used", quota["used_tokens"], quota["limit_tokens"], "token"),
        ("held", quota["held_tokens"], quota["limit_tokens"], "token"),
        ("left", quota["remaining_tokens"], quota["limit_tokens"], "token"),
        ("served", quota["used_requests"], quota["limit_requests"], "request"),
    ]
    rows: list[list[object]] = [
        [word, _figure(count, limit, unit), no_bar if limit is None else Share(count, limit)]
        for word, count, limit, unit in parts
        if count is not None
    ]
    return [*rows, ["resets", _reset(quota["resets_at"], now), no_bar]]


def _figure(count: int, limit: int | None, unit: str) -> str:
    return counted(count, unit) if limit is None else f"{count:,} of {counted(limit, unit)}"


def _reset(resets_at: str | None, now: datetime) -> str:
    if resets_at is None:
        return "24 h after the next request"
    wait = datetime.fromisoformat(resets_at) - now
    return f"in {in_words(wait // timedelta(seconds=1))}"
