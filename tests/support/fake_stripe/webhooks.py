"""A sender of webhooks: signed as Stripe signs, in whatever order and number, or forged."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from urllib.parse import urlsplit

from stripe import WebhookSignature

SECRET = "whsec_fake"


@dataclass(frozen=True)
class Answer:
    """What a webhook was answered; `status` is None where the connection broke."""

    status: int | None
    body: bytes = b""

    @property
    def is_taken(self):
        """Tell whether Stripe would be content."""
        return self.status is not None and 200 <= self.status < 300


def send(
    url, events, *, order=None, secrets=(SECRET,), pauses_s=(), tries=1, age_s=0, together=False
):
    """Post `events`, signed, and give the answers.

    `order` holds places in `events`: a place may be left out (lost), stand twice (duplicated)
    or before its elders (reordered). The nth waits for `pauses_s[n]` first; they go one after
    the other, or all `together`. What is not answered with a 2xx is sent again, up to `tries`
    times.
    """
    places = range(len(events)) if order is None else order

    def deliver(event, pause_s):
        time.sleep(pause_s)
        body = encode(event)
        for _ in range(tries):
            answer = post(url, body, signature(body, secrets=secrets, age_s=age_s))
            if answer.is_taken:
                break
        return answer

    with ThreadPoolExecutor(max_workers=max(1, len(places)) if together else 1) as pool:
        pairs = zip_longest(places, pauses_s[: len(places)], fillvalue=0)
        return list(pool.map(lambda pair: deliver(events[pair[0]], pair[1]), pairs))


def encode(event):
    """Write `event` the way Stripe does, with line ends and indents."""
    return json.dumps(event, indent=2).encode()


def signature(body, *, secrets=(SECRET,), age_s=0):
    """Make the Stripe-Signature of `body`, with a `v1` for each of `secrets`.

    A negative `age_s` dates it in the future.
    """
    at = int(time.time()) - age_s
    text = body.decode("utf-8", "surrogateescape")
    headers = [WebhookSignature.generate_signature_header(text, each, at) for each in secrets]
    return ",".join([headers[0], *(each.partition(",")[2] for each in headers[1:])])


def post(url, body, header=None):
    """Post `body` with `header` as its signature, or with none."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0"}
    if header is not None:
        headers["Stripe-Signature"] = header
    try:
        connection.request("POST", parts.path, body, headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException):
        return Answer(None)
    finally:
        connection.close()


def forgeries(event, *, secret=SECRET):
    """Give (body, header) pairs that must not be taken for `event`, by what is wrong with them.

    The last ones are signed well, but hold no event that the API of today sends.
    """
    good = encode(event)
    thin = encode({"id": event["id"], "object": "v2.core.event", "type": "v1.ping"})
    signed = {"thin": thin, "not JSON": b"{", "a list": b"[]", "a number": b"1", "null": b"null"}
    signed |= {"empty": b"", "an empty object": b"{}"}
    return {
        "wrong secret": (good, signature(good, secrets=("whsec_wrong",))),
        "changed body": (good + b" ", signature(good, secrets=(secret,))),
        "stale": (good, signature(good, secrets=(secret,), age_s=86_400)),
        "future": (good, signature(good, secrets=(secret,), age_s=-86_400)),
        "unsigned": (good, None),
        "garbage": (good, "garbage"),
        "another scheme": (good, signature(good, secrets=(secret,)).replace("v1=", "v0=")),
        "no time": (good, signature(good, secrets=(secret,)).partition(",")[2]),
        "not UTF-8": (b"\xff\xfe", signature(b"{}", secrets=(secret,))),
    } | {name: (body, signature(body, secrets=(secret,))) for name, body in signed.items()}
