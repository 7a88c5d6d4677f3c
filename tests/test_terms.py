"""The terms of a request: what it may hold, and what is asked for of its balance or quota."""

import pytest
from msgspec.structs import replace
from support.money import NOW, SMART, config

from server.billing.allowance import Limits
from server.billing.holds import Money, Quota
from server.billing.pricing import UNLIMITED_OUTPUT
from server.billing.rates import price_of
from server.billing.scales import InMicros, InQuota
from server.calls import Call, Plan, Rules
from server.config.schema import Billing as Holding
from server.config.schema import Model, Target, Tier
from server.protocols import UPSTREAM_PROTOCOLS, Protocol, body
from server.protocols.by_protocol import ESTIMATE
from server.protocols.extras import NONE, Extras
from server.tenants.keys import Billing, Caller, Scope
from server.terms import PREAMBLE_TOKENS, ROUGH_LIMIT_BYTES, estimate, terms_of

TARGET = Target(upstream="demo", model="demo-smart")
PRICE = price_of("smart", Model(targets=(TARGET,), price=SMART))
READ = {Protocol.ANTHROPIC: body.read_messages, Protocol.OPENAI: body.read_chat}
HELLO = b'"model":"smart","messages":[{"role":"user","content":"hello"}]'


def call(protocol, billing=Billing.PAY_PER_TOKEN):
    caller = Caller(1, "key_1", 7, None, billing, Scope.INFERENCE, None)
    return Call(caller, protocol, None, {}, b"", "req_1")


def plan(fields=b"", protocol=Protocol.ANTHROPIC, *, price=PRICE, extras=NONE):
    payload = b"{" + HELLO + fields + b"}"
    request = READ[protocol](payload)
    return Plan(
        request=request,
        model="smart",
        target=TARGET,
        protocol=protocol,
        streamed=request.stream,
        fields=request.fields,
        payload=payload,
        price=price,
        extras=extras,
        names={},
    )


def terms(fields=b"", protocol=Protocol.ANTHROPIC, *, billing=None, **options):
    tiers = {"solo": Tier(name="Solo", price_cents=1, quota_tokens=1000)}
    limits = {name: options.pop(name) for name in ("max_output_tokens",) if name in options}
    told = config({"smart": SMART}, billing=Holding(**options.pop("hold", {})), tiers=tiers)
    models = {name: replace(model, **limits) for name, model in told.models.items()}
    rules = Rules.of(replace(told, models=models), {}, {})
    called = call(protocol, billing or Billing.PAY_PER_TOKEN)
    return terms_of(called, plan(fields, protocol, **options), rules, NOW)


def test_a_key_that_pays_per_token_holds_money():
    found = terms(extras=Extras((("web_search", 3),)))

    assert found.pool == Money(7)
    assert found.scale == InMicros(PRICE, Extras((("web_search", 3),)))


def test_a_free_model_holds_nothing():
    found = terms(price=None)

    assert (found.pool, found.scale) == (None, None)


@pytest.mark.parametrize("price", [PRICE, None])
def test_a_subscription_key_holds_quota_even_where_the_model_is_free(price):
    found = terms(billing=Billing.SUBSCRIPTION, price=price)

    assert found.pool == Quota(7, {"solo": Limits(1000, None)}, NOW)
    assert isinstance(found.scale, InQuota)


@pytest.mark.parametrize(
    ("fields", "hold", "grows"),
    [
        (b',"stream":true', "incremental", True),
        (b',"stream":false', "incremental", False),
        (b"", "incremental", False),
        (b',"stream":true', "strict", False),
        (b"", "strict", False),
    ],
)
def test_only_a_stream_that_is_not_strict_grows(fields, hold, grows):
    found = terms(fields, hold={"hold": hold})

    assert (found.grows, found.is_strict) == (grows, hold == "strict")


