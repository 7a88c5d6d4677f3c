"""What goes wrong on the way to the fake Stripe, and its idempotency keys."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import stripe
from support.fake_stripe import fake_stripe


@pytest.fixture
def fake():
    with fake_stripe() as fake:
        yield fake


@contextlib.contextmanager
def calling(fake, retries=0, timeout_s=2):
    http_client = stripe.RequestsClient(timeout=timeout_s)
    addresses = {"api": fake.url}
    try:
        yield stripe.StripeClient(
            fake.key,
            base_addresses=addresses,
            http_client=http_client,
            max_network_retries=retries,
        )
    finally:
        http_client.close()


def create(client, key="one", **params):
    return client.v1.customers.create(params, {"idempotency_key": key})


def statuses(fake):
    return [call.status for call in fake.calls]


def test_the_same_key_and_parameters_give_the_same_answer(fake):
    with calling(fake) as client:
        first = create(client, email="a@example.com")
        fake.delete_customer(first.id)
        again = create(client, email="a@example.com")

    assert (again.id, again.email) == (first.id, "a@example.com")
    assert [call.idempotency_key for call in fake.calls] == ["one", "one"]
    assert len(fake.all("customer")) == 1


def test_the_same_key_with_other_parameters_is_refused(fake):
    with calling(fake) as client:
        create(client, email="a@example.com")

        with pytest.raises(stripe.IdempotencyError, match="same parameters") as raised:
            create(client, email="b@example.com")

    assert raised.value.http_status == 400


def test_a_key_is_forgotten_after_a_day(fake):
    with calling(fake) as client:
        first = create(client)
        fake.advance(86_401)

        assert create(client).id != first.id


def test_a_refused_call_leaves_its_key_free(fake):
    with calling(fake) as client:
        with pytest.raises(stripe.InvalidRequestError, match="unknown parameter"):
            create(client, colour="red")

        assert create(client, email="a@example.com").email == "a@example.com"


def test_a_key_under_way_is_a_conflict(fake):
    fake.hang(0.3)
    with calling(fake) as one, calling(fake) as other, ThreadPoolExecutor() as pool:
        first = pool.submit(create, one)
        deadline = time.monotonic() + 2
        while not fake.idempotency and time.monotonic() < deadline:
            time.sleep(0.005)

        with pytest.raises(stripe.APIError, match="in progress") as raised:
            create(other)

        assert raised.value.http_status == 409
        assert create(other, key="two").id != first.result().id


@pytest.mark.parametrize("status", [409, 503])
def test_the_sdk_gets_over_a_passing_failure(fake, status):
    fake.fail(status, times=2, on="POST /v1/cust*")

    with calling(fake, retries=2) as client:
        create(client)

    assert statuses(fake) == [status, status, 200]
    assert {call.idempotency_key for call in fake.calls} == {"one"}


@pytest.mark.parametrize(
    ("status", "should_retry", "error", "tries"),
    [
        (500, None, stripe.APIError, 3),
        (500, False, stripe.APIError, 1),
        (429, None, stripe.RateLimitError, 1),
        (429, True, stripe.RateLimitError, 3),
        (401, None, stripe.AuthenticationError, 1),
        (402, None, stripe.CardError, 1),
        (403, None, stripe.PermissionError, 1),
    ],
)
def test_a_failure_says_whether_to_try_again(fake, status, should_retry, error, tries):
    fake.fail(status, times=9, should_retry=should_retry)

    with calling(fake, retries=2) as client, pytest.raises(error, match="Scripted"):
        create(client)

    assert statuses(fake) == [status] * tries


def test_a_500_is_saved_with_its_key(fake):
    """Stripe replays its own failures: only another key, or a day, gets over one."""
    fake.fail(500)

    with calling(fake, retries=2) as client:
        with pytest.raises(stripe.APIError, match="Scripted"):
            create(client)
        assert create(client, key="two").id

    assert statuses(fake) == [500, 500, 500, 200]


def test_a_500_may_come_after_the_work(fake):
    fake.fail(500, after=True)

    with calling(fake, retries=1) as client, pytest.raises(stripe.APIError, match="Scripted"):
        create(client)

    assert (statuses(fake), len(fake.all("customer"))) == ([500, 500], 1)


def test_a_lost_reply_is_made_good_by_the_key(fake):
    fake.lose_reply()

    with calling(fake, retries=1) as client:
        made = create(client)

    assert [each["id"] for each in fake.all("customer")] == [made.id]
    assert statuses(fake) == [None, 200]


def test_a_dropped_call_is_not_done(fake):
    fake.drop()

    with calling(fake) as client, pytest.raises(stripe.APIConnectionError, match="Network error"):
        create(client)

    assert (statuses(fake), fake.all("customer")) == ([None], [])


def test_a_call_that_nobody_waits_for_is_done_late(fake):
    fake.hang(0.2)

    with (
        calling(fake, timeout_s=0.05) as client,
        pytest.raises(stripe.APIConnectionError, match="timed out"),
    ):
        create(client)

    deadline = time.monotonic() + 2
    while not fake.all("customer") and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(fake.all("customer")) == 1


def test_a_hanging_call_does_not_keep_the_fake_from_stopping():
    with fake_stripe() as fake, ThreadPoolExecutor() as pool, calling(fake) as client:
        fake.hang(60)
        waiting = pool.submit(create, client)
        deadline = time.monotonic() + 2
        while not fake.calls and time.monotonic() < deadline:
            time.sleep(0.005)
        started = time.monotonic()
        fake.stopping.set()

        assert isinstance(waiting.exception(timeout=2), stripe.APIConnectionError)
    assert time.monotonic() - started < 2
    assert fake.all("customer") == []


def test_the_rest_of_the_script_may_be_forgotten(fake):
    fake.fail(503, times=9)

    fake.mend()

    with calling(fake) as client:
        assert create(client).id
