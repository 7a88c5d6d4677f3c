"""What a config's parts must be to one another: names that exist, prices, URLs, headers."""

import re
from collections.abc import Collection, Iterator, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from ipaddress import IPv6Network, ip_network
from itertools import chain
from math import prod
from urllib.parse import SplitResult, urlsplit

from msgspec.structs import asdict

from server.config.convert import suggestion
from server.config.document import KeyPath
from server.config.references import is_malformed, is_reference, without_references
from server.config.schema import (
    Config,
    Model,
    Price,
    Server,
    Stripe,
    Traces,
    Upstream,
    UsageLimits,
)
from server.secret import Secret

Problem = tuple[KeyPath, str]

# What all factors of a request may come to: below it, the dearest price times the most tokens
# that a meter believes fits into the database's 64-bit integers.
FACTOR_LIMIT = 1000

RESERVED_MODELS = frozenset({"auto", "claude-auto"})

# The gateway sets these itself; another value would break framing or send the wrong key.
_FRAMING = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_OWN_HEADERS = _FRAMING | {"authorization", "x-api-key"}
_OWN_TRACES_HEADERS = _FRAMING | {"content-encoding", "content-type"}
_NEVER_DROPPED = frozenset({"max_tokens", "messages", "model", "stream"})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]+")
_HOST = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+")
_WILD = re.compile(r"[*?[]")
_URL = re.compile(r"[\x21-\x7e]+")


def first_problem(config: Config) -> Problem | None:
    """Find what makes `config` unusable as a whole: the key path, and the sentence to show."""
    upstreams = (_upstream(("upstreams", n), n, each) for n, each in config.upstreams.items())
    models = (_model(("models", n), n, each, config) for n, each in config.models.items())
    problems = chain(
        _server(config.server),
        _traces(config.traces),
        _database(config.database),
        *upstreams,
        *models,
        _routes(config),
        _tiers(config),
        _stripe(config.stripe),
    )
    return next(problems, None)


def _server(server: Server) -> Iterator[Problem]:
    if server.public_url is not None:
        yield from _url(("server", "public_url"), server.public_url)
    yield from _networks(("server", "trusted_proxies"), server.trusted_proxies)
    for at, origin in enumerate(server.cors_origins):
        yield from _origin(("server", "cors_origins", at), origin)


def _traces(traces: Traces) -> Iterator[Problem]:
    if traces.endpoint is not None:
        yield from _url(("traces", "endpoint"), traces.endpoint)
    for name, value in traces.headers.items():
        yield from _header(("traces", "headers", name), name, value, _OWN_TRACES_HEADERS)


def _database(database: str) -> Iterator[Problem]:
    if "://" in database:
        yield ("database",), "is not supported yet; give the path of an SQLite file"


def _compat(path: KeyPath, upstream: Upstream) -> Iterator[Problem]:
    flags = asdict(upstream.compat)
    for at, name in enumerate(flags.pop("drop_params") or ()):
        if name in _NEVER_DROPPED:
            yield (*path, "drop_params", at), f"no request can do without `{name}`"
    if upstream.protocol != "openai":
        for name in (name for name, value in flags.items() if value is not None):
            yield (*path, name), "is only for upstreams with `protocol: openai`"


def _upstream(path: KeyPath, name: str, upstream: Upstream) -> Iterator[Problem]:
    yield from _name(path, name)
    if upstream.protocol == "demo":
        if upstream.base_url is not None:
            yield (*path, "base_url"), "must be left out: the demo upstream is built in"
    elif upstream.base_url is None:
        yield path, "the key `base_url` is missing"
    else:
        yield from _url((*path, "base_url"), upstream.base_url)
    yield from _secret((*path, "api_key"), upstream.api_key)
    for at, key in enumerate(upstream.api_keys):
        yield from _secret((*path, "api_keys", at), key)
    yield from _compat((*path, "compat"), upstream)
    for header, value in upstream.headers.items():
        yield from _header((*path, "headers", header), header, value, _OWN_HEADERS)
    if upstream.proxy is not None and not is_reference(upstream.proxy.reveal()):
        yield from problems_of_proxy((*path, "proxy"), upstream.proxy.reveal())


def _header(path: KeyPath, name: str, value: Secret, own: Collection[str]) -> Iterator[Problem]:
    if not _HEADER_NAME.fullmatch(name):
        yield path, "is not a header name"
    if name.lower() in own:
        yield path, "is set by the gateway and cannot be configured"
    yield from _secret(path, value)


def _model(path: KeyPath, name: str, model: Model, config: Config) -> Iterator[Problem]:
    yield from _name(path, name)
    if name in RESERVED_MODELS:
        yield path, "is a reserved name; set `auto.default` to say what it means"
    if "*" in name:
        yield path, "cannot contain `*`; only aliases can"
    for at, target in enumerate(model.targets):
        yield from _known(
            (*path, "targets", at, "upstream"), target.upstream, config.upstreams, "an upstream"
        )
    if all(target.weight == 0 for target in model.targets):
        yield (*path, "targets"), "needs a target whose weight is not 0"
    yield from _fallback(path, name, model, config)
    if model.price is None and not model.free:
        yield path, "has no price; add `price`, or `free: true`"
    if model.price is not None and model.free:
        yield (*path, "free"), "contradicts `price`; keep one of the two"
    if model.price is not None:
        yield from _price((*path, "price"), model.price)


