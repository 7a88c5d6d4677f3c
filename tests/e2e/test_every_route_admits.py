"""No way around admission: every route the app serves is called by someone who has nothing."""

import re

import pytest
from sanic import Sanic
from support.gateways import started
from support.priced import (
    asked,
    check_books,
    config,
    entries,
    priced,
    settled,
    subscription,
)
from support.wires import ROOTS, run

from server.tenants import keys

MODELS = priced("m", "demo-smart")
TIERS = "{team: {name: Team, price_cents: 0, quota_tokens: 1}}"
FREE = re.compile(r"/tenant/.*|/stripe/webhook|.*/messages/count_tokens")
BILLINGS = (keys.Billing.PAY_PER_TOKEN, keys.Billing.SUBSCRIPTION)


def _routes(gateway):
    """Give every path and method that the running app serves, parameters filled in."""
    app = Sanic.get_app(f"gatewayctl-{id(gateway.services):x}")
    return sorted(
        (re.sub("<[^>]*>", "m", "/" + route.path), method)
        for route in app.router.routes
        for method in route.methods
    )


def _body(path):
    if not path.endswith("/responses"):
        return asked("m", stream=False)
    return {"model": "m", "max_output_tokens": 300, "input": "hello"}


def _inference(routes):
    return [path for path, method in routes if method == "POST" and not FREE.fullmatch(path)]


@pytest.mark.parametrize(
    ("billing", "tiers", "refused"),
    [
        (keys.Billing.PAY_PER_TOKEN, TIERS, 402),
        (keys.Billing.SUBSCRIPTION, TIERS, 429),  # one token is not enough
        (keys.Billing.SUBSCRIPTION, "{}", 402),
    ],
)
def test_without_money_or_quota_no_route_reaches_a_provider(tmp_path, billing, tiers, refused):
    async def scenario():
        statuses = {}
        text = config(models=MODELS, tiers=tiers)
        async with started(tmp_path, text, usd=0) as gateway:
            _, secret = await gateway.mint(billing=billing)
            async with gateway.client(secret) as client:
                routes = _routes(gateway)
                for path, method in routes:
                    body = None if method in ("GET", "HEAD") else _body(path)
                    reply = await client.request(method, path, json=body)
                    statuses[path, method] = reply.status_code
            served = gateway.running.demo.journal.served
            return routes, statuses, served, await gateway.rows()

    routes, statuses, served, rows = run(scenario)

    inference = _inference(routes)
    assert set(inference) == {
        f"{root}/{path}" for root in ROOTS for path in ("messages", "chat/completions", "responses")
    }
    for path in inference:
        is_closed = billing is keys.Billing.SUBSCRIPTION and path.startswith("/v1/")
        assert statuses[path, "POST"] == (403 if is_closed else refused), path
    assert {status for status in statuses.values() if status >= 500} <= {501, 503}
    assert (served, rows) == (0, [])


@pytest.mark.parametrize("billing", BILLINGS)
def test_with_it_each_of_them_leaves_one_row_and_one_charge(tmp_path, billing):
    """The other half: what the walk calls is what is served, and is paid for."""
    tiers = TIERS.replace("quota_tokens: 1", "quota_tokens: 100000000")

    async def scenario():
        async with started(tmp_path, config(models=MODELS, tiers=tiers), usd=5) as gateway:
            _, secret = await gateway.mint(billing=billing)
            paths = _inference(_routes(gateway))
            if billing is keys.Billing.SUBSCRIPTION:
                paths = [path for path in paths if not path.startswith("/v1/")]
            async with gateway.client(secret) as client:
                for path in paths:
                    reply = await client.post(path, json=_body(path))
                    assert reply.status_code == 200, path
            rows = await settled(gateway)
            found = [each for each in await entries(gateway) if each["kind"] == "charge"]
            served = gateway.running.demo.journal.served
            return paths, rows, found, served, await subscription(gateway)

    paths, rows, charges, served, quota = run(scenario)

    assert len(rows) == len(paths) == served
    of_quota = billing is keys.Billing.SUBSCRIPTION
    assert len(charges) == (0 if of_quota else len(paths))
    assert quota["used_requests"] == (len(paths) if of_quota else 0)
    assert all(row["cost_micros"] + row["quota_tokens"] > 0 for row in rows)
    check_books(tmp_path)
