"""Cross-origin requests: the web pages that `server.cors_origins` names may call, no others."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from sanic import Request

from server.routes.paths import TOOLS

EXPOSED = "request-id, retry-after, x-request-id, x-should-retry, x-upstream-request-id"
REMEMBERED_S = 600  # how long a browser need not ask again

# What both vendors' SDKs send from a browser; a page may not invent others.
_HEADER = re.compile(
    r"accept|authorization|content-type|idempotency-key|traceparent|tracestate|x-api-key"
    r"|x-request-id|x-session-id|session-id|(?:anthropic|openai|x-claude-code|x-stainless)-[a-z-]+"
).fullmatch
_SHARED = re.compile(rf"/(?:v1|tenant|{'|'.join(TOOLS)})/").match


def headers_for(request: Request[Any, Any], origins: Collection[str]) -> dict[str, str]:
    """Give the headers by which a browser lets a page of `origins` read an answer.

    Caches are told that the answer depends on who asks, whoever does.
    """
    if not _SHARED(request.path):
        return {}
    origin = request.headers.get("origin")
    if origin is None or origin not in origins:
        return {"vary": "Origin"}
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": EXPOSED,
        "vary": "Origin",
    }


def preflight_for(
    request: Request[Any, Any], origins: Collection[str], methods: Sequence[str]
) -> dict[str, str] | None:
    """Give what else a browser is told before it calls a path that serves `methods`.

    None: it is no such question, or not from a page of `origins`.
    """
    if "access-control-request-method" not in request.headers:
        return None
    if not _SHARED(request.path) or request.headers.get("origin") not in origins:
        return None
    asked = request.headers.get("access-control-request-headers", "").lower()
    wanted = [name for each in asked.split(",") if _HEADER(name := each.strip())]
    return {
        "access-control-allow-methods": ", ".join(methods),
        "access-control-allow-headers": ", ".join(wanted),
        "access-control-max-age": str(REMEMBERED_S),
    }
