"""The upstreams of a config, ready to be called: their keys and headers looked up."""

from collections.abc import Mapping
from functools import partial

from msgspec.structs import replace

from server.config.checks import problems_of_proxy
from server.config.load import Settings, resolve_reference
from server.config.missing import missing_keys, needs
from server.secret import Secret
from server.upstream.client import Endpoint, endpoint_of


def require_keys(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise ConfigError where the key of an upstream that serves a model resolves to nothing."""
    missing = missing_keys(settings, environ)
    if missing:
        raise settings.error(
            missing[0].place,
            f"resolves to nothing: {needs(missing)}; set the variables or write the files, or "
            "route no model there",
        )


def endpoints_of(
    settings: Settings, environ: Mapping[str, str], demo_url: str | None
) -> dict[str, Endpoint]:
    """Prepare every upstream; `protocol: demo` leads to `demo_url`.

    Raises:
        ConfigError: what a reference leads to cannot be used.
    """
    resolve = partial(resolve_reference, environ=environ, folder=settings.folder)
    endpoints = {}
    for name, upstream in settings.config.upstreams.items():
        ready = replace(
            upstream,
            api_key=resolve(upstream.api_key),
            api_keys=tuple(found for key in upstream.api_keys if (found := resolve(key))),
            proxy=resolve(upstream.proxy),
            headers={key: resolve(value) or Secret("") for key, value in upstream.headers.items()},
        )
        if ready.proxy is not None:
            for problem in problems_of_proxy(("upstreams", name, "proxy"), ready.proxy.reveal()):
                raise settings.error(*problem)
        endpoints[name] = endpoint_of(name, ready, demo_url)
    return endpoints
