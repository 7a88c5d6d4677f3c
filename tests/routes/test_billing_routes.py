"""Buying, the webhook and the return page, over HTTP with a fake Stripe behind."""

import asyncio
import json
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest
from support.fake_stripe import SECRET, fake_stripe, forgeries, post, send, signature
from support.fake_stripe.webhooks import encode
from support.gateways import started
from support.selling import ENVIRON, selling_config
from support.wires import run, until

from server.store.models import Checkout, Entry, StripeEvent, Topup, database
from server.tenants.keys import Scope

USD = 1_000_000
ORDERS = ("topup", "checkout", "portal")
ORDER = {"amount_cents": 2500}


@pytest.fixture
def fake():
    with fake_stripe() as running:
        yield running
        running.check_calls()


@asynccontextmanager
async def _selling(folder, fake, environ=ENVIRON, **config):
    text = selling_config(fake.url, **config)
    async with started(folder, text, environ=environ) as gateway, gateway.client() as client:
        yield gateway, client


async def _rows(gateway, model):
    return await gateway.services.store.read(lambda: list(model.select().dicts()))


async def _topups(gateway):
    """Give the amounts that top-ups have put on the balance."""
    rows = await _rows(gateway, Entry)
    return [row["amount_micros"] for row in rows if row["kind"] == "topup"]


async def _send(gateway, *args, **options):
    return await asyncio.to_thread(send, f"{gateway.url}/stripe/webhook", *args, **options)


async def _post(gateway, body, header):
    return await asyncio.to_thread(post, f"{gateway.url}/stripe/webhook", body, header)


def _error(answer):
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"], answer.headers["x-should-retry"]


def test_a_topup_is_bought_told_and_credited_once(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, client):
            made = await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            (session,) = fake.all("checkout.session")
            fake.pay(session["id"])
            answers = await _send(gateway, fake.events, order=[2, 1, 0, *range(len(fake.events))])

            credited = await until(lambda: _topups(gateway))
        return made, answers, credited

    made, answers, credited = run(scenario)

    topup = made.json()
    assert made.status_code == 201
    assert list(topup) == ["id", "object", "status", "amount_cents", "url", "expires_at"]
    assert topup["id"].startswith("tu_")
    assert (topup["object"], topup["status"], topup["amount_cents"]) == ("topup", "open", 2500)
    assert topup["url"].startswith("https://")
    assert {(answer.status, answer.body) for answer in answers} == {(200, b'{"received":true}')}
    assert credited == [25 * USD]


