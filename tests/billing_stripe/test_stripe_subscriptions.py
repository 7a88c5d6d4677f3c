"""Subscriptions bought through Stripe: one at a time, and the row says what Stripe says."""

import asyncio
from datetime import timedelta

import pytest

from server import clock
from server.billing import subscriptions
from server.billing.stripe import checkouts, subscribed
from server.errors import BillingNotConfigured, Conflict, InvalidRequest, UpstreamError
from server.store.models import Checkout, Subscription, Tenant


async def _bought(shop, tier="team"):
    """Buy a tier without a word of it coming through; give the subscription's id."""
    checkout = await shop.checkout(tier)
    return shop.fake.subscribe(checkout.session_id)


async def _told(shop):
    """Tell everything, and give the row's tier and status."""
    await shop.tell_all()
    row = await shop.subscription()
    return row and (row.tier, row.status)


def test_a_bought_tier_is_there_and_ends_when_stripe_says_so(in_shop, fake):
    async def scenario(shop):
        stripe_id = await _bought(shop)
        seen = [await _told(shop)]
        bought = await shop.subscription()
        fake.set_subscription(stripe_id, price="pro")
        seen.append(await _told(shop))
        fake.set_subscription(stripe_id, cancel_at_period_end=True)
        seen.append(await _told(shop))
        ending = await shop.subscription()
        fake.cancel_subscription(stripe_id)
        seen.append(await _told(shop))
        return seen, bought, ending, await shop.rows(Checkout)

    seen, bought, ending, (checkout,) = in_shop(scenario)

    assert seen == [("team", "active"), ("pro", "active"), ("pro", "active"), ("pro", "canceled")]
    assert (bought.source, bought.cancel_at, bought.grace_until) == ("stripe", None, None)
    assert bought.current_period_end > clock.now() + timedelta(days=29)
    assert ending.cancel_at == ending.current_period_end == bought.current_period_end
    assert (checkout["state"], checkout["tier"]) == ("complete", "team")


def test_who_pays_late_has_three_days_of_grace(in_shop, fake):
    async def scenario(shop):
        stripe_id = await _bought(shop)
        await shop.tell_all()
        paid_until = (await shop.subscription()).current_period_end
        fake.fail_renewal(stripe_id)
        late = await _told(shop)
        row = await shop.subscription()
        fake.set_subscription(stripe_id, status="unpaid")
        after = await _told(shop)
        fake.renew(stripe_id)
        return paid_until, late, row, after, await _told(shop), await shop.subscription()

    paid_until, late, row, after, mended, again = in_shop(scenario)

    assert (late, after) == (("team", "past_due"), ("team", "unpaid"))
    assert row.grace_until == paid_until + timedelta(days=3)
    assert subscriptions.is_entitled(row, paid_until + timedelta(days=2))
    assert not subscriptions.is_entitled(row, paid_until + timedelta(days=3))
    assert (mended, again.grace_until) == (("team", "active"), None)


@pytest.mark.parametrize(
    ("status", "counts"),
    [
        ("trialing", True),
        ("active", True),
        ("unpaid", False),
        ("paused", False),
        ("incomplete", False),
        ("incomplete_expired", False),
        ("canceled", False),
        ("a_status_of_the_future", False),
    ],
)
def test_only_what_is_paid_for_counts(in_shop, fake, status, counts):
    async def scenario(shop):
        fake.set_subscription(await _bought(shop), status=status)
        await shop.tell_all()
        return await shop.subscription()

    row = in_shop(scenario)

    assert row.status == status
    assert subscriptions.is_entitled(row, clock.now()) is counts


def test_a_second_live_subscription_is_refused_though_nobody_told_us_of_the_first(in_shop, fake):
    async def scenario(shop):
        first = await _bought(shop)
        for status in ("active", "past_due", "unpaid", "paused", "incomplete"):
            fake.set_subscription(first, status=status)
            with pytest.raises(Conflict, match="POST /tenant/billing/portal"):
                await shop.checkout("pro")
        fake.cancel_subscription(first)
        return await _bought(shop, "pro"), await _told(shop)

    _, told = in_shop(scenario)

    assert told == ("pro", "active")
    assert len(fake.all("checkout.session")) == 2


