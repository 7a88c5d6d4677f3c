"""What a person sees in a real codex when the gateway or the provider says no."""

import pytest
from support.clients import codex
from support.stages import stage
from support.tee import tee
from support.wires import run

pytestmark = pytest.mark.clients

TRIES = 6  # it takes some seconds over what it tries again, whatever `x-should-retry` says


@pytest.fixture
def refused(tmp_path):
    """Run codex where it cannot work; give all it said, its requests and the rows."""

    def call(model="demo-smart", *, asked="auto", **money):
        async def scenario():
            async with (
                stage(tmp_path / "gateway", model=model, **money) as (_, gateway),
                tee(gateway.url) as front,
            ):
                client = codex(
                    tmp_path / "home", f"{front.url}/codex/v1", gateway.secret, model=asked
                )
                return await client.run(), front.requests, await gateway.rows()

        done, sent, rows = run(scenario)
        assert done.code == 1
        assert "gwk_" not in done.said
        return done.said, sent, rows

    return call


def test_an_empty_balance_is_told_in_our_words(refused):
    said, sent, rows = refused(usd=0)

    assert "402 Payment Required: Insufficient balance: this request needs $0." in said
    assert "and $0.00 is available. Top up" in said
    assert (len(sent), rows) == (TRIES, [])


def test_a_rate_limit_is_waited_for_and_then_told_with_the_requests_id(refused):
    """The provider's words are passed on, but it hides those of every 429."""
    said, sent, rows = refused("fault:ratelimit:1")

    told = "exceeded retry limit, last status: 429 Too Many Requests, request id: "
    assert told + rows[-1]["request_id"] in said
    assert len(sent) == len(rows) == TRIES
    assert {(row["status"], row["error"]) for row in rows} == {(429, "rate_limited")}


def test_an_unknown_model_ends_at_once_in_our_words(refused):
    said, sent, rows = refused(asked="no-such-model")

    assert 'ERROR: There is no model "no-such-model".' in said
    assert (len(sent), rows) == (1, [])


def test_a_prompt_that_is_too_long_is_recognised_through_us(refused):
    said, sent, (row,) = refused("fault:toolong")

    assert "Codex ran out of room in the model's context window." in said
    assert len(sent) == 1
    assert (row["status"], row["error"]) == (400, "prompt_too_long")


def test_a_provider_that_breaks_off_is_tried_again_and_told_in_our_words(refused):
    said, sent, rows = refused("fault:cut")

    assert "stream disconnected before completion: The provider cut its answer short." in said
    assert len(sent) == len(rows) == TRIES
    assert {(row["status"], row["outcome"]) for row in rows} == {(200, "upstream_error")}