def test_a_subscription_is_bought_and_managed(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (_, client):
            early = await client.post("/tenant/billing/portal")
            made = await client.post("/tenant/billing/checkout", json={"tier": "team"})
            (session,) = fake.all("checkout.session")
            fake.subscribe(session["id"])
            second = await client.post("/tenant/billing/checkout", json={"tier": "pro"})
            portal = await client.post("/tenant/billing/portal", json={})
            shown = await client.get("/tenant/subscription")
        return early, made, second, portal, shown

    early, made, second, portal, shown = run(scenario)

    assert _error(early) == (409, "conflict", None, "false")
    assert made.status_code == 201
    assert list(made.json()) == ["object", "tier", "url", "expires_at"]
    assert _error(second) == (409, "conflict", None, "false")
    assert "/tenant/billing/portal" in second.json()["error"]["message"]
    assert (portal.status_code, list(portal.json())) == (200, ["object", "url"])
    assert (shown.json()["tier"], shown.json()["status"]) == ("team", "active")


BAD_ORDERS = [
    ("topup", {}, "amount_cents"),
    ("topup", {"amount_cents": 499}, "amount_cents"),
    ("topup", {"amount_cents": 100_001}, "amount_cents"),
    ("topup", {"amount_cents": True}, "amount_cents"),
    ("topup", {"amount_cents": 1000.0}, "amount_cents"),
    ("topup", {"amount_cents": "1000"}, "amount_cents"),
    ("topup", {"amount_cents": -1000}, "amount_cents"),
    ("topup", {"amount_cents": 1000, "success_url": "https://evil.example"}, "success_url"),
    ("topup", {"amount_cents": 1000, "currency": "eur"}, "currency"),
    ("checkout", {}, "tier"),
    ("checkout", {"tier": "gold"}, "tier"),
    ("checkout", {"tier": ["team"]}, "tier"),
    ("checkout", {"tier": "gift"}, "tier"),
    ("checkout", {"tier": "team", "cancel_url": "https://evil.example"}, "cancel_url"),
    ("portal", {"return_url": "https://evil.example"}, "return_url"),
    ("portal", {"customer": "cus_other"}, "customer"),
]


def test_a_bad_order_is_refused_before_stripe_hears_of_it(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (_, client):
            return [
                await client.post(f"/tenant/billing/{order}", json=body)
                for order, body, _ in BAD_ORDERS
            ]

    answers = run(scenario)

    assert [_error(answer) for answer in answers] == [
        (400, "invalid_request", param, "false") for *_, param in BAD_ORDERS
    ]
    assert [call for call in fake.calls if call.method == "POST"] == []


def test_only_keys_that_manage_can_buy(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, client):
            _, secret = await gateway.mint(scope=Scope.INFERENCE)
            for order in ORDERS:
                for header in ({"x-api-key": secret}, {"x-api-key": "gwk_nothing"}):
                    yield await client.post(f"/tenant/billing/{order}", headers=header, json={})

    async def collect():
        return [each.status_code async for each in scenario()]

    assert run(collect) == [403, 401] * 3


def test_a_gateway_without_a_stripe_key_says_so(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake, environ={}) as (gateway, client):
            answers = [await client.post(f"/tenant/billing/{each}", json={}) for each in ORDERS]
            page = await client.get("/billing/return?session_id=cs_fake")
            return answers, await _post(gateway, b"{}", "t=1,v1=0"), page

    answers, webhook, page = run(scenario)

    assert [_error(each) for each in answers] == [
        (501, "billing_not_configured", None, "false")
    ] * 3
    assert "`stripe.secret_key`" in answers[0].json()["error"]["message"]
    assert (webhook.status, page.status_code) == (503, 200)
    assert fake.calls == []


def test_a_gateway_without_a_public_url_names_the_setting(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake, public_url=None) as (_, client):
            topup = await client.post("/tenant/billing/topup", json={"amount_cents": 500})
            checkout = await client.post("/tenant/billing/checkout", json={"tier": "team"})
            return [topup, checkout, await client.post("/tenant/billing/portal")]

    for answer in run(scenario):
        assert _error(answer)[:2] == (501, "billing_not_configured")
        assert "`server.public_url`" in answer.json()["error"]["message"]


def test_trouble_at_stripe_is_told_without_its_words(tmp_path, fake, caplog):
    trouble = {
        (500, "broken"): (502, "upstream_error"),
        (503, "busy"): (502, "upstream_error"),
        (429, "slow down"): (503, "unavailable"),
        (401, "Invalid API Key provided: sk_fake"): (500, "internal"),
        (403, "The key sk_fake may not"): (500, "internal"),
        (400, "about sk_fake"): (500, "internal"),
    }

    async def scenario():
        async with _selling(tmp_path, fake) as (_, client):
            answers = []
            for status, message in trouble:
                fake.mend()
                fake.fail(status, times=9, on="POST /v1/*", message=message, saved=False)
                answers.append(await client.post("/tenant/billing/topup", json=ORDER))
            fake.mend()
            fake.drop(times=9, on="POST /v1/*")
            return [*answers, await client.post("/tenant/billing/topup", json=ORDER)]

    answers = run(scenario)

    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        *trouble.values(),
        (502, "upstream_error"),
    ]
    assert [each.headers.get("retry-after") for each in answers if each.status_code == 503] == ["5"]
    assert "sk_fake" not in caplog.text + "".join(answer.text for answer in answers)


def test_a_webhook_that_is_not_from_stripe_is_refused_and_leaves_nothing(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, client):
            await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            fake.pay(fake.all("checkout.session")[0]["id"])
            bad = forgeries(fake.events[-1])
            future = encode(fake.events[-1])
            bad["soon"] = (future, signature(future, age_s=-310))
            bad["late"] = (future, signature(future, age_s=310))
            bad["not ASCII"] = (future, signature(future) + ",v1=\u00fc")
            odd = {"id": None, "created": 10**30, "livemode": "no", "data": [], "type": 7}
            for field, value in odd.items():
                body = encode(fake.events[-1] | {field: value})
                bad[f"odd {field}"] = (body, signature(body))
            answers = {name: await _post(gateway, *each) for name, each in bad.items()}
            return answers, await _rows(gateway, StripeEvent)

    answers, rows = run(scenario)

    assert {name: each.status for name, each in answers.items()} == dict.fromkeys(answers, 400)
    assert rows == []


def test_a_webhook_may_be_as_large_as_a_megabyte(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, _):
            body = json.dumps(_event(padding="x" * 900_000)).encode()
            large = await _post(gateway, body, signature(body))
            body = json.dumps(_event(padding="x" * 1_100_000)).encode()
            return large, await _post(gateway, body, signature(body))

    large, too_large = run(scenario)

    assert (large.status, too_large.status) == (200, 413)


def test_secrets_rotate_without_a_gap(tmp_path, fake):
    more = ', webhook_secrets: ["${STRIPE_WEBHOOK_SECRET}", "", "   ", "${UNSET}", whsec_fake_new]'

    async def scenario():
        async with _selling(tmp_path, fake, more=more) as (gateway, _):
            statuses = []
            for secrets in ((SECRET,), ("whsec_fake_new",), ("whsec_x", "whsec_fake_new")):
                answers = await _send(gateway, [_event()], secrets=secrets)
                statuses.append(answers[0].status)
            for blank in (" ", "   "):
                body = encode(_event())
                statuses.append(
                    (await _post(gateway, body, signature(body, secrets=(blank,)))).status
                )
            return statuses

    assert run(scenario) == [200, 200, 200, 400, 400]


def test_without_a_webhook_secret_nothing_is_believed(tmp_path, fake):
    async def scenario():
        environ = {"STRIPE_SECRET_KEY": "sk_fake"}
        async with _selling(tmp_path, fake, environ=environ) as (gateway, _):
            body = encode(_event())
            return [await _post(gateway, body, signature(body, secrets=(s,))) for s in (SECRET, "")]

    assert [each.status for each in run(scenario)] == [503, 503]


def test_what_is_not_for_us_is_taken_and_left_alone(tmp_path, fake):
    """Unknown types, the other mode, objects of somebody else: 200, or Stripe tries for days."""
    strange = [
        _event(id="evt_live", livemode=True),
        _event(id="evt_type", type="moon.rose", about={"object": "moon", "id": "moon_1"}),
        _event(id="evt_bare", about={"object": "charge", "id": "ch_1", "payment_intent": None}),
        _event(id="evt_other", about={"object": "customer", "id": "cus_other"}),
    ]

    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, _):
            answers = await _send(gateway, strange)

            async def all_looked_at():
                rows = await _rows(gateway, StripeEvent)
                return rows if all(row["state"] != "new" for row in rows) else None

            return answers, await until(all_looked_at)

    answers, rows = run(scenario)

    assert [each.status for each in answers] == [200] * 4
    assert {row["id"]: row["state"] for row in rows} == {
        event["id"]: "ignored" for event in strange
    }
    assert rows[0]["reason"] == "of the other mode: test and live do not mix"


