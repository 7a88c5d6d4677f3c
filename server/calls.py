"""A request as it came, the rules it meets, and what will leave of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from server.config.schema import Config, Target
from server.errors import ConfigError, ModelNotFound
from server.presets.load import Preset
from server.protocols import Protocol
from server.protocols.body import Body
from server.routing.catalog import Catalog
from server.routing.resolve import Routing
from server.tenants.keys import Caller

LISTED_SINCE = datetime(2026, 11, 1, tzinfo=UTC)  # what `/v1/models` says of every model


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides over a request; swapped whole on a reload, kept by running requests."""

    config: Config
    routing: Routing
    catalog: Catalog
    presets: Mapping[str, Preset]
    texts: Mapping[str, str]  # tool -> its preset's text, put together once

    @classmethod
    def of(cls, config: Config, presets: Mapping[str, Preset]) -> "Rules":
        """Prepare what `config` and `presets` say.

        Raises:
            ConfigError: a preset names a model that the config does not have.
        """
        routing = Routing(config)
        for preset in presets.values():
            try:
                routing.require_auto(preset.model)
            except ModelNotFound as err:
                raise ConfigError(str(err), file=preset.source, key="model") from err
        texts = {tool: preset.text() for tool, preset in presets.items()}
        return cls(config, routing, Catalog.of(config, LISTED_SINCE), presets, texts)


@dataclass(frozen=True, slots=True)
class Call:
    """An inference request as it came: who, on which route, with which headers and bytes."""

    caller: Caller
    protocol: Protocol
    tool: str | None
    headers: Mapping[str, str]
    raw: bytes
    request_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be sent where."""

    request: Body
    model: str
    target: Target
    payload: bytes