def test_asking_twice_gives_the_same_session_and_another_tier_ends_it(in_shop, fake):
    """Two open sessions could both be paid."""

    async def scenario(shop):
        first = await shop.checkout("team")
        again = await shop.checkout("team")
        other = await shop.checkout("pro")
        return first, again, other, [row["state"] for row in await shop.rows(Checkout)]

    first, again, other, states = in_shop(scenario)

    assert again.url == first.url
    assert other.url != first.url
    assert states == ["expired", "open"]
    found = {each["id"]: each["status"] for each in fake.all("checkout.session")}
    assert found == {first.session_id: "expired", other.session_id: "open"}


def test_of_two_checkouts_at_once_one_is_opened(in_shop, fake):
    async def scenario(shop):
        await shop.topup()  # so that the customer is there
        both = await asyncio.gather(
            *(shop.checkout(tier) for tier in ("team", "pro")), return_exceptions=True
        )
        return [type(each).__name__ for each in both]

    assert sorted(in_shop(scenario)) == ["Checkout", "Conflict"]
    assert len(fake.all("checkout.session")) == 2  # the top-up's too


def test_a_crash_while_a_checkout_is_opened_leaves_one_session(in_shop, fake):
    async def scenario(shop):
        fake.lose_reply(times=3, on="POST /v1/checkout/sessions")
        with pytest.raises(UpstreamError, match="cannot be reached"):
            await shop.checkout()
        return await shop.checkout()

    checkout = in_shop(scenario)

    assert [each["id"] for each in fake.all("checkout.session")] == [checkout.session_id]


@pytest.mark.parametrize("tier", [None, 7, "gold", ["team"], "gift"])
def test_only_tiers_that_stripe_sells_can_be_bought(in_shop, tier):
    async def scenario(shop):
        return checkouts.check_tier(shop.account, tier)

    with pytest.raises(InvalidRequest, match="tier") as refused:
        in_shop(scenario)

    assert refused.value.param == "tier"


def test_a_tier_without_a_price_at_stripe_names_the_lookup_key(in_shop, fake):
    fake.archive_price("team")

    with pytest.raises(BillingNotConfigured, match="lookup key `team`"):
        in_shop(lambda shop: shop.checkout())


def test_a_price_that_no_tier_has_gives_nothing_and_is_reported(in_shop, fake):
    async def scenario(shop):
        stripe_id = await _bought(shop)
        await shop.tell_all()
        fake.set_price("gold", 9000)
        fake.set_subscription(stripe_id, price="gold")
        told = await _told(shop)
        return told, await shop.subscription(), await shop.event_states()

    told, row, states = in_shop(scenario)

    assert told == ("gold", "incomplete")
    assert not subscriptions.is_entitled(row, clock.now())
    assert ("quarantined", "no tier has the Stripe price gold") in states.values()


def test_a_tier_given_without_stripe_yields_to_what_was_bought_alone(in_shop, fake):
    async def scenario(shop):
        def give():
            subscriptions.put(
                shop.tenant_id, "gift", status="active", source="cli", now=clock.now()
            )

        await shop.store.write(give)
        stripe_id = await _bought(shop)
        seen = []
        for status in ("incomplete", "incomplete_expired", "active", "canceled"):
            fake.set_subscription(stripe_id, status=status)
            seen.append(await _told(shop))
        return seen

    assert in_shop(scenario) == [
        ("gift", "active"),
        ("gift", "active"),
        ("team", "active"),
        ("team", "canceled"),
    ]


def test_a_tier_given_after_a_subscription_ended_stays(in_shop, fake):
    async def scenario(shop):
        stripe_id = await _bought(shop)
        fake.cancel_subscription(stripe_id)
        await shop.tell_all()

        def give():
            later = clock.now() + timedelta(seconds=2)
            subscriptions.put(shop.tenant_id, "gift", status="active", source="cli", now=later)

        await shop.store.write(give)
        for event in fake.events:
            event["id"] += "_again"
        return await _told(shop)

    assert in_shop(scenario) == ("gift", "active")