def test_the_person_who_returns_finds_the_money_there_without_any_webhook(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, client):
            await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            (session,) = fake.all("checkout.session")
            page = f"/billing/return?session_id={session['id']}"
            fake.pay(session["id"])
            first = await client.get(page, headers={"x-api-key": ""})
            calls = len(fake.calls)
            again = [await client.get(page) for _ in range(3)]
            return first, again, len(fake.calls) - calls, await _topups(gateway)

    first, again, more_calls, entries = run(scenario)

    assert first.status_code == 200
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-store"
    assert "$25.00 is on your balance" in first.text
    assert "<script" not in first.text
    assert [each.text for each in again] == [first.text] * 3
    assert more_calls == 0
    assert entries == [25 * USD]


def test_the_return_page_repeats_nothing_and_asks_stripe_about_its_own_sessions_only(
    tmp_path, fake
):
    asked = [
        "",
        "?session_id=",
        "?session_id=cs_unknown",
        "?session_id=%3Cscript%3Ealert(1)%3C/script%3E",
        "?session_id=" + "x" * 9000,
        "?session_id=cs_1&session_id=cs_2",
        "?session_id=%00%ff",
    ]

    async def scenario():
        async with _selling(tmp_path, fake) as (_, client):
            return [await client.get("/billing/return" + each) for each in asked]

    answers = run(scenario)

    assert {(each.status_code, each.text) for each in answers} == {(200, answers[0].text)}
    assert "go on with your work" in answers[0].text
    assert [call for call in fake.calls if "cs_" in call.path] == []


