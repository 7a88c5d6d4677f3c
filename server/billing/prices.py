"""The prices in force: each an immutable row, numbered, so that a charge can name its own."""

from collections.abc import Mapping
from datetime import datetime

from server import clock
from server.billing import pricing
from server.config.schema import Config
from server.store import audit
from server.store.models import Price as Row


def in_force(config: Config, now: datetime) -> dict[str, pricing.Price]:
    """Give each model's price as `config` says, with its number; free models have none.

    A price that differs from the model's last row becomes a new row. Runs in a transaction.
    """
    numbered = {}
    for name, model in config.models.items():
        price = pricing.price_of(name, model)
        if price is not None:
            numbered[name] = _numbered(price, now)
    return numbered


def latest(model: str) -> pricing.Price | None:
    """Read the price that was last in force for a model; None if it never had one."""
    row = Row.select().where(Row.model == model).order_by(Row.id.desc()).dicts().first()
    return None if row is None else pricing.from_columns(_columns(row))


def by_number(number: int) -> pricing.Price:
    """Read the price of that number; KeyError if there is none."""
    row = Row.select().where(Row.id == number).dicts().first()
    if row is None:
        raise KeyError(number)
    return pricing.from_columns(_columns(row))


def _numbered(price: pricing.Price, now: datetime) -> pricing.Price:
    columns = pricing.as_columns(price)
    last = latest(price.model)
    if last is not None and pricing.as_columns(last) | {"number": 0} == columns | {"number": 0}:
        return last
    values = {name: value for name, value in columns.items() if name != "number"}
    row = Row.create(**values, created_at=clock.from_ms(clock.to_ms(now)))
    told = {name: value for name, value in values.items() if name != "model"}
    audit.record(
        audit.Action.PRICE_SET,
        price.model,
        actor=audit.SERVE,
        at=now,
        tenant_id=None,
        number=row.id,
        **told,
    )
    return pricing.from_columns(columns | {"number": row.id})


def _columns(row: Mapping[str, object]) -> dict[str, object]:
    return {"number" if name == "id" else name: value for name, value in row.items()}