@pytest.mark.parametrize(
    ("fields", "protocol", "most"),
    [
        (b',"max_tokens":300', Protocol.ANTHROPIC, 300),
        (b"", Protocol.ANTHROPIC, 32_000),
        (b',"max_tokens":300,"n":3', Protocol.OPENAI, 900),
        (b',"max_completion_tokens":200', Protocol.OPENAI, 200),
        (b',"n":3', Protocol.OPENAI, 96_000),
        (b',"max_tokens":2147483647,"n":3', Protocol.OPENAI, UNLIMITED_OUTPUT),
    ],
)
def test_the_most_output_is_what_is_asked_for_or_the_models_own_limit(fields, protocol, most):
    assert terms(fields, protocol).most_output == most


@pytest.mark.parametrize(
    ("fields", "first", "most"),
    [
        (b"", 8192, UNLIMITED_OUTPUT),
        (b',"max_tokens":300', 300, 300),
        (b',"max_tokens":90000', 8192, 90_000),
    ],
)
def test_a_stream_is_held_slice_by_slice_for_all_that_may_come(fields, first, most):
    """Where nothing limits it, the model's own limit may be set too low."""
    found = terms(b',"stream":true' + fields)

    assert (found.first_output, found.most_output) == (first, most)


def test_a_stream_without_a_limit_is_held_at_first_for_the_models_own():
    assert terms(b',"stream":true', max_output_tokens=1000).first_output == 1000


@pytest.mark.parametrize(
    ("fields", "protocol", "least"),
    [
        (b"", Protocol.ANTHROPIC, 256),
        (b',"n":3', Protocol.OPENAI, 768),
        (b',"thinking":{"type":"enabled","budget_tokens":4000}', Protocol.ANTHROPIC, 4256),
        (b',"thinking":{"type":"disabled"}', Protocol.ANTHROPIC, 256),
        (b',"thinking":{"type":"enabled","budget_tokens":-4000}', Protocol.ANTHROPIC, 256),
        (b',"thinking":{"budget_tokens":null}', Protocol.ANTHROPIC, 256),
        (b',"thinking":{"budget_tokens":"4000"}', Protocol.ANTHROPIC, 256),
        (b',"thinking":{"budget_tokens":1e99}', Protocol.ANTHROPIC, 256),
        (b',"thinking":[1,2]', Protocol.ANTHROPIC, 256),
        (b',"thinking":null', Protocol.ANTHROPIC, 256),
    ],
)
def test_the_least_output_leaves_room_beyond_the_thinking(fields, protocol, least):
    """A limit below the thinking budget would be refused by the provider."""
    assert terms(fields, protocol).least_output == least


def test_the_config_says_how_holds_grow():
    hold = {"hold_slice_tokens": 100, "assumed_tokens_per_s": 7, "min_output_tokens": 9}

    found = terms(b',"stream":true', hold=hold)

    assert (found.slice_tokens, found.assumed_tokens_per_s, found.least_output) == (100, 7, 9)


def test_a_strict_hold_bounds_the_input_by_its_bytes():
    """No tokenizer makes more tokens than there are bytes."""
    payload = plan().payload

    assert terms(hold={"hold": "strict"}).input_tokens == len(payload) + PREAMBLE_TOKENS
    assert terms().input_tokens == len(payload) * 5 // 16 + 1


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (b"x" * 1000, 1000 * 5 // 16),
        ("日本語".encode() * 300, 900 * 5 // 16 + 900),
        ("Дом".encode() * 300, 900 * 5 // 16 + 450),
        ("👍".encode() * 300, 300 * 5 // 16 + 450),
    ],
)
@pytest.mark.parametrize("protocol", UPSTREAM_PROTOCOLS)
def test_a_request_of_ordinary_size_is_estimated_by_its_length_alone(content, tokens, protocol):
    empty = estimate(plan(b',"metadata":{"note":""}', protocol))

    found = estimate(plan(b',"metadata":{"note":"' + content + b'"}', protocol))

    assert abs(found - empty - tokens) <= 1


@pytest.mark.parametrize("protocol", UPSTREAM_PROTOCOLS)
def test_a_large_request_is_looked_at(protocol):
    found = plan(b',"metadata":{"note":"' + b"x" * ROUGH_LIMIT_BYTES + b'"}', protocol)

    assert estimate(found) == ESTIMATE[protocol](found.fields)
