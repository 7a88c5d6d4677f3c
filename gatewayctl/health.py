"""How the targets and keys of models do, as the gateway that runs has written it down."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, TypeAlias

from server import clock
from server.config.load import Settings
from server.config.schema import Config
from server.errors import StoreUnavailable
from server.store import breakers
from server.store.breakers import HeldOff
from server.store.db import open_database
from server.store.lock import is_held
from server.store.problems import StoreError, translated

# What is held off, by upstream, model and number of the key; None where no gateway runs.
Health: TypeAlias = Mapping[tuple[str, str, int], HeldOff] | None


def read_health(settings: Settings) -> Health:
    """Read what the gateway that serves the database holds off."""
    if is_held(settings.database_path) is None:
        return None
    try:
        database = open_database(settings.database_path, query_only=True)
        with closing(database), translated():
            return {(each.upstream, each.model, each.key): each for each in breakers.held_off()}
    except (StoreError, StoreUnavailable):
        return None


def targets_json(config: Config, name: str, health: Health) -> list[dict[str, Any]]:
    """Tell the targets of a model, what chooses between them, and how they do."""
    return [
        {
            "upstream": each.upstream,
            "model": each.model,
            "order": each.order,
            "weight": each.weight,
            "health": _as_json(health, each.upstream, each.model),
        }
        for each in config.models[name].targets
    ]


def keys_json(config: Config, name: str, health: Health) -> list[dict[str, Any]]:
    """Tell the keys of a model's upstreams by their numbers, and how they do."""
    used = dict.fromkeys(target.upstream for target in config.models[name].targets)
    return [
        {"upstream": upstream, "key": number, "health": _as_json(health, upstream, key=number)}
        for upstream in used
        # One that is called without a key may refuse that as well.
        for number in range(1, max(1, len(config.upstreams[upstream].keys)) + 1)
    ]


def in_words(targets: Sequence[dict[str, Any]], keys: Sequence[dict[str, Any]]) -> str | None:
    """Say what is held off of a model, or `ok`; None where no gateway runs."""
    parts = [*targets, *keys]
    if any(each["health"] is None for each in parts):
        return None
    failing = [each for each in parts if each["health"]["state"] != "closed"]
    if len(targets) == len(keys) == 1:
        return "; ".join(_word(each["health"]) for each in failing) or "ok"
    return "; ".join(f"{_name(each)} {_word(each['health'])}" for each in failing) or "ok"


def _as_json(health: Health, upstream: str, model: str = "", key: int = 0) -> Any:
    if health is None:
        return None
    held = health.get((upstream, model, key))
    if held is None:
        return {"state": "closed", "since": None, "until": None, "reason": None}
    # That its time has passed changes nothing in the database before a request tries it.
    is_due = held.until is not None and held.until <= clock.now()
    return {
        "state": "half_open" if is_due else held.state,
        "since": clock.rfc3339(held.since),
        "until": None if is_due or held.until is None else clock.rfc3339(held.until),
        "reason": held.reason,
    }


def _name(part: dict[str, Any]) -> str:
    upstream = part["upstream"]
    return f"{upstream} key {part['key']}" if "key" in part else f"{upstream}/{part['model']}"


def _word(health: dict[str, Any]) -> str:
    if health["state"] == "half_open":
        return "half-open"
    until = datetime.fromisoformat(health["until"]).astimezone()
    return f"open until {until:%H:%M:%S}: {health['reason']}"
