"""What a person sees in a real Claude Code when the gateway or the provider says no."""

import pytest
from support.clients import claude
from support.stages import stage
from support.tee import tee
from support.wires import run

from server.tenants.keys import Billing

pytestmark = pytest.mark.clients

QUICK_S = 15  # with its default of ten retries it takes minutes over what it thinks passes


@pytest.fixture
def refused(tmp_path):
    """Run Claude Code where it cannot work; give how it ended, its requests and the rows."""

    def call(path="/claudecode", model="demo-smart", billing=Billing.SUBSCRIPTION, **settings):
        money = {name: settings.pop(name) for name in ("usd", "quota") if name in settings}

        async def scenario():
            async with (
                stage(tmp_path / "gateway", model=model, **money) as (_, gateway),
                tee(gateway.url) as front,
            ):
                key_id, secret = await gateway.mint(billing=billing)
                if settings.pop("revoked", False):
                    async with gateway.client() as http:
                        (await http.delete(f"/tenant/keys/{key_id}")).raise_for_status()
                client = claude(tmp_path / "home", front.url + path, secret, **settings)
                return await client.run(), front.requests, await gateway.rows()

        done, sent, rows = run(scenario)
        assert done.code == 1
        assert done.seconds < QUICK_S
        return done, sent, rows

    return call


@pytest.mark.parametrize("auth", ["AUTH_TOKEN", "API_KEY"])
def test_a_revoked_key_is_told_at_once_in_our_words(refused, auth):
    """Without `x-should-retry: false` it would try seven times, in silence."""
    done, sent, rows = refused(revoked=True, auth=auth)

    assert done.out == (
        "Failed to authenticate. API Error: 401 This API key was revoked; use another one.\n"
    )
    assert (len(sent), rows) == (1, [])


def test_a_subscription_key_on_the_generic_route_is_told_where_it_works(refused):
    done, sent, rows = refused(path="")

    assert "API Error: 403 A subscription key works only on the tool routes." in done.out
    assert "/claudecode" in done.out
    assert (len(sent), rows) == (1, [])


def test_an_unknown_model_ends_at_once(refused):
    """It hides our message and says its own; what matters is that it does not hang."""
    done, sent, rows = refused(ANTHROPIC_MODEL="no-such-model")

    assert "There's an issue with the selected model (no-such-model)." in done.out
    assert len(sent) <= 2
    assert rows == []


def test_an_empty_balance_is_told_at_once_with_what_is_missing(refused):
    done, sent, rows = refused(billing=Billing.PAY_PER_TOKEN, usd=0)

    assert "API Error: 402 Insufficient balance: this request needs $0." in done.out
    assert "and $0.00 is available. Top up" in done.out
    assert (len(sent), rows) == (1, [])


def test_a_quota_that_is_used_up_is_told_at_once_with_when_it_resets(refused):
    done, sent, rows = refused(quota="1000")

    assert "The quota of 1,000 tokens in 24 hours has no room for this request" in done.out
    assert "It resets in 24 h 0 min" in done.out
    assert (len(sent), rows) == (1, [])


def test_a_prompt_that_is_too_long_is_recognised_through_us(refused):
    done, sent, (row,) = refused(model="fault:toolong")

    assert done.out.startswith("Prompt is too long · the request is ~250000 tokens (limit 200000)")
    assert len(sent) == 1
    assert (row["status"], row["outcome"]) == (400, "upstream_error")


def test_a_long_rate_limit_ends_at_once_with_the_providers_words(refused):
    done, sent, (row,) = refused(model="fault:ratelimit:3600")

    assert "would exceed the rate limit of the demo upstream." in done.out
    assert len(sent) == 1
    assert (row["status"], row["outcome"]) == (429, "upstream_error")


@pytest.mark.parametrize(
    ("model", "status", "sentence"),
    [
        ("fault:overloaded", 529, "API Error: 529 The provider is overloaded; try again."),
        ("fault:unauthorized", 502, "API Error: 502 The provider did not accept the gateway's"),
        ("fault:cut", 200, "API Error: Server error mid-response."),
        ("fault:error-mid", 200, "API Error: Server error mid-response."),
    ],
)
def test_a_failing_provider_is_tried_again_and_each_try_has_a_row(refused, model, status, sentence):
    done, sent, rows = refused(model=model, CLAUDE_CODE_MAX_RETRIES="1")

    assert sentence in done.out
    assert "gwk_" not in done.said
    assert len(sent) == len(rows) > 1
    assert {(row["status"], row["outcome"]) for row in rows} == {(status, "upstream_error")}


def test_a_short_rate_limit_is_waited_for(refused):
    done, sent, rows = refused(model="fault:ratelimit:1", CLAUDE_CODE_MAX_RETRIES="1")

    assert "rate limit" in done.out
    assert done.seconds > 1
    assert len(sent) == len(rows) == 2
