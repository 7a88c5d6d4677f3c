"""Configs with several providers, and the places that they come to."""

import msgspec

from server.config.schema import Config
from server.routing.places import Breakers, places_of

ANTHROPIC = {"protocol": "anthropic", "base_url": "https://a.example"}
OPENAI = {"protocol": "openai", "base_url": "https://o.example"}
DEMO = {"protocol": "demo"}
FREE = {"free": True}


def target(upstream, model="m", **keys):
    return {"upstream": upstream, "model": model, **keys}


def config_of(models, upstreams, **sections):
    """Make a config; `models` names the targets of each, or its whole section."""
    whole = {
        name: given if isinstance(given, dict) else {"targets": given, **FREE}
        for name, given in models.items()
    }
    return msgspec.convert({"models": whole, "upstreams": upstreams, **sections}, Config)


def keys_of(config, **names):
    """Name the keys of each upstream: one, `k1`, where nothing else is said."""
    given = {upstream: names.get(upstream, ["k1"]) for upstream in config.upstreams}
    return {up: tuple(f"{up} key {name}" for name in known) for up, known in given.items()}


def laid_out(config, breakers=None, **names):
    """Give the places of a config."""
    return places_of(config, keys_of(config, **names), breakers or Breakers())
