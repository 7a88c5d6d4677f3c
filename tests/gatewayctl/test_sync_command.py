"""`gatewayctl credits sync`: with every webhook lost, the ledger ends where Stripe is."""

import asyncio

import pytest
from support.fake_stripe import fake_stripe
from support.selling import ENVIRON, shop

USD = 1_000_000


@pytest.fixture
def fake(home, monkeypatch):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with fake_stripe() as running:
        yield running
        running.check_calls()


def _sell(home, fake, act):
    async def inside():
        async with shop(home, fake) as opened:
            return await act(opened)

    return asyncio.run(inside())


def test_what_nobody_told_is_posted_once(home, cli, fake):
    _sell(home, fake, lambda opened: opened.paid(2500))

    first = cli("credits", "sync", "--json")
    again = cli("credits", "sync", "--json")
    shown = cli("credits", "show", "--json")

    assert (first.code, again.code) == (0, 0)
    assert first.json == {
        "object": "sync",
        "new_events": 1,
        "sessions": 1,
        "customers": 1,
        "payments_changed": 1,
        "quarantined": [],
    }
    assert again.json == first.json | {"new_events": 0, "sessions": 0, "payments_changed": 0}
    assert shown.json["balance_micros"] == 25 * USD


def test_what_is_in_quarantine_is_tried_again_and_told(home, cli, fake):
    async def sell(opened):
        topup = await opened.topup(1000)
        fake.pay(topup.session_id, currency="eur")
        return topup.session_id

    session_id = _sell(home, fake, sell)

    stuck = cli("credits", "sync")
    fake.find("checkout.session", session_id)["currency"] = "usd"
    mended = cli("credits", "sync", "--json")

    assert (stuck.code, ["quarantined", "1"] in stuck.rows) == (3, True)
    assert "Stripe's session has another currency." in stuck.err
    assert (mended.json["quarantined"], mended.json["payments_changed"]) == ([], 1)


def test_without_a_key_it_says_which_setting_is_missing(home, cli, fake, monkeypatch):
    _sell(home, fake, lambda opened: opened.topup())
    monkeypatch.delenv("STRIPE_SECRET_KEY")

    refused = cli("credits", "sync", "--json")

    assert (refused.code, refused.error["code"]) == (2, "billing_not_configured")
    assert "stripe.secret_key" in refused.error["hint"]


def test_stripe_out_of_reach_is_told(home, cli, fake):
    _sell(home, fake, lambda opened: opened.paid())
    fake.fail(503, times=99, should_retry=False)

    refused = cli("credits", "sync")

    assert refused.code == 7
    assert "Stripe cannot be reached" in refused.err
    assert "Traceback" not in refused.err