def test_the_return_page_waits_for_a_slow_stripe_no_longer_than_a_person_would(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (_, client):
            await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            (session,) = fake.all("checkout.session")
            fake.fail(503, times=3, on="GET /v1/checkout/*")
            return await client.get(f"/billing/return?session_id={session['id']}")

    answer = run(scenario)

    assert answer.status_code == 200
    assert "in a moment" in answer.text


def test_with_all_webhooks_lost_the_gateway_finds_out_by_itself(tmp_path, fake):
    async def scenario():
        text = selling_config(fake.url)
        options = {"environ": ENVIRON, "reconcile_every_s": 0.05}
        async with started(tmp_path, text, **options) as gateway, gateway.client() as client:
            await client.post("/tenant/billing/topup", json={"amount_cents": 2500})
            await client.post("/tenant/billing/checkout", json={"tier": "team"})
            for session in fake.all("checkout.session"):
                act = fake.pay if session["mode"] == "payment" else fake.subscribe
                act(session["id"])

            async def bought():
                rows = [*await _rows(gateway, Topup), *await _rows(gateway, Checkout)]
                return [row["state"] for row in rows] == ["paid", "complete"]

            await until(bought)
            shown = await client.get("/tenant/subscription")
            return await _topups(gateway), shown.json()

    credited, subscription = run(scenario)

    assert credited == [25 * USD]
    assert (subscription["tier"], subscription["status"]) == ("team", "active")


def test_stripe_out_of_reach_stops_neither_start_nor_requests(tmp_path, fake):
    async def scenario():
        fake.drop(times=10**6)
        async with _selling(tmp_path, fake) as (gateway, client):
            answers = await _send(gateway, [_event(about={"object": "customer", "id": "cus_1"})])
            return answers, await client.get("/readyz")

    (webhook,), ready = run(scenario)

    assert (webhook.status, ready.status_code) == (200, 200)


def test_an_event_that_cannot_be_written_down_is_not_acknowledged(tmp_path, fake):
    async def scenario():
        async with _selling(tmp_path, fake) as (gateway, _):
            await gateway.services.store.write(_be_impatient)
            body = encode(_event())
            with closing(sqlite3.connect(tmp_path / "gateway.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                refused = await _post(gateway, body, signature(body))
                other.execute("ROLLBACK")
            return refused, await _post(gateway, body, signature(body))

    assert [answer.status for answer in run(scenario)] == [503, 200]


def _be_impatient():
    database.execute_sql("PRAGMA busy_timeout = 50")


def _event(about=None, padding="", **fields):
    about = about or {"object": "customer", "id": "cus_nobody"}
    return {
        "object": "event",
        "id": "evt_1",
        "type": "customer.updated",
        "created": 1_795_000_000,
        "livemode": False,
        "data": {"object": about | {"description": padding}},
    } | fields