def test_a_late_word_about_an_old_subscription_does_not_end_the_new_one(in_shop, fake):
    async def scenario(shop):
        fake.cancel_subscription(await _bought(shop))
        await shop.reconcile()
        fake.advance(60)
        old = list(fake.events)
        await _bought(shop, "pro")
        await shop.reconcile()
        for event in old:
            event["id"] += "_again"
        await shop.tell(*old)
        return await shop.subscription()

    row = in_shop(scenario)

    assert (row.tier, row.status) == ("pro", "active")


def test_of_several_subscriptions_the_one_that_lives_counts(in_shop, fake):
    """One may be made, or end, in Stripe's own dashboard, where nothing refuses a second."""

    async def scenario(shop):
        first = await shop.checkout("team")
        await shop.store.write(lambda: Checkout.update(state="expired").execute())
        second = await shop.checkout("pro")
        first = fake.subscribe(first.session_id)
        fake.advance(60)
        second = fake.subscribe(second.session_id)
        both = await _told(shop)
        fake.cancel_subscription(second)
        one = await _told(shop)
        fake.cancel_subscription(first)
        return both, one, await _told(shop)

    assert in_shop(scenario) == (("pro", "active"), ("team", "active"), ("pro", "canceled"))


def test_what_was_asked_before_a_change_is_not_written_over_it(in_shop, fake):
    """Server and command line may compare the same customer at once."""

    async def scenario(shop):
        stripe_id = await _bought(shop)
        await shop.tell_all()
        seen = await shop.store.read(subscribed._seen, shop.tenant_id)
        old = subscribed._that_counts(shop.account, fake.all("subscription"))
        fake.set_subscription(stripe_id, price="pro")
        await shop.tell_all()
        written = await shop.store.write(
            subscribed._apply, shop.tenant_id, seen, old, clock.now(), is_gone=False
        )
        return written, (await shop.subscription()).tier

    assert in_shop(scenario) == (False, "pro")


def test_a_deleted_customer_is_detached_and_the_next_purchase_makes_another(in_shop, fake):
    async def scenario(shop):
        await _bought(shop)
        await shop.tell_all()
        (tenant,) = await shop.rows(Tenant)
        fake.delete_customer(tenant["stripe_customer_id"])
        told = await _told(shop)
        (detached,) = await shop.rows(Tenant)
        await shop.topup()
        (again,) = await shop.rows(Tenant)
        return told, [each["stripe_customer_id"] for each in (tenant, detached, again)]

    told, (before, between, after) = in_shop(scenario)

    assert told == ("team", "canceled")
    assert between is None
    assert after not in {None, before}


def test_a_customer_that_was_deleted_without_a_word_makes_way_at_the_next_purchase(in_shop, fake):
    async def scenario(shop):
        await _bought(shop)
        await shop.tell_all()
        (tenant,) = await shop.rows(Tenant)
        fake.delete_customer(tenant["stripe_customer_id"])
        topup = await shop.topup()
        row = await shop.subscription()
        return topup.state, (row.tier, row.status)

    assert in_shop(scenario) == ("open", ("team", "canceled"))
    assert len(fake.all("customer")) == 2


def test_a_failure_that_stripe_repeats_does_not_stand_in_the_way_of_a_new_checkout(in_shop, fake):
    """Stripe answers a saved 500 again for as long as the key lives."""

    async def scenario(shop):
        fake.fail(500, on="POST /v1/checkout/sessions", should_retry=False)
        for _ in range(2):
            with pytest.raises(UpstreamError, match="cannot be reached"):
                await shop.checkout()
        await shop.checkout()
        return [row["state"] for row in await shop.rows(Checkout)]

    assert in_shop(scenario) == ["failed", "open"]


def test_a_bought_tier_keeps_what_was_used_of_the_quota(in_shop, fake):
    async def scenario(shop):
        stripe_id = await _bought(shop)
        await shop.tell_all()

        def use():
            Subscription.update(used_tokens=7).execute()

        await shop.store.write(use)
        fake.set_subscription(stripe_id, price="pro")
        await shop.tell_all()
        row = await shop.subscription()
        return row.tier, row.used_tokens

    assert in_shop(scenario) == ("pro", 7)
