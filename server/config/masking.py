"""The configuration as it may be shown: literal secrets hidden, references left in sight."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from server.config.document import dotted
from server.config.references import has_reference, is_reference, variables
from server.config.schema import Config
from server.secret import MASK, Secret

_USERINFO = re.compile(r"(?<=://).*(?=@)")


def masked(config: Config) -> dict[str, Any]:
    """Give `config` as plain values, every literal secret as `***`."""
    tree: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config, enc_hook=Secret.reveal))
    for upstream in tree["upstreams"].values():
        upstream["api_key"] = _mask(upstream["api_key"])
        upstream["api_keys"] = [_mask(each) for each in upstream["api_keys"]]
        upstream["proxy"] = _mask_userinfo(upstream["proxy"])
    for each in (*tree["upstreams"].values(), tree["traces"]):  # no name tells what a header holds
        each["headers"] = {name: _mask(value) for name, value in each["headers"].items()}
    stripe = tree["stripe"]
    stripe["secret_key"] = _mask(stripe["secret_key"])
    stripe["webhook_secrets"] = [_mask(each) for each in stripe["webhook_secrets"]]
    return tree


def literal_secrets(config: Config) -> Iterator[str]:
    """Name, by key path, every API key and Stripe secret written out in the file."""
    for name, upstream in config.upstreams.items():
        if _is_literal(upstream.api_key):
            yield dotted(("upstreams", name, "api_key"))
        for at, key in enumerate(upstream.api_keys):
            if _is_literal(key):
                yield dotted(("upstreams", name, "api_keys", at))
    if _is_literal(config.stripe.secret_key):
        yield "stripe.secret_key"
    for at, secret in enumerate(config.stripe.webhook_secrets):
        if _is_literal(secret):
            yield dotted(("stripe", "webhook_secrets", at))


def environment_variables(config: Config) -> tuple[str, ...]:
    """Name the environment variables that `config` refers to, each once, in its order."""
    found: list[Secret | None] = [*config.traces.headers.values()]
    for upstream in config.upstreams.values():
        found += (*upstream.keys, upstream.proxy, *upstream.headers.values())
    found += (config.stripe.secret_key, *config.stripe.webhook_secrets)
    names = (name for each in found if each is not None for name in variables(each.reveal()))
    return tuple(dict.fromkeys(names))


def _is_literal(value: Secret | None) -> bool:
    return value is not None and bool(value) and not has_reference(value.reveal())


def _mask(value: str | None) -> str | None:
    return value if not value or is_reference(value) else MASK


def _mask_userinfo(url: str | None) -> str | None:
    return None if url is None else _USERINFO.sub(lambda match: str(_mask_pair(match[0])), url)


def _mask_pair(userinfo: str) -> str:
    return ":".join(str(_mask(part)) for part in userinfo.split(":", 1))
