"""Whatever order events come in, however often, however many are lost: the same rows."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.fake_stripe import fake_stripe
from support.selling import shop

TOPUPS = 3
SETTINGS = settings(
    max_examples=7,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes half a second, and shrinking takes hundreds
    suppress_health_check=[HealthCheck.too_slow],
)


class _Life:
    """What can happen at Stripe to three top-ups and a subscription, as a list of acts."""

    def __init__(self, fake, sessions, checkout):
        self.fake, self.sessions, self.checkout = fake, sessions, checkout
        self.payments, self.refunds, self.disputes = [], [], []
        self.subscription = None

    def act(self, name, number):
        getattr(self, name)(number)

    def pay(self, number):
        if self.sessions:
            self.payments.append(self.fake.pay(self.sessions.pop()))

    def expire(self, number):
        if self.sessions:
            self.fake.expire(self.sessions.pop())

    def refund(self, number):
        for payment in self.payments[number % TOPUPS :][:1]:
            charge = self.fake.all("charge", payment_intent=payment)[0]
            if charge["amount"] - charge["amount_refunded"] >= 100:
                self.refunds.append(self.fake.refund(payment, 100))

    def fail_refund(self, number):
        if self.refunds:
            self.fake.fail_refund(self.refunds.pop())

    def dispute(self, number):
        for payment in self.payments[number % TOPUPS :][:1]:
            self.disputes.append(self.fake.dispute(payment, 700))

    def warn(self, number):
        for payment in self.payments[number % TOPUPS :][:1]:
            self.fake.warn(payment)

    def win(self, number):
        if self.disputes:
            self.fake.win_dispute(self.disputes.pop())

    def subscribe(self, number):
        if self.checkout:
            self.subscription, self.checkout = self.fake.subscribe(self.checkout), None

    def change(self, number):
        if self.subscription:
            self.fake.set_subscription(self.subscription, price=["team", "pro"][number % 2])

    def fail_renewal(self, number):
        if self.subscription:
            self.fake.fail_renewal(self.subscription)

    def renew(self, number):
        if self.subscription:
            self.fake.renew(self.subscription)

    def cancel(self, number):
        if self.subscription:
            self.fake.cancel_subscription(self.subscription)
            self.subscription = None

    def delete_customer(self, number):
        if number == 0:
            for customer in self.fake.all("customer"):
                if not customer.get("deleted"):
                    self.fake.delete_customer(customer["id"])
            self.subscription = self.checkout = None


ACTS = [name for name in vars(_Life) if not name.startswith("_") and name != "act"]


async def _open_for_business(folder, fake):
    """Ask for all sessions; what happens later, happens at Stripe alone."""
    async with shop(folder, fake) as here:
        topups = [await here.topup(1000 * number) for number in range(1, TOPUPS + 1)]
        checkout = await here.checkout()
    return _Life(fake, [each.session_id for each in topups], checkout.session_id)


async def _never_told(folder, fake):
    async with shop(folder, fake) as here:
        await here.reconcile()
        return await here.end()


@SETTINGS
@given(
    st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 5)), max_size=25),
    st.data(),
)
def test_every_telling_ends_in_the_rows_of_one_who_was_told_nothing(acts, data):
    """Events come while things go on happening; any may be swapped, doubled or lost."""

    async def scenario(folder, fake):
        life = await _open_for_business(folder / "told", fake)
        shutil.copytree(folder / "told", folder / "untold")
        async with shop(folder / "told", fake) as here:
            for name, number in acts:
                life.act(name, number)
                if data.draw(st.booleans()) and fake.events:
                    some = st.lists(st.sampled_from(fake.events), max_size=4)
                    await here.tell(*data.draw(some))
            await here.reconcile()
            told = await here.end()
        return told, await _never_told(folder / "untold", fake)

    told, untold = _run(scenario)

    assert told == untold
    assert told["balance"] == sum(told["sums"].values())


@SETTINGS
@given(st.data())
def test_any_order_of_all_that_happened_ends_in_the_same_rows(data):
    """Top-ups, a failed refund, a lost and a won dispute, an upgrade, a late payment, the end."""
    story = "pay pay pay refund fail_refund dispute win refund dispute subscribe change"
    story += " fail_renewal renew change fail_renewal cancel"

    async def scenario(folder, fake):
        life = await _open_for_business(folder / "told", fake)
        shutil.copytree(folder / "told", folder / "untold")
        for number, name in enumerate(story.split()):
            life.act(name, number)
        order = data.draw(st.lists(st.sampled_from(fake.events), max_size=12))
        async with shop(folder / "told", fake) as here:
            for event in order:
                await here.tell(event)
            await here.reconcile()
            told = await here.end()
        return told, await _never_told(folder / "untold", fake)

    told, untold = _run(scenario)

    assert told == untold
    assert told["topups"] == ["paid"] * TOPUPS
    assert told["subscription"][:2] == ("pro", "canceled")


def _run(scenario):
    with tempfile.TemporaryDirectory() as name, fake_stripe() as fake:
        (Path(name) / "told").mkdir()
        result = asyncio.run(scenario(Path(name), fake))
        fake.check_calls()
    return result
