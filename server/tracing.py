"""The collector of a config, ready to be sent spans: its headers looked up."""

import re
from collections.abc import Mapping

from server.config.load import Settings, resolve_reference
from server.observing.collector import Collector
from server.secret import Secret

PATH = "/v1/traces"

_FIT = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?").fullmatch


def collector_of(settings: Settings, environ: Mapping[str, str]) -> Collector | None:
    """Prepare where spans go; None where nobody wants any.

    Raises:
        ConfigError: a header resolves to nothing, or OpenTelemetry is not installed.
    """
    traces = settings.config.traces
    if traces.endpoint is None:
        return None
    try:
        from server.observing import traces as _  # noqa: F401 - what only this one needs
    except ModuleNotFoundError as exc:
        raise settings.error(
            ("traces", "endpoint"), "needs what `pip install 'gatewayctl[otel]'` adds"
        ) from exc
    headers = {name: _header(name, settings, environ) for name in traces.headers}
    url = traces.endpoint.rstrip("/").removesuffix(PATH) + PATH
    return Collector(url, headers, float(traces.sample_ratio))


def _header(name: str, settings: Settings, environ: Mapping[str, str]) -> Secret:
    reference = settings.config.traces.headers[name]
    value = resolve_reference(reference, environ=environ, folder=settings.folder)
    if value is None:
        raise settings.error(("traces", "headers", name), "resolves to nothing")
    if not _FIT(value.reveal()):
        # The HTTP client of the exporter would say so with the value in its message.
        raise settings.error(("traces", "headers", name), "resolves to what no header can carry")
    return value
