"""The inbox and the comparison: what waits, what is given up, what is found without being told."""

import asyncio
from datetime import timedelta

import pytest
from support.wires import until

from server import clock
from server.billing.stripe import events, inbox, sessions, worker
from server.billing.stripe.reconcile import reconcile
from server.errors import Internal, Unavailable, UpstreamError
from server.store.models import StripeCursor, StripeEvent, Topup

USD = 1_000_000


async def _put(shop, *happened, is_live=False):
    told = [events.read(each) for each in happened]
    return await shop.store.write(inbox.put, told, is_live=is_live, now=clock.now())


async def _make_due(shop):
    await shop.store.write(lambda: StripeEvent.update(try_at=clock.now()).execute())


def test_an_event_is_kept_once_and_what_is_about_one_thing_is_looked_at_once(in_shop, fake):
    async def scenario(shop):
        await shop.paid()
        first, again = await _put(shop, *fake.events), await _put(shop, *fake.events)
        before = len(fake.calls)
        assert await inbox.drain(shop.account)
        return first, again, [call.path for call in fake.calls[before:]]

    first, again, paths = in_shop(scenario)

    assert (first, again) == (len(fake.events), 0)
    assert sum(path.startswith("/v1/checkout/sessions/") for path in paths) == 2


def test_nothing_that_an_event_said_is_stored(in_shop, fake):
    async def scenario(shop):
        await shop.paid()
        await _put(shop, *fake.events)
        return await shop.rows(StripeEvent)

    rows = in_shop(scenario)

    assert "person@example.com" in str(fake.events)
    assert "person@example.com" not in str(rows)


def test_events_wait_while_stripe_is_away_longer_each_time_and_not_for_ever(in_shop, fake):
    async def scenario(shop):
        await shop.paid()
        await _put(shop, fake.events[-1])
        fake.fail(503, times=10**6, should_retry=False)
        pauses, states = [], []
        for _ in range(inbox.ATTEMPTS):
            before = clock.now()
            assert not await inbox.drain(shop.account)
            (row,) = await shop.rows(StripeEvent)
            pauses.append(round((row["try_at"] - before).total_seconds(), 0))
            states.append(row["state"])
            await _make_due(shop)
        fake.mend()
        given_up = (await shop.rows(StripeEvent))[0]["reason"]
        await shop.store.write(inbox.retry_quarantined, clock.now())
        assert await inbox.drain(shop.account)
        return pauses, states, given_up, await shop.entries()

    pauses, states, given_up, entries = in_shop(scenario)

    assert pauses[:4] == [5, 10, 20, 40]
    assert max(pauses) == 3600
    assert states == ["new"] * (inbox.ATTEMPTS - 1) + ["quarantined"]
    assert given_up.startswith("tried 20 times; the last: Stripe cannot be reached")
    assert entries == [("topup", 25 * USD)]


def test_one_event_that_always_fails_does_not_hold_up_the_others(in_shop, fake):
    async def scenario(shop):
        first, second = await shop.topup(1000), await shop.topup(2000)
        for topup in (first, second):
            fake.pay(topup.session_id)
        told = [e for e in fake.events if e["type"] == "checkout.session.completed"]
        await _put(shop, *told)
        fake.fail(500, times=10**6, on=f"GET /v1/checkout/sessions/{first.session_id}")
        stops = [await inbox.drain(shop.account) for _ in range(2)]
        return stops, await shop.entries()

    stops, entries = in_shop(scenario)

    assert stops == [False, True]
    assert entries == [("topup", 20 * USD)]


def test_the_worker_looks_at_an_event_soon_after_it_came(in_shop, fake):
    async def scenario(shop):
        async with worker.working(shop.account, 3600):
            await shop.paid()
            await _put(shop, *fake.events)
            shop.account.told.set()
            return await until(shop.entries)

    assert in_shop(scenario) == [("topup", 25 * USD)]


def test_the_worker_outlives_trouble_at_stripe(in_shop, fake, caplog):
    async def scenario(shop):
        await shop.paid()
        fake.fail(503, times=2, should_retry=False)
        async with worker.working(shop.account, 0.02):
            return await until(shop.entries)

    assert in_shop(scenario) == [("topup", 25 * USD)]
    assert "could not compare everything" in caplog.text


def test_nothing_is_asked_of_stripe_before_anything_was_sold(in_shop, fake):
    in_shop(lambda shop: reconcile(shop.account))

    assert fake.calls == []


