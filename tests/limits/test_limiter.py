"""What passes, what is refused and with which words; and that everything is given back once."""

import msgspec
import pytest

from server.config.schema import Config, Limits, Model, Target, UsageLimits
from server.errors import GatewayError, KeyNotAllowed, RateLimited
from server.limits import limiter
from server.limits.bounds import Bound
from server.limits.bucket import MINUTE_NS, SECOND_NS
from server.limits.limiter import REMEMBERED_OWNERS, Limiter

MODEL = Model(targets=(Target(upstream="demo", model="demo-smart"),), free=True)
MODELS = {"smart": MODEL, "smart-2": MODEL, "fast": MODEL}
CONFIG = Config(upstreams={}, models=MODELS)
SHADOW = msgspec.structs.replace(CONFIG, limits=Limits(mode="shadow"))


class Bench:
    """A limiter and its clock."""

    def __init__(self):
        self.now_ns = 7 * SECOND_NS
        self.limiter = Limiter(lambda: self.now_ns)

    def admit(self, *bounds, model="smart", tokens=0, config=CONFIG):
        return self.limiter.admit(bounds, model, lambda: tokens, config)

    def accounts(self):
        return self.limiter._accounts


@pytest.fixture
def bench():
    return Bench()


def bound(owner="key_1", whose="this key", **limits):
    return Bound(("key", owner), whose, UsageLimits(**limits))


def test_who_has_no_limits_is_asked_nothing(bench):
    passed = bench.limiter.admit((), "smart", lambda: pytest.fail("was estimated"), CONFIG)

    passed.end(100)
    assert passed.would_block is None
    assert not bench.accounts()


def test_requests_at_a_time_are_as_many_as_allowed_and_end_once(bench):
    two = bound(concurrent_requests=2)
    first, _ = bench.admit(two), bench.admit(two)

    for _ in range(3):
        with pytest.raises(RateLimited, match="The limit of 2 requests at a time") as refused:
            bench.admit(two)
    first.end(0)
    first.end(0)
    bench.admit(two)
    with pytest.raises(RateLimited, match="for this key is reached") as refused:
        bench.admit(two)

    assert refused.value.retry_after_s == 1


def test_a_refusal_says_which_limit_of_whom_and_when_to_come_back(bench):
    one = bound(whose="all subscription keys in the tier team together", requests_per_minute=1)
    bench.admit(one)
    bench.now_ns += 18 * SECOND_NS + 1

    with pytest.raises(RateLimited, match="limit") as refused:
        bench.admit(one)

    assert str(refused.value) == (
        "The limit of 1 request per minute for all subscription keys in the tier team together "
        "is reached. Try again in 42 s."
    )
    assert refused.value.retry_after_s == 42
    bench.now_ns += 42 * SECOND_NS
    bench.admit(one)


def test_the_longest_of_several_waits_is_told(bench):
    key = bound(requests_per_minute=60, concurrent_requests=1)
    tier = Bound(("tenant", 1), "the tier", UsageLimits(tokens_per_minute=600))
    bench.admit(key, tier, tokens=600)

    with pytest.raises(RateLimited, match="600 tokens per minute for the tier") as refused:
        bench.admit(key, tier, tokens=300)

    assert refused.value.retry_after_s == 30


def test_what_is_refused_by_one_limit_takes_nothing_of_another(bench):
    key = bound(requests_per_minute=1)
    tier = Bound(("tenant", 1), "the tier", UsageLimits(concurrent_requests=1))
    running = bench.admit(tier)
    for _ in range(5):
        with pytest.raises(RateLimited, match="at a time"):
            bench.admit(key, tier)
    running.end(0)

    bench.admit(key, tier)


def test_tokens_are_what_a_request_came_to_whatever_was_estimated(bench):
    limited = bound(tokens_per_minute=1000)
    bench.admit(limited, tokens=1000).end(100)
    bench.admit(limited, tokens=100).end(900)

    with pytest.raises(RateLimited, match="1,000 tokens per minute") as refused:
        bench.admit(limited, tokens=1)

    assert refused.value.retry_after_s == 1
    with pytest.raises(RateLimited, match="tokens") as refused:
        bench.admit(limited, tokens=1000)
    assert refused.value.retry_after_s == 60


