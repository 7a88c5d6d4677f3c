"""Every route is called: one that changes what counts, and is not in the audit log, fails here."""

import asyncio
import json
import re

import pytest
from sanic import Sanic
from support.changes import audited, check_told, watched
from support.fake_stripe import fake_stripe, send
from support.gateways import started
from support.selling import ENVIRON, selling_config
from support.wires import run, until

from server.tenants.keys import Scope

SAYING = "a prompt that nobody else says"
INFERENCE = re.compile(r".*/(messages|messages/count_tokens|chat/completions|responses)")
# Each row: what changes something, the body that it takes, and what it leaves in the log. The
# webhook's answer changes nothing yet: what it tells of is looked at afterwards, see below.
CHANGES = (
    ("POST", "/tenant/keys", {"name": "child"}, ["key.created"]),
    ("DELETE", "/tenant/keys/{key}", None, ["key.revoked"]),
    ("DELETE", "/tenant/keys/{key}", None, []),
    (
        "POST",
        "/tenant/billing/topup",
        {"amount_cents": 2500},
        ["stripe.customer_attached", "topup.opened"],
    ),
    ("POST", "/tenant/billing/topup", {"amount_cents": 2500}, ["topup.opened"]),
    ("POST", "/tenant/billing/checkout", {"tier": "team"}, ["checkout.opened"]),
    ("POST", "/tenant/billing/checkout", {"tier": "team"}, []),  # the same session again
    ("POST", "/tenant/billing/portal", {}, []),  # where a person goes; Stripe tells what they did
    ("POST", "/stripe/webhook", {}, []),
)


@pytest.fixture
def fake():
    with fake_stripe() as running:
        yield running


def _routes(gateway):
    """Give every method and path that the running app serves, parameters filled in."""
    app = Sanic.get_app(f"gatewayctl-{id(gateway.services):x}")
    return sorted(
        (method, re.sub("<[^>]*>", "{key}", "/" + route.path))
        for route in app.router.routes
        for method in route.methods
    )


def _body(path):
    if path.endswith("/responses"):
        return {"model": "smart", "input": SAYING}
    turns = [{"role": "user", "content": SAYING}]
    return {"model": "smart", "max_tokens": 16, "messages": turns}


def test_every_route_that_changes_something_is_in_the_log(tmp_path, fake):
    path = tmp_path / "gateway.db"

    async def scenario():
        async with (
            started(tmp_path, selling_config(fake.url), environ=ENVIRON) as gateway,
            gateway.client() as client,
        ):
            (mine,) = (await client.get("/tenant/keys")).json()["data"]
            child = await client.post("/tenant/keys", json={"name": "first"})
            routes = _routes(gateway)
            listed = {(method, route) for method, route, *_ in CHANGES}
            others = [(*each, None, []) for each in routes if each not in listed]
            last, after = audited(path)[-1][0], watched(path)
            for method, route, body, expected in [*CHANGES, *others]:
                url = route.format(key=child.json()["id"])
                asked = _body(route) if INFERENCE.fullmatch(route) else body

                reply = await client.request(method, url, json=asked)

                rows = audited(path, last)
                before, after = after, watched(path)
                last = max([last, *(row[0] for row in rows)])
                told = [action for _, _, action, *_ in rows]
                assert told == expected, (method, route, reply.text)
                assert after == before or rows, (method, route)
                actors = {row[1] for row in rows if not row[2].startswith("stripe.")}
                assert actors <= {mine["id"]}, (method, route)
                if expected:
                    assert reply.status_code in (200, 201), reply.text
            return routes, child.json()["secret"]

    routes, secret = run(scenario)

    walked = {(method, route) for method, route, *_ in CHANGES}
    unknown = {
        (method, route)
        for method, route in routes
        if method not in ("GET", "HEAD") and not INFERENCE.fullmatch(route)
    }
    assert unknown == walked, "say of a new route what of it the log must have"
    check_told(path)
    text = repr(audited(path))
    assert [each for each in (secret, SAYING, *ENVIRON.values()) if each in text] == []


def test_what_stripe_tells_is_in_the_log(tmp_path, fake):
    path = tmp_path / "gateway.db"

    async def scenario():
        async with (
            started(tmp_path, selling_config(fake.url), environ=ENVIRON) as gateway,
            gateway.client() as client,
        ):

            async def told(*actions):
                """Send what has happened, and wait until the log has it as Stripe's own."""
                last = seen.pop()
                await asyncio.to_thread(send, f"{gateway.url}/stripe/webhook", fake.events)

                async def there():
                    rows = audited(path, last)
                    return [row[2] for row in rows] == list(actions) and rows

                rows = await until(there)
                assert {row[1] for row in rows} == {"stripe"}
                seen.append(rows[-1][0])

            await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            await client.post("/tenant/billing/checkout", json={"tier": "team"})
            seen = [audited(path)[-1][0]]
            checkout, top_up = fake.all("checkout.session")  # newest first
            payment = fake.pay(top_up["id"])
            await told("stripe.topup")
            refund = fake.refund(payment, 500)
            await told("stripe.refund")
            fake.fail_refund(refund)
            await told("stripe.refund")
            fake.dispute(payment, 700)
            await told("stripe.dispute")
            subscription = fake.subscribe(checkout["id"])
            await told("subscription.set")
            fake.set_subscription(subscription, cancel_at_period_end=True)
            await told("subscription.set")
            fake.cancel_subscription(subscription)
            await told("subscription.cancelled")
            fake.delete_customer(top_up["customer"])
            await told("stripe.customer_detached")

    run(scenario)

    amounts = [
        json.loads(details)["amount_micros"]
        for *_, action, _, details in audited(path)
        if action.startswith("stripe.") and "customer" not in action
    ]
    assert amounts == [25_000_000, -5_000_000, 5_000_000, -7_000_000]
    check_told(path)


def test_a_person_who_comes_back_before_the_webhook_is_in_the_log(tmp_path, fake):
    path = tmp_path / "gateway.db"

    async def scenario():
        async with (
            started(tmp_path, selling_config(fake.url), environ=ENVIRON) as gateway,
            gateway.client() as client,
        ):
            await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            (session,) = fake.all("checkout.session")
            fake.pay(session["id"])
            return await client.get(f"/billing/return?session_id={session['id']}")

    assert run(scenario).status_code == 200
    assert audited(path)[-1][1:3] == ("stripe", "stripe.topup")


def test_what_is_refused_is_not_in_the_log(tmp_path, fake):
    path = tmp_path / "gateway.db"

    async def scenario():
        async with started(tmp_path, selling_config(fake.url), environ=ENVIRON) as gateway:
            _, secret = await gateway.mint(scope=Scope.INFERENCE)
            before = audited(path)
            async with gateway.client(secret) as client:
                refused = [
                    (await client.request(method, route.format(key="key_x"), json=body)).status_code
                    for method, route, body, _ in CHANGES
                ]
            return before, refused

    before, refused = run(scenario)

    assert set(refused) == {400, 403}
    assert audited(path) == before
