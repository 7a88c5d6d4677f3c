"""A request as it came, the rules it meets, and what will leave of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import Raw, Struct
from msgspec.structs import asdict, replace

from server.billing.allowance import Limits, Weights, limits_of
from server.billing.pricing import Price
from server.config.schema import Config, Target, Upstream
from server.errors import ConfigError, ModelNotFound
from server.limits.bounds import Bound
from server.presets.load import Preset
from server.protocols import Protocol
from server.protocols.body import Body
from server.protocols.compat import Compat, ready_set
from server.protocols.extras import Extras
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
    prices: Mapping[str, Price]  # model -> the price in force; free models have none
    weights: Weights
    limits: Mapping[str, Limits]  # tier -> what it allows
    compat: Mapping[str, Compat]  # upstream -> what it needs to be told differently

    @classmethod
    def of(
        cls, config: Config, presets: Mapping[str, Preset], prices: Mapping[str, Price]
    ) -> "Rules":
        """Prepare what `config` and `presets` say; `prices` are numbered, from the store.

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
        return cls(
            config,
            routing,
            Catalog.of(config, LISTED_SINCE),
            presets,
            texts,
            prices,
            Weights.of(config.quota_weights),
            limits_of(config.tiers),
            {name: _compat_of(upstream) for name, upstream in config.upstreams.items()},
        )

    def spoken_by(self, target: Target, protocol: Protocol) -> Protocol:
        """Tell what `target` speaks with a client of `protocol`: the demo speaks both."""
        spoken = self.config.upstreams[target.upstream].protocol
        return protocol if spoken == "demo" else Protocol(spoken)


class Call(Struct, frozen=True):
    """An inference request as it came: who, on which route, with which headers and bytes.

    `client` is the address that it came from, as far as proxies are trusted. `bounds` are the
    limits that it is still to meet; `would_block` names one that it met already, had that been
    enforced.
    """

    caller: Caller
    protocol: Protocol
    tool: str | None
    headers: Mapping[str, str]
    raw: bytes
    request_id: str
    client: str = ""
    bounds: tuple[Bound, ...] = ()
    would_block: str | None = None


class Asked(Struct, frozen=True):
    """A request as it was understood: its logical model, its members with the preset in them."""

    request: Body
    model: str
    fields: dict[str, Raw]


class Plan(Struct, frozen=True):
    """What will be sent where, and what it costs; `protocol` and `fields` are the payload's.

    `streamed` tells whether the provider is asked for a stream, whatever the client asked for.
    A free model has no price. `extras` is what the request asks for that changes the bill.
    `names` leads from tools' names as they leave to those that the client knows.
    """

    request: Body
    model: str
    target: Target
    protocol: Protocol
    streamed: bool
    fields: Mapping[str, Raw]
    payload: bytes
    price: Price | None
    extras: Extras
    names: Mapping[str, str]


def _compat_of(upstream: Upstream) -> Compat:
    flags = upstream.compat
    own = {name: value for name, value in asdict(flags).items() if value is not None}
    return replace(ready_set(own.pop("server", None), upstream.base_url), **own)
