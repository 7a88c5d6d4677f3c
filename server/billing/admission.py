"""Let a request leave, or refuse it; and end what admission began, exactly once."""

from server.config.schema import Config
from server.errors import InvalidApiKey, KeyNotAllowed
from server.tenants.keys import Billing, Caller
from server.usage import record


def check_route(caller: Caller, tool: str | None, config: Config) -> None:
    """Hold the rule of which key serves where.

    A tool route takes both kinds of key; the generic ones only keys that pay per token, for
    a subscription buys the presets' tools.

    Raises:
        KeyNotAllowed: a subscription key on a generic route; the message names the tool routes.
    """
    if tool is None and caller.billing is Billing.SUBSCRIPTION:
        base = config.server.public_url or ""
        routes = ", ".join(
            f"{base}/{name}" for name in ("claudecode", "cline", "cursor", "roocode")
        )
        raise KeyNotAllowed(
            "A subscription key works only on the tool routes. "
            f"Set the tool's base URL to one of: {routes}."
        )


def admit(opening: record.Opening) -> None:
    """Write the request's row, provided its key still lives; runs inside the writer.

    Raises:
        InvalidApiKey: the key was revoked or expired after it was looked up.
    """
    if record.open_request(opening) is None:
        raise InvalidApiKey("This API key was revoked or has expired.")


def settle(request_id: str, closing: record.Closing) -> bool:
    """Close the request's row; False when it was closed before. Runs inside the writer."""
    return record.close_request(request_id, closing)
