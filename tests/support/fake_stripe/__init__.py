"""A stateful Stripe on loopback, for the real `stripe` SDK.

    from support.fake_stripe import fake_stripe, send

    with fake_stripe() as fake:
        client = stripe.StripeClient(fake.key, base_addresses={"api": fake.url})
        customer = client.v1.customers.create({"metadata": {"tenant": "default"}})
        session = client.v1.checkout.sessions.create({...})

        payment = fake.pay(session.id)                  # what a person does at Checkout
        fake.refund(payment, 500)                       # what happens at Stripe
        send(webhook_url, fake.events, order=[1, 0, 0]) # what reaches us: swapped, twice, lost

        fake.fail(503, times=2, on="POST /v1/checkout/*")   # what goes wrong on the way
        fake.lose_reply()                                   # done there, unknown here

        assert [call.name for call in fake.calls] == ["POST /v1/customers", ...]
        fake.check_calls()

What happens at Stripe is a method of `FakeStripe` (payments.py, subscriptions.py) that takes
and gives ids, and emits the events that Stripe would, as snapshots, oldest first, into
`fake.events`. What there is, is read with `fake.find("refund", id)` and `fake.all("refund")`.
Prices: lookup keys `team` (2000 cents a month) and `pro` (5000). A list that is asked to
filter by what the fake does not know, and a call it does not know, are errors.

It is served by threads, so that plain and asyncio tests use it alike; in a coroutine call
`send` through `asyncio.to_thread`. Its clock is the machine's until `fake.advance(seconds)`
moves it ahead, or stands where `fake_stripe(now=...)` put it. While it serves, the SDK in
this process pauses for 0.01 s between two tries, and not for 0.5 s and more.

`fake.check_calls()` holds every call that was made to the SDK's own request types, as it was
sent and, for the SDK in this process, as it was meant: an int in `metadata` is a string on the
wire. A call that breaks the types on the wire is also refused at once, with a 400.
"""

from support.fake_stripe.server import FakeStripe, fake_stripe
from support.fake_stripe.webhooks import SECRET, Answer, forgeries, post, send, signature

__all__ = [
    "SECRET",
    "Answer",
    "FakeStripe",
    "fake_stripe",
    "forgeries",
    "post",
    "send",
    "signature",
]
