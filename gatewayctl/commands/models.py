"""`gatewayctl models`: look at the models, and check their upstreams."""

import os
from typing import Annotated, Any

import typer

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.options import completed_by, noun
from gatewayctl.output import Table
from gatewayctl.reach import Reach, reach
from gatewayctl.session import Session
from server.config.load import Settings, resolve_reference
from server.config.schema import Config
from server.routing.catalog import unknown_model

app = noun("Look at the models, and check their upstreams.")

_PRICES = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_COLUMNS = ("id", "targets", *_PRICES, "aliases")
_CHECKED = ("upstream", "protocol", "key", "connects", "answers", "detail")


def _names(session: Session) -> list[tuple[str, str]]:
    return [(name, "a model") for name in session.settings().config.models]


ModelName = Annotated[
    str, typer.Argument(help="The model.", metavar="NAME", autocompletion=completed_by(_names))
]


@app.command("list")
def list_models(ctx: typer.Context) -> None:
    """List the models, who serves them, their prices and their other names."""
    session = Session.of(ctx)
    config = session.settings().config
    found = [_as_json(config, name) for name in config.models]
    rows = [_row(model) for model in found]
    document = {"object": "list", "data": found, "has_more": False}
    session.out.table(document, Table(_COLUMNS, rows, numbers=frozenset(_PRICES)))


@app.command("show")
def show(ctx: typer.Context, name: ModelName) -> None:
    """Show one model."""
    session = Session.of(ctx)
    config = session.settings().config
    if name not in config.models:
        raise unknown_model(name, config.models)
    model = _as_json(config, name)
    rows = zip(_COLUMNS, _row(model), strict=True)
    session.out.table(model, Table(("field", "value"), list(rows)))


@app.command("check")
def check(ctx: typer.Context) -> None:
    """Call the upstream of every model: its key is there, it connects, it answers."""
    session = Session.of(ctx)
    reached = _reach_all(session.settings())
    ok = all(each.ok for each in reached)
    document = {"object": "models_check", "ok": ok, "data": [each.as_json() for each in reached]}
    rows = [[_word(each.as_json()[column]) for column in _CHECKED] for each in reached]
    session.out.table(document, Table(_CHECKED, rows))
    if not ok:
        names = ", ".join(each.upstream for each in reached if not each.ok)
        raise CommandError(
            f"The upstream {names} cannot serve.",
            status=ExitStatus.CHECK_FAILED,
            code="check_failed",
            hint="Mend `upstreams` in the config, or the environment that its keys name.",
        )


def _reach_all(settings: Settings) -> list[Reach]:
    config = settings.config
    used = {target.upstream: None for model in config.models.values() for target in model.targets}
    reached = []
    for name in used:
        upstream = config.upstreams[name]
        headers = {each: _resolve(settings, value) for each, value in upstream.headers.items()}
        present = {each: value for each, value in headers.items() if value is not None}
        reached.append(reach(name, upstream, _resolve(settings, upstream.api_key), present))
    return reached


def _resolve(settings: Settings, value: str | None) -> str | None:
    return resolve_reference(value, environ=os.environ, folder=settings.folder)


def _as_json(config: Config, name: str) -> dict[str, Any]:
    model = config.models[name]
    price = model.price
    aliases = [alias for alias, use in config.aliases.items() if use == name]
    return {
        "id": name,
        "object": "model",
        "targets": [{"upstream": each.upstream, "model": each.model} for each in model.targets],
        "price": None if price is None else {each: getattr(price, each) for each in _PRICES},
        "free": model.free,
        "max_output_tokens": model.max_output_tokens,
        "aliases": [*(["auto"] if config.auto.default == name else []), *aliases],
    }


def _row(model: dict[str, Any]) -> list[str | None]:
    targets = ", ".join(f"{each['upstream']}/{each['model']}" for each in model["targets"])
    prices = model["price"] or dict.fromkeys(_PRICES)
    return [model["id"], targets, *prices.values(), ", ".join(model["aliases"])]


def _word(value: object) -> object:
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
