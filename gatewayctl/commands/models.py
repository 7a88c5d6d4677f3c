"""`gatewayctl models`: look at the models, and check their upstreams."""

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Annotated, Any

import typer
from msgspec import structs

from gatewayctl.exits import CommandError, ExitStatus
from gatewayctl.health import Health, in_words, keys_json, read_health, targets_json
from gatewayctl.options import completed_by, noun
from gatewayctl.output import Table
from gatewayctl.reach import Reach, reach
from gatewayctl.session import Session
from server.billing import prices, rates
from server.config.load import Settings, resolve_reference
from server.config.schema import Config, Price, Upstream
from server.errors import StoreUnavailable
from server.routing.catalog import unknown_model
from server.secret import Secret
from server.store.db import open_database
from server.store.problems import StoreError, translated

app = noun("Look at the models, and check their upstreams.")

_COLUMNS = ("id", "targets", *rates.CLASSES, "aliases", "health")
_CHECKED = ("upstream", "protocol", "key", "connects", "answers", "detail")


def _names(session: Session) -> list[tuple[str, str]]:
    return [(name, "a model") for name in session.settings().config.models]


ModelName = Annotated[
    str, typer.Argument(help="The model.", metavar="NAME", autocompletion=completed_by(_names))
]


@app.command("list")
def list_models(ctx: typer.Context) -> None:
    """List the models, who serves them, their prices and other names, and how they do."""
    session = Session.of(ctx)
    settings = session.settings()
    known = _price_numbers(settings), read_health(settings)
    found = [_as_json(settings.config, name, *known) for name in settings.config.models]
    rows = [_row(model) for model in found]
    document = {"object": "list", "data": found, "has_more": False}
    session.out.table(document, Table(_COLUMNS, rows, numbers=frozenset(rates.CLASSES)))


@app.command("show")
def show(ctx: typer.Context, name: ModelName) -> None:
    """Show one model: how its targets share what is asked of it, and what serves behind them."""
    session = Session.of(ctx)
    settings = session.settings()
    if name not in settings.config.models:
        raise unknown_model(name, settings.config.models, lists="`gatewayctl models list`")
    model = _as_json(settings.config, name, _price_numbers(settings), read_health(settings))
    fields: dict[str, object] = dict(zip(_COLUMNS, _row(model), strict=True))
    fields["targets"] = ", ".join(
        f"{_target(each)} (order {each['order']}, weight {each['weight']})"
        for each in model["targets"]
    )
    fields["fallback"] = model["fallback"]
    session.out.table(model, Table(("field", "value"), list(fields.items())))


@app.command("check")
def check(ctx: typer.Context) -> None:
    """Call the upstream of every model with each key: it is there, connects, and is answered."""
    session = Session.of(ctx)
    reached = _reach_all(session.settings())
    ok = all(each.ok for each in reached)
    document = {"object": "models_check", "ok": ok, "data": [each.as_json() for each in reached]}
    rows = [[_word(each.as_json()[column]) for column in _CHECKED] for each in reached]
    session.out.table(document, Table(_CHECKED, rows))
    if not ok:
        names = ", ".join(each.upstream for each in reached if not each.ok)
        raise CommandError(
            f"Cannot serve: {names}.",
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
        there = structs.replace(upstream, proxy=_resolve(settings, upstream.proxy))
        keys = [_resolve(settings, key) for key in upstream.keys]
        reached.append(_reach_with_each(name, there, keys, present))
    return reached


def _reach_with_each(
    name: str, upstream: Upstream, keys: Sequence[Secret | None], headers: dict[str, Secret]
) -> Reach:
    """Call an upstream with each of its keys, up to the first that fails: tells which."""
    for number, key in enumerate(keys or [None], 1):
        reached = reach(name, upstream, key, headers)
        if not reached.ok and len(keys) > 1:
            detail = ": ".join(filter(None, (f"key {number}", reached.detail)))
            return replace(reached, detail=detail)
    return reached


def _resolve(settings: Settings, value: Secret | None) -> Secret | None:
    return resolve_reference(value, environ=os.environ, folder=settings.folder)


def _price_numbers(settings: Settings) -> dict[str, int]:
    """Give the number of each model's price, where the database has it; it need not be there.

    A price that was changed in the config has none until the gateway serves it.
    """
    models = settings.config.models
    try:
        database = open_database(settings.database_path, query_only=True)
        with closing(database), translated():
            stored = {name: prices.latest(name) for name in models}
    except (StoreError, StoreUnavailable):
        return {}
    return {
        name: price.number
        for name, price in stored.items()
        if price is not None and replace(price, number=0) == rates.price_of(name, models[name])
    }


def _as_json(
    config: Config, name: str, numbers: Mapping[str, int], health: Health
) -> dict[str, Any]:
    model = config.models[name]
    aliases = [alias for alias, use in config.aliases.items() if use == name]
    return {
        "id": name,
        "object": "model",
        "targets": targets_json(config, name, health),
        "keys": keys_json(config, name, health),
        "fallback": model.fallback,
        "price": None if model.price is None else _price_json(model.price),
        "price_number": numbers.get(name),
        "free": model.free,
        "max_output_tokens": model.max_output_tokens,
        "aliases": [*(["auto"] if config.auto.default == name else []), *aliases],
    }


def _price_json(price: Price) -> dict[str, Any]:
    shown: dict[str, Any] = dict(rates.dollars_by_class(price))
    if (long := price.long_context) is not None:
        limit = {"above_input_tokens": long.above_input_tokens}
        shown["long_context"] = limit | rates.dollars_by_class(long)
    extras = {name: given for name, given in structs.asdict(price.per_request).items() if given}
    return shown | ({"per_request": extras} if extras else {})


def _row(model: dict[str, Any]) -> list[str | None]:
    targets = ", ".join(map(_target, model["targets"]))
    price = model["price"] or {}
    by_class = [price.get(each) for each in rates.CLASSES]
    health = in_words(model["targets"], model["keys"])
    return [model["id"], targets, *by_class, ", ".join(model["aliases"]), health]


def _target(target: dict[str, Any]) -> str:
    return f"{target['upstream']}/{target['model']}"


def _word(value: object) -> object:
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
