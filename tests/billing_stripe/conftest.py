import asyncio

import pytest
from support.fake_stripe import fake_stripe
from support.selling import shop


@pytest.fixture
def fake():
    """A fake Stripe; every call that a test made is held to the SDK's own types at its end."""
    with fake_stripe() as running:
        yield running
        running.check_calls()


@pytest.fixture
def in_shop(fake, tmp_path):
    """Run `scenario(shop)` in a new shop of the fake."""

    def run(scenario, **options):
        async def inside():
            async with shop(tmp_path, fake, **options) as opened:
                return await scenario(opened)

        return asyncio.run(inside())

    return run
