import asyncio
import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from support.gateways import started

from gatewayctl.session import Session
from server import clock
from server.billing import subscriptions
from server.store.models import Subscription
from server.tenants import tenants
from server.tenants.keys import Scope

NONE = {"object": "subscription", "tier": None, "status": "none", "quota": None}
FIELDS = [
    *("object", "tier", "status", "cancel_at", "current_period_end"),
    *("window_seconds", "limit_tokens", "used_tokens", "held_tokens", "remaining_tokens"),
    *("limit_requests", "used_requests", "window_started_at", "resets_at"),
]


@pytest.fixture
def limited(ready, config):
    """Give the tier of the config a limit."""
    config("quota_tokens: null\n    quota_requests: null", "quota_tokens: 1000")


@pytest.fixture
def use(ready):
    """Write the row of the tenant `default` as the quota's own statements would."""

    def write(**columns):
        with Session().changing():
            tenant = tenants.find("default")
            Subscription.update(columns).where(Subscription.tenant == tenant).execute()

    return write


@pytest.fixture
def at_stripe(ready):
    """Let Stripe manage the subscription of the tenant `default`."""
    with Session().changing():
        told = {"status": "active", "source": "stripe", "stripe_id": "sub_fake"}
        subscriptions.put(tenants.find("default").id, "team", now=clock.now(), **told)


def words(shown):
    """Give the cells of what a terminal shows, without colours and lines, row by row."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    return [re.split(r"\s{2,}", line.strip()) for line in plain.splitlines()]


def test_a_tier_is_given_to_a_tenant_that_has_none(cli, ready):
    cli("tenants", "create", "acme")
    before = cli("subscription", "show", "--tenant", "acme", "--json").json

    done = cli("subscription", "set", "team", "--tenant", "acme")

    shown = cli("subscription", "show", "--tenant", "acme", "--json").json
    assert before == NONE
    assert (done.code, done.out) == (0, "team\n")
    assert "The tenant acme has the tier team now" in done.err
    assert (shown["tier"], shown["status"], shown["quota"]["used_tokens"]) == ("team", "active", 0)


@pytest.mark.parametrize(
    ("verb", "status"), [(("set", "team"), "active"), (("cancel",), "canceled")]
)
def test_every_change_prints_in_json_what_show_does(cli, ready, verb, status):
    done = cli("subscription", *verb, "--json")

    assert done.json["status"] == status
    assert done.out == cli("subscription", "show", "--json").out
    assert done.err == ""


def test_what_is_cancelled_can_be_cancelled_again_and_given_anew(cli, ready):
    ended = [cli("subscription", "cancel") for _ in range(2)]
    shown = cli("subscription", "show").rows

    assert [(done.code, done.out) for done in ended] == [(0, "team\n")] * 2
    assert ["status", "canceled"] in shown
    assert cli("subscription", "set", "team").code == 0
    assert ["status", "active"] in cli("subscription", "show").rows


def test_an_unknown_tier_is_refused_with_near_ones(cli, ready):
    done = cli("subscription", "set", "teem", "--json")

    assert (done.code, done.error["code"]) == (5, "not_found")
    assert done.error["message"] == "There is no tier 'teem'. Did you mean team?"


def test_without_a_subscription_there_is_nothing_to_cancel(cli, ready):
    cli("tenants", "create", "acme")

    assert cli("subscription", "cancel", "--tenant", "acme").code == 5
    assert cli("subscription", "cancel", "--tenant", "nobody").code == 5
    shown = cli("subscription", "show", "--tenant", "acme")
    assert (shown.code, shown.rows[2]) == (0, ["status", "none"])
    assert "`gatewayctl subscription set TIER` gives one" in shown.err


@pytest.mark.parametrize("verb", [("set", "team"), ("cancel",)])
def test_what_stripe_manages_is_left_to_the_portal(cli, at_stripe, verb):
    done = cli("subscription", *verb, "--json")

    assert (done.code, done.error["code"]) == (6, "conflict")
    assert "portal" in done.error["message"]


def test_a_pipe_gets_every_field_on_its_line(cli, limited, use):
    use(window_started_at=clock.now(), used_tokens=600, held_tokens=50, used_requests=3)

    shown = cli("subscription", "show").rows

    assert [row[0] for row in shown] == FIELDS
    facts = {name: value for name, value in shown if name.endswith("_tokens")}
    assert facts == {
        "limit_tokens": "1000",
        "used_tokens": "600",
        "held_tokens": "50",
        "remaining_tokens": "350",
    }


def test_people_see_the_quota_as_bars_and_its_end_in_words(terminal, limited, use):
    began = clock.now() - timedelta(hours=18, minutes=48, seconds=30)
    use(window_started_at=began, used_tokens=600, held_tokens=50, used_requests=3)

    shown = words(terminal("subscription", "show").out)

    assert ["quota of 24 h"] in shown
    rows = {row[0]: row[1:] for row in shown}
    assert rows["used"][0] == "600 of 1,000 tokens"
    assert rows["held"][0] == "50 of 1,000 tokens"
    assert rows["left"][0] == "350 of 1,000 tokens"
    assert [rows[word][1].count("█") for word in ("used", "held", "left")] == [14, 1, 8]
    assert rows["served"] == ["3 requests"]
    assert rows["resets"] == ["in 5 h 12 min"]


def test_people_see_no_bar_where_there_is_no_limit(terminal, ready):
    shown = terminal("subscription", "show").out

    assert ["used", "0 tokens"] in words(shown)
    assert ["resets", "24 h after the next request"] in words(shown)
    assert not {"share", "left"} & {cell for row in words(shown) for cell in row}


def test_a_tier_that_is_gone_from_the_config_is_named(cli, ready, config):
    config("tiers:\n  team:", "tiers:\n  pro:")
    config("default_tier: team", "default_tier: pro")

    shown = cli("subscription", "show")

    assert shown.code == 0
    assert ["tier", "team"] in shown.rows
    assert "The config has no tier team any more" in shown.err


def test_the_api_and_the_command_say_the_same(cli, limited, use, home):
    """Byte for byte, the command's line breaks aside: nobody must see two truths."""
    use(window_started_at=clock.now(), used_tokens=600, held_tokens=50, used_requests=3)

    config = Path("config.yaml").read_text()

    async def scenario():
        async with started(home, config) as gateway:
            _, secret = await gateway.mint(scope=Scope.INFERENCE)
            async with gateway.client(secret) as client:
                return await client.get("/tenant/subscription")

    answer = asyncio.run(scenario())
    shown = cli("subscription", "show", "--json")
    assert answer.json()["quota"]["remaining_tokens"] == 350
    assert answer.content == msgspec.json.encode(shown.json)
