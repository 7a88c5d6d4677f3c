"""`/metrics`, for Prometheus: without a key, so for this machine alone unless it is opened."""

import asyncio
import platform
from collections.abc import Iterator
from importlib.metadata import version

from server.errors import NotFound, StoreUnavailable
from server.observing.exposition import CONTENT_TYPE, Family, Sample, alone, labels_of, render
from server.routes import wire
from server.routes.client_address import is_loopback
from server.routes.services import Services, services_of
from server.routes.wire import AnyApp, AnyRequest
from server.routing.breaker import State
from server.usage.record import open_holds

BREAKER_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}
FORWARDED = ("x-forwarded-for", "x-real-ip", "forwarded")


def register(app: AnyApp) -> None:
    """Serve the metrics."""
    wire.add(app, metrics, "/metrics", ["GET", "HEAD"], name="metrics")


async def metrics(request: AnyRequest) -> wire.Answer:
    """Show the figures of this process."""
    services = services_of(request)
    if services.settings.config.server.metrics == "loopback" and not _is_local(request):
        raise NotFound("/metrics is shown on the gateway's own machine; see `server.metrics`.")
    families = (*services.watch.families(), *_now(services), *await _holds(services))
    made = wire.request_id(request)
    headers = {"request-id": made, "x-request-id": made}
    return wire.Answer(render(families), headers=headers, content_type=CONTENT_TYPE)


def _is_local(request: AnyRequest) -> bool:
    # What a proxy on this machine passes on comes from loopback as well. Such headers can only
    # close the door, whoever wrote them.
    was_forwarded = any(name in request.headers for name in FORWARDED)
    return is_loopback(wire.peer(request)) and not was_forwarded


def _now(services: Services) -> Iterator[Family]:
    """Give what is under way just now, and what runs here since when."""
    yield alone(
        "gatewayctl_requests_in_flight",
        "gauge",
        "Requests that have begun and are not settled.",
        len(services.gateway.pumps),
    )
    yield alone(
        "gatewayctl_streams_open", "gauge", "Streams that clients read.", services.open_streams
    )
    hits = tuple(services.gateway.limiter.hits.items())
    yield Family(
        "gatewayctl_limits_total",
        "counter",
        "Requests over a limit: refused, or in the mode shadow let pass.",
        [Sample(labels_of({"limit": limit, "mode": mode}), n) for (limit, mode), n in hits],
    )
    yield _breakers(services)
    yield alone(
        "gatewayctl_store_queue_length",
        "gauge",
        "Writes to the database that are not committed yet.",
        services.store.queued,
    )
    build = {"version": version("gatewayctl"), "python": platform.python_version()}
    yield alone("gatewayctl_build_info", "gauge", "What runs here.", 1, labels_of(build))
    yield alone(
        "process_start_time_seconds",
        "gauge",
        "When it began, in seconds since 1970.",
        services.started_at.timestamp(),
    )


def _breakers(services: Services) -> Family:
    """Give the state of each target and key; a key is named by its number alone."""
    now = asyncio.get_running_loop().time()
    samples = []
    for part, breaker in services.gateway.router.breakers():
        named = {"model": part.model} if part.model else {"key": str(part.key)}
        labels = labels_of({"upstream": part.upstream} | named)
        samples.append(Sample(labels, BREAKER_STATES[breaker.state(now)]))
    return Family(
        "gatewayctl_breaker_state",
        "gauge",
        "Whether a target or key is asked: 0 it is, 1 it is tried with one request, 2 it is not.",
        samples,
    )


async def _holds(services: Services) -> tuple[Family, ...]:
    """Give the holds as the database has them; nothing while it cannot be read."""
    try:
        count, micros = await services.store.read(open_holds)
    except StoreUnavailable:
        return ()
    return (
        alone("gatewayctl_holds_open", "gauge", "Requests whose row is open.", count),
        alone(
            "gatewayctl_held_micros",
            "gauge",
            "Millionths of a US dollar that open requests hold.",
            micros,
        ),
    )