def test_a_model_that_is_left_out_is_refused_with_those_that_are_allowed(bench):
    some = bound(models=("smart*", "nothing"), requests_per_minute=1)

    with pytest.raises(KeyNotAllowed, match="may not use the model `fast`") as refused:
        bench.admit(some, model="fast")
    with pytest.raises(KeyNotAllowed, match="It may use none of those here"):
        bench.admit(some, bound("key_2", models=("fast",)), model="fast")

    assert str(refused.value).endswith("Use one of: `smart`, `smart-2`.")
    assert refused.value.param == "model"
    bench.admit(some, model="smart-2")


@pytest.mark.parametrize(
    ("client", "is_inside"),
    [
        ("10.1.2.3", True),
        ("2001:db8::7", True),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db9::7", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_client_must_be_in_one_of_the_networks(client, is_inside):
    networks = ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")
    bounds = (bound(networks=networks), bound("key_2"))

    assert limiter.is_inside(bounds, client) is is_inside


def test_who_is_outside_is_turned_away_unless_that_is_only_tried(bench):
    assert bench.limiter.turn_away(SHADOW) == "networks"
    with pytest.raises(KeyNotAllowed, match=r"^This API key may not be used from your address\.$"):
        bench.limiter.turn_away(CONFIG)


def test_shadow_lets_all_pass_and_tells_what_would_have_been_refused(bench):
    limits = bound(requests_per_minute=1, models=("smart",))

    passed = [bench.admit(limits, config=SHADOW) for _ in range(3)]
    passed.append(bench.admit(limits, config=SHADOW, model="fast"))
    with pytest.raises(GatewayError, match="1 request per minute") as refused:
        bench.admit(limits)
    for each in passed:
        each.end(0)
        each.end(0)
    bench.limiter.count(refused.value)
    bench.limiter.count(RateLimited("by a provider"))

    assert [each.would_block for each in passed] == [
        None,
        "requests_per_minute",
        "requests_per_minute",
        "models",
    ]
    assert +bench.limiter.hits == {
        ("requests_per_minute", "shadow"): 2,
        ("models", "shadow"): 1,
        ("requests_per_minute", "enforce"): 1,
    }


def test_what_is_judged_anew_was_never_counted(bench):
    limits = bound(models=("smart",))

    undone = bench.admit(limits, config=SHADOW, model="fast")
    with pytest.raises(KeyNotAllowed, match="may not use the model `fast`"):
        bench.admit(limits, model="fast")
    undone.undo()
    undone.end(0)

    assert undone.would_block == "models"
    assert not +bench.limiter.hits


def test_what_shadow_would_have_refused_is_not_counted_against_others(bench):
    one = bound(concurrent_requests=1)
    first = bench.admit(one, config=SHADOW)
    over = bench.admit(one, config=SHADOW)

    first.end(0)
    assert bench.admit(one, config=SHADOW).would_block is None
    over.end(0)
    assert bench.admit(one, config=SHADOW).would_block == "concurrent_requests"


def test_owners_are_forgotten_once_they_have_nothing_out(bench):
    for number in range(3 * REMEMBERED_OWNERS):
        bench.admit(bound(f"key_{number}", requests_per_minute=60)).end(0)
        bench.now_ns += SECOND_NS
    kept = len(bench.accounts())

    assert kept <= REMEMBERED_OWNERS
    running = bound("runs", concurrent_requests=1)
    bench.admit(running)
    bench.now_ns += MINUTE_NS
    for number in range(2 * REMEMBERED_OWNERS):
        bench.admit(bound(f"other_{number}", requests_per_minute=60)).end(0)
        bench.now_ns += SECOND_NS
    with pytest.raises(RateLimited, match="1 request at a time"):
        bench.admit(running)


def test_two_limits_met_at_once_outlive_the_forgetting_of_others(bench):
    """Forgetting must not fall between finding two owners and counting the request."""
    key, tier = bound("a", concurrent_requests=1), bound("b", concurrent_requests=1)
    bench.admit(key).end(0)
    for number in range(REMEMBERED_OWNERS - 1):
        bench.admit(bound(f"key_{number}", requests_per_minute=60)).end(0)

    bench.admit(key, tier)

    with pytest.raises(RateLimited, match="1 request at a time"):
        bench.admit(key)