def _fallback(path: KeyPath, name: str, model: Model, config: Config) -> Iterator[Problem]:
    if model.fallback is None:
        return
    path = (*path, "fallback")
    yield from _known(path, model.fallback, config.models, "a model")
    seen, following = [name], model.fallback
    while following in config.models:
        if following in seen:
            yield path, f"leads back to `{following}`: {' → '.join((*seen, following))}"
            return
        seen.append(following)
        following = config.models[following].fallback or ""
    # What is held for one could not be settled as the other.
    if config.models[seen[-1]].free != model.free:
        yield path, "must be free as this model is, or have a price as it has"


def _price(path: KeyPath, price: Price) -> Iterator[Problem]:
    extras = price.per_request
    settings = (extras.speed, extras.service_tier, extras.inference_geo)
    largest = [max([Decimal(1), *map(Decimal, factors.values())]) for factors in settings]
    if prod(largest) >= FACTOR_LIMIT:
        yield (*path, "per_request"), "has factors that come to a thousand or more together"


def _routes(config: Config) -> Iterator[Problem]:
    for alias, model in config.aliases.items():
        yield from _known(("aliases", alias), model, config.models, "a model")
    if config.auto.default is not None:
        yield from _known(("auto", "default"), config.auto.default, config.models, "a model")
    for at, rule in enumerate(config.auto.rules):
        yield from _known(("auto", "rules", at, "use"), rule.use, config.models, "a model")


def _tiers(config: Config) -> Iterator[Problem]:
    for name, tier in config.tiers.items():
        yield from _name(("tiers", name), name)
        yield from problems_of_limits(("tiers", name, "limits"), tier.limits, config.models)
        if tier.limits.monthly_usd is not None:
            path = ("tiers", name, "limits", "monthly_usd")
            yield path, "cannot be set: a subscription's requests cost quota and no money"
    if config.default_tier is not None:
        yield from _known(("default_tier",), config.default_tier, config.tiers, "a tier")


def problems_of_limits(
    path: KeyPath, limits: UsageLimits, models: Collection[str]
) -> Iterator[Problem]:
    """Find what makes `limits` unusable where `models` are known: names, globs, networks."""
    for at, glob in enumerate(limits.models or ()):
        if not _WILD.search(glob):
            yield from _known((*path, "models", at), glob, models, "a model")
        elif not any(fnmatchcase(model, glob) for model in models):
            yield (*path, "models", at), f"`{glob}` matches no model"
    yield from _networks((*path, "networks"), limits.networks or ())


def _networks(path: KeyPath, networks: Sequence[str]) -> Iterator[Problem]:
    for at, network in enumerate(networks):
        try:
            found = ip_network(network)
        except ValueError:
            yield (*path, at), "must be an IP address or a network such as 10.0.0.0/8"
            continue
        if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped:
            yield (*path, at), "must be written as IPv4: clients are known by that address"


def _stripe(stripe: Stripe) -> Iterator[Problem]:
    yield from _secret(("stripe", "secret_key"), stripe.secret_key)
    for at, secret in enumerate(stripe.webhook_secrets):
        yield from _secret(("stripe", "webhook_secrets", at), secret)
    if stripe.api_base is not None:
        yield from _url(("stripe", "api_base"), stripe.api_base)


def _name(path: KeyPath, name: str) -> Iterator[Problem]:
    if not _NAME.fullmatch(name):
        yield path, "is not a name: it must be text without spaces"


def _known(path: KeyPath, name: str, known: Collection[str], what: str) -> Iterator[Problem]:
    if name not in known:
        yield path, f"`{name}` is not the name of {what}{suggestion(name, known)}"


def _secret(path: KeyPath, value: Secret | None) -> Iterator[Problem]:
    text = "" if value is None else value.reveal()
    if is_malformed(text):
        yield path, "has `${` but is not a reference; write ${NAME}"
    elif not is_reference(text) and not _HEADER_VALUE.fullmatch(text):
        yield path, "must be one line of ASCII characters"


def _url(path: KeyPath, url: str) -> Iterator[Problem]:
    parts = _split(url)
    if parts is None:
        yield path, "must be an http:// or https:// URL"
    elif "@" in parts.netloc:
        yield path, "must not contain a user name or password"
    elif "?" in url or "#" in url:
        yield path, "must not have a query or a fragment"


def _origin(path: KeyPath, origin: str) -> Iterator[Problem]:
    if "*" in origin:
        yield path, "must be one origin: with `*`, keys could be used from any web page"
        return
    parts = _split(origin)
    default = {"http": 80, "https": 443}
    if (
        parts is None
        or origin != f"{parts.scheme}://{parts.netloc}".lower()
        or "@" in origin
        or parts.port == default[parts.scheme]
    ):
        yield path, "must be as browsers send it: https://host, or https://host:port if not 443"


def problems_of_proxy(path: KeyPath, proxy: str) -> Iterator[Problem]:
    """Find what makes the URL of a proxy unusable; it may hold a password and is never shown."""
    parts = _split(without_references(proxy, "1"))
    if parts is None or parts.path not in {"", "/"} or parts.query or parts.fragment:
        yield path, "must be the URL of an HTTP proxy: http://host:port or http://user:…@host:port"


def _split(url: str) -> SplitResult | None:
    """Take an http(s) URL apart; None if it is not one. A URL may hold a secret: never shown."""
    try:
        parts = urlsplit(url)
        valid_port = parts.port != 0
    except ValueError:
        return None
    is_http = parts.scheme in {"http", "https"} and _URL.fullmatch(url) and valid_port
    return parts if is_http and _HOST.fullmatch(parts.hostname or "") else None
