"""Build the Sanic application: routes, error handlers, settings."""

import logging
from asyncio import CancelledError
from typing import Any

from sanic import Request, Sanic
from sanic.exceptions import MethodNotAllowed as SanicMethodNotAllowed
from sanic.exceptions import NotFound as SanicNotFound
from sanic.exceptions import PayloadTooLarge, SanicException, ServiceUnavailable

from server import errors
from server.config.schema import Config
from server.errors import GatewayError
from server.routes import billing, cors, discovery, inference, metrics, openapi, tenant, wire
from server.routes.head import CheckedRequest
from server.routes.services import Services, services_of

LONGEST_HEADER_BYTES = 16_384
METHODS = ("DELETE", "GET", "HEAD", "POST")

_log = logging.getLogger(__name__)


def create_app(services: Services) -> "Sanic[Any, Any]":
    """Build the application around the running parts in `services`."""
    app: Sanic[Any, Any] = Sanic(
        f"gatewayctl-{id(services):x}",  # Sanic wants another name for each app
        request_class=CheckedRequest,
        configure_logging=False,
        env_prefix=None,
        strict_slashes=False,
    )
    app.config.update(
        {
            "REQUEST_MAX_SIZE": services.body_limit_bytes,
            "REQUEST_MAX_HEADER_SIZE": LONGEST_HEADER_BYTES,
            "REQUEST_TIMEOUT": 60,
            "KEEP_ALIVE_TIMEOUT": 75,
            "RESPONSE_TIMEOUT": response_timeout_s(services.settings.config),
            "ACCESS_LOG": False,
            "MOTD": False,
            "AUTO_EXTEND": False,
        }
    )
    app.ctx.services = services
    for routes in (inference, discovery, tenant, billing, metrics, openapi):
        routes.register(app)
    app.error_handler.add(Exception, _on_error)
    app.error_handler.add(SanicMethodNotAllowed, _on_method)
    app.error_handler.add(CancelledError, _on_cut)
    return app


def response_timeout_s(config: Config) -> int:
    """Say how long Sanic may see nothing of an answer: longer than any provider may be silent."""
    upstreams = config.upstreams.values()
    longest_s = max(max(each.timeouts.first_byte_s, each.timeouts.idle_s) for each in upstreams)
    return int(longest_s) + 60


def _on_error(request: Request[Any, Any], exception: Exception) -> wire.Answer:
    """Answer whatever a handler, or Sanic before one, raised: the last resort."""
    error = _translated(request, exception)
    return wire.refused(request, error, wire.protocol_for(request))


def _on_method(request: Request[Any, Any], exception: SanicMethodNotAllowed) -> wire.Answer:
    """Answer a browser that asks what a page may do here; nothing else has this method."""
    origins = services_of(request).settings.config.server.cors_origins
    if request.method == "OPTIONS" and origins:
        told = cors.preflight_for(request, origins, _methods_of(request))
        if told is not None:
            made = wire.request_id(request)
            headers = {"request-id": made, "x-request-id": made, **told}
            return wire.Answer(status=204, headers=headers)
    return _on_error(request, exception)


def _on_cut(request: Request[Any, Any], _cancelled: BaseException) -> wire.Answer:
    """Answer a client that is there still: the drain did not wait for its request any longer."""
    return wire.refusal(request, errors.restarting(), wire.protocol_for(request))


def _translated(request: Request[Any, Any], exception: Exception) -> GatewayError:
    match exception:
        case GatewayError():
            return exception
        case SanicNotFound():
            return errors.NotFound(f"There is nothing at {request.path[:200]}.")
        case SanicMethodNotAllowed():
            allowed = _methods_of(request)
            return errors.MethodNotAllowed(
                f"{request.method} is not possible here; use {' or '.join(allowed)}.",
                allowed=allowed,
            )
        case PayloadTooLarge():
            return errors.RequestTooLarge(
                f"The request's head is larger than {LONGEST_HEADER_BYTES // 1024} KB."
            )
        case SanicException() if exception.status_code < 500:
            return errors.InvalidRequest("The request is not valid HTTP.")
    return _unexpected(request, exception)


def _methods_of(request: Request[Any, Any]) -> tuple[str, ...]:
    return tuple(method for method in METHODS if _serves(request, method))


def _serves(request: Request[Any, Any], method: str) -> bool:
    # Sanic itself cannot tell for a path with a parameter in it (25.12).
    try:
        request.app.router.get(request.path, method, None)
    except SanicMethodNotAllowed:
        return False
    return True


def _unexpected(request: Request[Any, Any], exception: Exception) -> GatewayError:
    if isinstance(exception, ServiceUnavailable):  # Sanic's own response timeout
        return errors.Unavailable("The gateway took too long to answer.", retry_after_s=1)
    _log.error("unhandled error (%s)", wire.request_id(request), exc_info=exception)
    return errors.Internal("The gateway failed; its log has the details under the request id.")
