"""The models that clients may ask for, as both vendors' clients read them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from itertools import islice
from typing import Any

from server import clock
from server.config.schema import Config
from server.errors import ModelNotFound

AUTO_NAMES = ("auto", "claude-auto")

_SHOWN = 64  # characters of a name from outside that an error repeats
_COMPARED = 200  # names that a wrong one is compared with


def is_glob(alias: str) -> bool:
    """Tell whether an alias stands for a family of names and not for itself."""
    return any(character in alias for character in "*?[")


def names(config: Config) -> tuple[str, ...]:
    """List every name that can be asked for as it stands: auto, models, plain aliases."""
    auto = AUTO_NAMES if config.auto.default is not None or config.auto.rules else ()
    aliases = (alias for alias in config.aliases if not is_glob(alias))
    return tuple(dict.fromkeys((*auto, *config.models, *aliases)))


def unknown_model(
    name: str, known: Iterable[str], *, lists: str = "GET /v1/models"
) -> ModelNotFound:
    """Make the error for a name that nothing serves, with up to three near ones.

    Where none comes near, it says what `lists` them all.
    """
    # Comparing costs up to 14 µs a name, on the event loop: a long list is not read to its end.
    compared = islice(known, _COMPARED)
    near = [f'"{each}"' for each in get_close_matches(name[:_SHOWN], list(compared), n=3)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"{lists} lists what there is."
    return ModelNotFound(f"There is no model {quoted(name)}. {hint}", param="model")


def quoted(name: str) -> str:
    """Quote a name that came from outside: one line, at most 64 characters of it."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:_SHOWN])
    return f'"{shown}…"' if len(name) > _SHOWN else f'"{shown}"'


@dataclass(frozen=True, slots=True)
class Catalog:
    """The answers of `/v1/models`: items that satisfy strict clients of both vendors."""

    items: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, config: Config, created: datetime) -> "Catalog":
        """List what `config` serves; `created` is told for every model, so keep it the same."""
        return cls({name: _item(name, created) for name in names(config)})

    def item(self, name: str) -> dict[str, Any]:
        """Give one model.

        Raises:
            ModelNotFound: nothing is listed under `name`.
        """
        if name not in self.items:
            raise unknown_model(name, self.items)
        return self.items[name]

    def page(
        self, *, limit: int | None = None, after_id: str | None = None, before_id: str | None = None
    ) -> dict[str, Any]:
        """Give the models after and before the ids named, at most `limit`; all by default.

        An id that is not listed does not narrow the page: models come and go with the config.
        """
        ids = list(self.items)
        places = {name: place for place, name in enumerate(ids)}
        start = places.get(after_id or "", -1) + 1
        end = places.get(before_id or "", len(ids))
        within = ids[start:end]
        count = len(within) if limit is None else max(limit, 1)
        is_backwards = start == 0 and end < len(ids)
        chosen = within[-count:] if is_backwards else within[:count]
        return {
            "object": "list",
            "data": [self.items[name] for name in chosen],
            "has_more": len(chosen) < len(within),
            "first_id": chosen[0] if chosen else None,
            "last_id": chosen[-1] if chosen else None,
        }


def _item(name: str, created: datetime) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": clock.to_ms(created) // 1000,
        "owned_by": "gatewayctl",
        "type": "model",
        "display_name": name,
        "created_at": clock.rfc3339(created),
        "lifecycle": "active",
    }
