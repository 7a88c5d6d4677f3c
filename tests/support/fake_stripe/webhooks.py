"""A sender of webhooks: signed as Stripe signs, in whatever order and number, or forged."""

import http.client
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from stripe import WebhookSignature

SECRET = "whsec_fake"


@dataclass(frozen=True)
class Answer:
    """What a webhook was answered; `status` is None where the connection broke."""

    status: int | None
    body: bytes = b""


def send(url, events, *, order=None, secrets=(SECRET,), pauses_s=(), tries=1, age_s=0):
    """Post `events`, signed, and give the answers.

    `order` holds places in `events`: a place may be left out (lost), stand twice (duplicated)
    or before its elders (reordered). `pauses_s[n]` is waited before the nth is sent. What is
    not answered with a 2xx is sent again, up to `tries` times.
    """
    answers = []
    for at, place in enumerate(range(len(events)) if order is None else order):
        time.sleep(pauses_s[at] if at < len(pauses_s) else 0)
        body = encode(events[place])
        for _ in range(tries):
            answer = post(url, body, signature(body, secrets=secrets, age_s=age_s))
            if answer.status is not None and 200 <= answer.status < 300:
                break
        answers.append(answer)
    return answers


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
    except OSError:
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
    signed |= {"empty": b"", "an empty object": b"{}", "nested too deep": b"[" * 100_000}
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
