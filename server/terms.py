"""What a request may hold, read from the config, its key and its own limits. Pure."""

from datetime import datetime

import msgspec
from msgspec import Struct

from server.billing.holds import Money, Pool, Quota
from server.billing.pricing import UNLIMITED_OUTPUT
from server.billing.scales import InMicros, InQuota, Scale
from server.calls import Call, Plan, Rules
from server.protocols import Protocol
from server.protocols.by_protocol import ESTIMATE
from server.tenants.keys import Billing

RUNAWAY_FACTOR, RUNAWAY_SLACK = 4, 8192
ROUGH_LIMIT_BYTES = 128 * 1024
PREAMBLE_TOKENS = 1024  # what a provider adds of its own: how to use tools, and the like


class Terms(Struct, frozen=True):
    """What a request may hold, and how its hold grows; outputs are of all choices together."""

    pool: Pool | None  # None: a free model, nothing is held
    scale: Scale | None  # what its tokens come to; None likewise
    grows: bool  # slice by slice; else all of it is held at once
    is_strict: bool
    input_tokens: int  # an estimate; where strict a bound
    most_output: int
    first_output: int  # what it is held for at first, where the hold grows
    slice_tokens: int
    runaway_output: int  # a stream that comes to more has forgotten its limit, and is cut
    least_output: int
    assumed_tokens_per_s: int
    limit_field: str  # what the upstream calls a limit of output


def terms_of(call: Call, plan: Plan, rules: Rules, now: datetime) -> Terms:
    """Settle the terms of a request.

    One without a limit of its own is taken to want the model's `max_output_tokens`; a stream
    that grows may come to more, and is held for as it does.
    """
    request, billing = plan.request, rules.config.billing
    is_strict = billing.hold == "strict"
    grows = plan.streamed and not is_strict
    usual = _usual_output(plan, rules)
    most = UNLIMITED_OUTPUT if grows and request.max_tokens is None else usual
    return Terms(
        pool=_pool(call, plan, rules, now),
        scale=scale_of(call, plan, rules, is_sure=is_strict),
        grows=grows,
        is_strict=is_strict,
        input_tokens=len(plan.payload) + PREAMBLE_TOKENS if is_strict else estimate(plan),
        most_output=most,
        first_output=min(usual, billing.hold_slice_tokens),
        slice_tokens=billing.hold_slice_tokens,
        # What is counted here is a guess, and may be twice the truth; nobody is cut for that.
        runaway_output=RUNAWAY_FACTOR * most + RUNAWAY_SLACK,
        least_output=(billing.min_output_tokens + _thinking_budget(plan)) * request.choices,
        assumed_tokens_per_s=billing.assumed_tokens_per_s,
        limit_field=_limit_field(plan, rules),
    )


def estimate(plan: Plan) -> int:
    """Estimate a request's input tokens for a hold, which the provider's own count soon mends.

    A request of ordinary size is taken at 5 tokens for 16 bytes, and where UTF-8 takes several
    bytes for a character at half a token for each more: that is right to a half for prose in
    six languages and for code, as measured on the samples of `docs/tokens.md`. To look closer
    costs 1.6 ms for 60 KB, five times what all else does. Large ones may hold images, and are.
    """
    payload = plan.payload
    if len(payload) > ROUGH_LIMIT_BYTES:
        return ESTIMATE[plan.protocol](plan.fields)
    beyond = 0 if payload.isascii() else len(payload) - len(payload.decode(errors="replace"))
    return (len(payload) - beyond) * 5 // 16 + beyond // 2 + 1


def scale_of(call: Call, plan: Plan, rules: Rules, *, is_sure: bool) -> Scale | None:
    """Choose what a request is counted in: its key's quota, or money; None where it is free."""
    if call.caller.billing is Billing.SUBSCRIPTION:
        return InQuota(rules.weights)
    return None if plan.price is None else InMicros(plan.price, plan.extras, is_sure)


def _pool(call: Call, plan: Plan, rules: Rules, now: datetime) -> Pool | None:
    if call.caller.billing is Billing.SUBSCRIPTION:
        return Quota(call.caller.tenant_id, rules.limits, now)
    return None if plan.price is None else Money(call.caller.tenant_id)


def _limit_field(plan: Plan, rules: Rules) -> str:
    if plan.protocol is Protocol.ANTHROPIC:
        return "max_tokens"
    return rules.compat[plan.target.upstream].max_tokens_field


def _usual_output(plan: Plan, rules: Rules) -> int:
    limit = plan.request.max_tokens
    if limit is None:
        limit = rules.config.models[plan.model].max_output_tokens
    # Beyond that a hold would not fit into the database's 64-bit integers.
    return min(limit * plan.request.choices, UNLIMITED_OUTPUT)


def _thinking_budget(plan: Plan) -> int:
    """Read how much a request wants to think: its limit must stay above that."""
    raw = plan.fields.get("thinking")
    try:
        return 0 if raw is None else max(0, _THINKING.decode(raw).budget_tokens or 0)
    except (ValueError, RecursionError):
        return 0


class _Thinking(msgspec.Struct):
    budget_tokens: int | None = None


_THINKING = msgspec.json.Decoder(_Thinking)
