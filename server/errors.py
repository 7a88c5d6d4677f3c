"""Every failure that the gateway reports to a caller.

    GatewayError                       500 internal
    ├── InvalidRequest                 400 invalid_request
    │   └── PromptTooLong              400 prompt_too_long
    ├── InvalidApiKey                  401 invalid_api_key
    ├── InsufficientBalance            402 insufficient_balance
    │   └── SpendCapReached            402 spend_cap_reached
    ├── SubscriptionInactive           402 subscription_inactive
    ├── KeyNotAllowed                  403 key_not_allowed
    │   └── ScopeNotAllowed            403 scope_not_allowed
    ├── NotFound                       404 not_found
    │   └── ModelNotFound              404 model_not_found
    ├── MethodNotAllowed               405 method_not_allowed
    ├── Conflict                       409 conflict
    ├── RequestTooLarge                413 request_too_large
    ├── RateLimited                    429 rate_limited
    ├── QuotaExceeded                  429 quota_exceeded
    ├── NotSupported                   501 not_supported
    │   └── BillingNotConfigured       501 billing_not_configured
    ├── UpstreamError                  502 upstream_error
    │   ├── AnswerTooLong              502 upstream_error
    │   └── UpstreamRefused            the provider's own 400, 413 or 429, passed on
    ├── Unavailable                    503 unavailable
    │   ├── StoreUnavailable           503 unavailable
    │   └── KeyChanged                 503 unavailable
    ├── UpstreamTimeout                504 upstream_timeout
    └── UpstreamOverloaded             529 overloaded

Status and code belong to the condition, so they sit on the class. The raise site adds one
sentence that is safe to send and says what to do next. `ConfigError` stands apart: it is the
operator's, is raised before a server listens, and ends a command with exit code 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar


class GatewayError(Exception):
    """A failure reported to the caller; `str(err)` is safe to send.

    Put secrets, upstream bodies and stack detail in the log, never in the message.
    `param` names the request field at fault (OpenAI's `param`), `retry_after_s` becomes the
    `retry-after` header, and `headers` go out with the answer: a provider's limits, say.
    `details` is the `error.details` that Anthropic's SDK chooses its exceptions by, and `limit`
    the limit of a key or a tier that refused the request, by its name in the config.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retriable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: Mapping[str, object] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.details = details
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}
        self.limit: str | None = None

    @property
    def http_status(self) -> int:
        """The status to answer with; the class's, unless the provider's own is passed on."""
        return self.status

    @property
    def reason(self) -> str:
        """The code that goes with `http_status`."""
        return self.code


class Internal(GatewayError):
    """Our bug; the traceback is in the log under the request id."""

    retriable = True


class InvalidRequest(GatewayError):
    """The request cannot be understood: bad JSON, a bad field."""

    status, code = 400, "invalid_request"


class PromptTooLong(InvalidRequest):
    """The prompt does not fit the model; the provider's wording is kept."""

    code = "prompt_too_long"


class InvalidApiKey(GatewayError):
    """The key is missing, unknown, revoked or expired."""

    status, code = 401, "invalid_api_key"


class InsufficientBalance(GatewayError):
    """The balance, less what running requests hold, does not pay for this.

    `held` is what running requests hold, in micros: some of it may come back soon.
    """

    status, code = 402, "insufficient_balance"
    held: int = 0


class SpendCapReached(InsufficientBalance):
    """The key's monthly cap has no room for this; `held` is what is held under the cap."""

    code = "spend_cap_reached"


class SubscriptionInactive(GatewayError):
    """There is no subscription, or it does not count just now."""

    status, code = 402, "subscription_inactive"


class KeyNotAllowed(GatewayError):
    """The key is good, but not for this route."""

    status, code = 403, "key_not_allowed"


class ScopeNotAllowed(KeyNotAllowed):
    """The key lacks the scope `manage`."""

    code = "scope_not_allowed"


class NotFound(GatewayError):
    """No such thing, or not the caller's: the two look the same."""

    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    """No model goes by this name; the message gives near ones."""

    code = "model_not_found"