def test_listing_goes_on_from_the_last_event_by_stripes_own_clock(in_shop, fake):
    async def scenario(shop):
        await shop.paid()
        fake.advance(7200)  # Stripe's clock is ahead of ours, and ours may be wrong
        fake.refund(fake.all("payment_intent")[0]["id"], 100)
        first = await reconcile(shop.account)
        again = await reconcile(shop.account)
        (cursor,) = await shop.rows(StripeCursor)
        return first.new_events, again.new_events, cursor["events_at"]

    first, again, at = in_shop(scenario)

    assert (first > 0, again) == (True, 0)
    assert at == clock.from_ms(fake.events[-1]["created"] * 1000)
    listed = [call.params for call in fake.calls if call.name == "GET /v1/events"]
    since = [int(each["created"]["gte"]) for each in listed]
    assert since[1] == fake.events[-1]["created"] - 600
    assert len(listed[0]["types"]) == 20


def test_a_listing_that_breaks_off_is_done_again(in_shop, fake):
    async def scenario(shop):
        topup = await shop.topup()
        for _ in range(130):
            fake.emit("refund.updated", {"id": "re_other", "object": "refund"})
        fake.pay(topup.session_id)
        fake.fail(503, times=10**6, on="GET /v1/events", should_retry=False)
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await reconcile(shop.account)
        fake.mend()
        return (await reconcile(shop.account)).new_events, await shop.rows(StripeCursor)

    new, (cursor,) = in_shop(scenario)

    assert new == 131
    assert cursor["events_at"] == clock.from_ms(fake.events[-1]["created"] * 1000)


def test_customers_are_compared_once_a_day(in_shop, fake):
    async def scenario(shop):
        await shop.topup()
        counts = [(await reconcile(shop.account)).customers for _ in range(2)]

        def a_day_ago():
            StripeCursor.update(customers_at=clock.now() - timedelta(days=1)).execute()

        await shop.store.write(a_day_ago)
        return [*counts, (await reconcile(shop.account)).customers]

    assert in_shop(scenario) == [1, 0, 1]


def test_a_session_that_stripe_no_longer_knows_is_given_up_once(in_shop, fake):
    async def scenario(shop):
        topup = await shop.topup()
        del fake.objects[topup.session_id]
        first = await reconcile(shop.account)
        again = await reconcile(shop.account)
        return first.sessions, again.sessions, await shop.rows(Topup)

    first, again, (row,) = in_shop(scenario)

    assert (first, again) == (1, 0)
    assert row["state"] == "quarantined"
    assert row["problem"] == "Stripe refused to show it (resource_missing)"


def test_a_session_that_always_fails_does_not_keep_the_others_waiting(in_shop, fake):
    async def scenario(shop):
        bad, good = await shop.topup(1000), await shop.topup(2000)
        fake.pay(good.session_id)
        fake.fail(503, times=10**6, on=f"GET /v1/checkout/sessions/{bad.session_id}")
        await reconcile(shop.account)
        return await shop.entries(), [row["checked_at"] is None for row in await shop.rows(Topup)]

    entries, never_checked = in_shop(scenario)

    assert entries == [("topup", 20 * USD)]
    assert never_checked == [False, False]


def test_a_key_that_may_not_list_events_still_credits_what_was_paid(in_shop, fake):
    async def scenario(shop):
        await shop.paid(1000)
        fake.fail(403, times=10**6, on="GET /v1/events")
        with pytest.raises(Internal, match="does not accept this gateway"):
            await reconcile(shop.account)
        return await shop.entries()

    assert in_shop(scenario) == [("topup", 10 * USD)]


def test_a_call_that_is_under_way_is_not_made_a_second_time(in_shop, fake):
    """Its row has no session yet, and a comparison that asked for it would get in its way."""

    async def scenario(shop):
        await shop.topup()
        fake.hang(0.4, on="POST /v1/checkout/sessions")
        calls = len(fake.calls)
        slow = asyncio.create_task(shop.topup())
        await until(lambda: _posted(fake, calls))
        compared = await reconcile(shop.account)
        (row,) = [row for row in await shop.rows(Topup) if row["session_id"] is None]
        found = await shop.store.read(Topup.get_by_id, row["id"])
        with pytest.raises(Unavailable, match="Stripe is busy"):
            await sessions.obtain(shop.account, found)
        await slow
        return compared, [row["state"] for row in await shop.rows(Topup)]

    compared, states = in_shop(scenario)

    assert compared.sessions == 2
    assert states == ["open", "open"]
    assert len(fake.all("checkout.session")) == 2


async def _posted(fake, calls):
    return any(call.name == "POST /v1/checkout/sessions" for call in fake.calls[calls:])
