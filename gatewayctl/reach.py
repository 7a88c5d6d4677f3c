"""Whether an upstream can be called from here: its key, its connection, its answer."""

import http.client
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from server.config.schema import Upstream
from server.secret import Secret

_PATIENCE_S = 10


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a call of an upstream got; None where it did not come to that."""

    upstream: str
    protocol: str
    key: str  # found, missing, or none where none is configured
    connects: bool | None = None
    answers: bool | None = None
    status: int | None = None
    detail: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it can serve; the demo upstream always can."""
        return self.protocol == "demo" or (self.key != "missing" and self.answers is True)

    def as_json(self) -> dict[str, Any]:
        """Show it, with the verdict."""
        return asdict(self) | {"ok": self.ok}


class _NoRedirects(HTTPRedirectHandler):
    """Takes a redirect for the answer: following it would carry the key elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def reach(
    name: str, upstream: Upstream, api_key: Secret | None, headers: dict[str, Secret]
) -> Reach:
    """Ask `upstream` for its models, with its key and headers; a success is an answer."""
    key = "found" if api_key else "missing" if upstream.keys else "none"
    start = Reach(name, upstream.protocol, key)
    if upstream.protocol == "demo":
        return replace(start, detail="built in")
    request = Request(_models_url(upstream), headers=_headers(upstream, api_key, headers))  # noqa: S310 - the config allows http and https alone
    proxies = dict.fromkeys(("http", "https"), upstream.proxy.reveal()) if upstream.proxy else {}
    try:
        with build_opener(ProxyHandler(proxies), _NoRedirects).open(
            request, timeout=_PATIENCE_S
        ) as answer:
            return replace(start, connects=True, answers=True, status=answer.status)
    except HTTPError as exc:
        exc.close()
        detail = f"{request.full_url} answered {exc.code}"
        return replace(start, connects=True, answers=False, status=exc.code, detail=detail)
    except URLError as exc:
        return replace(start, connects=False, detail=f"{request.host}: {exc.reason}")
    except (OSError, http.client.HTTPException) as exc:
        return replace(start, connects=True, answers=False, detail=f"{request.host}: {exc!r}")


def _models_url(upstream: Upstream) -> str:
    base = (upstream.base_url or "").rstrip("/")
    if upstream.protocol == "anthropic":
        base = base.removesuffix("/v1") + "/v1"
    return f"{base}/models"


def _headers(
    upstream: Upstream, api_key: Secret | None, configured: dict[str, Secret]
) -> dict[str, str]:
    headers = {"user-agent": "gatewayctl"}
    if upstream.protocol == "anthropic":
        headers["anthropic-version"] = "2023-06-01"
        if api_key:
            headers["x-api-key"] = api_key.reveal()
    elif api_key:
        headers["authorization"] = f"Bearer {api_key.reveal()}"
    return headers | {name: value.reveal() for name, value in configured.items()}