class MethodNotAllowed(GatewayError):
    """The path exists under other methods; `allowed` becomes the `Allow` header."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class Conflict(GatewayError):
    """The change contradicts what is stored."""

    status, code = 409, "conflict"


class RequestTooLarge(GatewayError):
    """The body is over `server.max_body_mb`."""

    status, code = 413, "request_too_large"


class RateLimited(GatewayError):
    """Too many requests just now; `retry-after` says when."""

    status, code, retriable = 429, "rate_limited", True


class QuotaExceeded(GatewayError):
    """The subscription's quota is used up; `retry-after` leads to the window's end.

    `held` is what running requests hold, in weighted tokens: some of it may come back soon.
    `resets_at_s` is the window's end, in seconds since 1970.
    """

    status, code = 429, "quota_exceeded"
    held: int = 0
    resets_at_s: int | None = None


class NotSupported(GatewayError):
    """The gateway does not do this yet."""

    status, code = 501, "not_supported"


class BillingNotConfigured(NotSupported):
    """No Stripe key is configured: nothing can be bought here."""

    code = "billing_not_configured"


class UpstreamError(GatewayError):
    """The provider failed, or answered what cannot be passed on.

    `upstream_status` is the status that its words amount to; None where it said nothing of it.
    """

    status, code, retriable = 502, "upstream_error", True
    upstream_status: int | None = None


class AnswerTooLong(UpstreamError):
    """The answer goes on for longer than the gateway relays one: nobody is to blame."""


class UpstreamRefused(UpstreamError):
    """The provider's own 400, 413 or 429: its status, wording and details are kept.

    Of its 404s and 409s only those about a thread, from which Anthropic's SDK recovers.

    Clients match the wording ("prompt is too long: N tokens > M maximum") to recover, so the
    message is the provider's, word for word. `details` is its `error.details`, if it sent one.
    `spoken` is the protocol of which `kind` is a word.
    """

    upstream_status: int

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int,
        kind: str | None = None,
        spoken: str | None = None,
        code: str | None = None,
        param: str | None = None,
        details: Mapping[str, object] | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, param=param, details=details, retry_after_s=retry_after_s)
        self.upstream_status = upstream_status
        self.kind = kind
        self.spoken = spoken
        self.upstream_code = code

    @property
    def http_status(self) -> int:
        return self.upstream_status

    @property
    def reason(self) -> str:
        is_known = self.upstream_code == "context_length_exceeded"
        if is_known or str(self).startswith("prompt is too long"):
            return "prompt_too_long"
        return _REFUSED.get(self.upstream_status, self.code)


class Unavailable(GatewayError):
    """Draining, or a part of the gateway cannot work just now."""

    status, code, retriable = 503, "unavailable", True


class StoreUnavailable(Unavailable):
    """The database is locked, full or read-only: nothing was changed."""


class KeyChanged(Unavailable):
    """The key's limits were changed while the request came in: it is served under the new ones."""


class UpstreamTimeout(GatewayError):
    """The provider took longer than its configured timeouts."""

    status, code, retriable = 504, "upstream_timeout", True


class UpstreamOverloaded(GatewayError):
    """The provider said 503 or 529."""

    status, code, retriable = 529, "overloaded", True


class ConfigError(Exception):
    """A configuration file cannot be used; names the file, the key path and the line.

    `str(err)` reads `config.yaml:12: models.smart.price: …`.
    """

    def __init__(
        self, message: str, *, file: Path | None = None, key: str = "", line: int | None = None
    ) -> None:
        place = "" if file is None else str(file)
        if line is not None:
            place += f":{line}"
        super().__init__(": ".join(part for part in (place, key, message) if part))
        self.message = message
        self.file = file
        self.key = key
        self.line = line


def restarting() -> Unavailable:
    """Give the refusal of a gateway that stops: nothing is wrong with the request."""
    return Unavailable("The gateway is restarting; send the request again.", retry_after_s=5)


_REFUSED = {
    400: "invalid_request",
    404: "not_found",
    409: "conflict",
    413: "request_too_large",
    429: "rate_limited",
}
